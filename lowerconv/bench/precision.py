"""Numbers of fewer bits: speed and memory of whole networks, and a roofline for each type.

Inference with `Module.compile`, of float32, of 16 bits between layers, and of 8-bit integers; of
networks prepared for 4 bits and for ternary weights, which become integer networks as well.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from lowerconv import nn
from lowerconv.bench import draw
from lowerconv.bench.bandwidth import memory_bandwidth
from lowerconv.bench.case import Case, Options
from lowerconv.bench.interleaved import Run
from lowerconv.bench.microkernels import ROOFS, microkernel_peaks
from lowerconv.bench.result import Result, Row
from lowerconv.bench.roofline import bandwidth
from lowerconv.bench.show import caption, ms, new_table, percent, times
from lowerconv.bench.study import Study
from lowerconv.copying import not_copied
from lowerconv.nn.memory import Arena
from lowerconv.nn.models import MODELS
from lowerconv.nn.program import Program
from lowerconv.nn.recording import make_graph
from lowerconv.quant import prepare, quantize

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLOAT = "float32"
NETWORKS = ("resnet20", "googlenet", "resnet50")
HALVES = ("bf16", "fp16")
BITS: dict[str, dict[str, Any]] = {
    "int8": {},
    "4 bits": {"weight_bits": 4, "activation_bits": 4},
    "ternary": {"ternary_weights": True},
}
NUMBERS = (FLOAT, *HALVES, *BITS)
# What multiplies them: fp16 is converted, and all codes are bytes, or of 2 bits.
ROOF = dict.fromkeys(NUMBERS, "int8") | {FLOAT: FLOAT, "bf16": "bf16", "fp16": FLOAT}
CALIBRATION = 8  # images


@not_copied("make another from its arguments")
class Inference:
    """Calls compute the scores of a batch; beside it stands what that takes.

    Parameters
    ----------
    network : Module
    images : ndarray
    """

    def __init__(self, network: nn.Module, images: np.ndarray) -> None:
        self._compiled, self._images = network.compile(images.shape), images
        graph = make_graph(network, images.shape, images.dtype, False, constant=True)
        program = Program(network, graph, False, False, Arena(), constant=True)
        report = program.report(network)
        nodes = program.graph.nodes
        self._details = {
            "flops": sum(node.layer.flops(*(x.shape for x in node.operands)) for node in nodes),
            # Weights read, and what layers pass on written and read: each once.
            "bytes": report.parameters + 2 * report.activations + images.nbytes,
            "memory": report.total,
        }

    def __call__(self) -> np.ndarray:
        """Return the scores."""
        return self._compiled(self._images)

    def details(self) -> dict[str, int]:
        """Return operations, bytes that have to be moved, and bytes of memory."""
        return self._details


def network_of(model: str) -> nn.Module:
    """Return a network of random weights, with statistics of batch norm as they make them."""
    network = MODELS[model].build(**({"auxiliary": False} if model == "googlenet" else {}))
    network.initialize(np.random.default_rng(1))
    network.run(images_of(model, CALIBRATION), nn.Step(training=True))
    return network


def images_of(model: str, count: int) -> np.ndarray:
    """Return random images."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((count, *MODELS[model].image_shape), np.float32)


def with_numbers(network: nn.Module, name: str, images: np.ndarray) -> nn.Module:
    """Return a network that computes with one of `NUMBERS`, made of one of float32."""
    if name not in BITS:
        network.precision = name
        return network
    if BITS[name]:
        network = prepare(copy.deepcopy(network), **BITS[name])
        network.run(images, nn.Step(training=True))  # which gives the first steps
    return quantize(network, images)


def _runs(model: str, batch: int, names: Iterable[str]) -> dict[str, Run]:
    network, images = network_of(model), images_of(model, batch)
    calibration = images_of(model, CALIBRATION)
    runs = {}
    for name in names:
        runs[name] = Inference(with_numbers(network, name, calibration), images)
        network.precision = FLOAT
    return dict(runs)


def cases(options: Options) -> list[Case]:
    """Return a case for each network; types of numbers are its candidates."""
    batch = options.images
    return [
        Case({"network": model}, NUMBERS, partial(_runs, model, batch), agree=False)
        for model in NETWORKS
    ]


def conditions(threads: int) -> dict[str, float]:
    """Return what memory gives, and what register tiles of each type give."""
    return memory_bandwidth(threads) | microkernel_peaks(threads)


def peak(result: Result, name: str) -> float:
    """Return the most operations per second that a type of numbers can have.

    Where its own products are slower than converting it, those of float32.
    """
    return max(result.conditions[ROOF[name]], result.conditions[FLOAT])


def intensity(row: Row, name: str) -> float:
    """Return operations per byte that has to be moved."""
    details = row.facts["details"][name]
    return details["flops"] / details["bytes"]


def roof(result: Result, name: str, at: float) -> float:
    """Return the most operations per second at an intensity."""
    return min(peak(result, name), bandwidth(result) * at)


def speed(row: Row, name: str) -> float:
    """Return the operations per second of a network."""
    return row.facts["details"][name]["flops"] / row.median(name)


def tables(result: Result) -> list[Table]:
    """Return speed and memory of each network and type of numbers."""
    table = new_table(
        "inference with numbers of fewer bits",
        ["network", "numbers"],
        ["ms", "images/s", "times\nfloat32", "MiB", "op/byte", "Gop/s", "% of\nroof"],
    )
    for row in result.rows:
        for name in row.seconds:
            details, at = row.facts["details"][name], intensity(row, name)
            table.add_row(
                row.labels["network"],
                name,
                ms(row.median(name)),
                f"{result.setting['batch'] / row.median(name):.1f}",
                times(row.gain(name, FLOAT)),
                f"{details['memory'] / 2**20:.1f}",
                f"{at:.0f}",
                f"{speed(row, name) / 1e9:.0f}",
                percent(speed(row, name) / roof(result, name, at)),
            )
        table.add_section()
    return [table]


def notes(result: Result) -> list[str]:
    """Return the lines below the table."""
    given = result.conditions
    rates = ", ".join(f"{name} {given[name] / 1e9:.0f}" for name in ROOFS)
    return [
        *caption(result, ""),
        f"roofs: register tiles in L1, Gop/s: {rates}; memory {bandwidth(result) / 1e9:.0f} GB/s; "
        "of fp16 that of float32",
        "MiB: weights, the arena and scratch of a compiled network; op/byte: weights read once, "
        "what layers pass on written and read once",
        "4 bits: codes are bytes, multiplied as those of int8, as are ternary weights where that "
        "costs less than to skip zeros; random weights: docs/precision.md has accuracies of "
        "trained ones",
    ]


def plot(result: Result, figure: Figure) -> None:
    """Draw a line for each type that is multiplied, and a dot for each network and type."""
    axes = figure.subplots()
    figure.set_size_inches(10, 6.5)
    points = [intensity(row, name) for row in result.rows for name in row.seconds]
    ridges = [result.conditions[name] / bandwidth(result) for name in ROOFS]
    low, high = min(*points, *ridges) / 3, max(*points, *ridges) * 3
    for place, name in enumerate(ROOFS):
        most, ridge = result.conditions[name], ridges[place]
        heights = [bandwidth(result) * low / 1e9, most / 1e9, most / 1e9]
        axes.plot([low, ridge, high], heights, draw.OTHERS[place].line, color="black")
        axes.annotate(
            f"{name}: {most / 1e9:.0f} Gop/s",
            (high, most / 1e9),
            xytext=(0, 4),
            textcoords="offset points",
            ha="right",
        )
    axes.annotate(
        f"memory: {bandwidth(result) / 1e9:.0f} GB/s",
        (low * 1.2, bandwidth(result) * low * 1.2 / 1e9),
        xytext=(6, -12),
        textcoords="offset points",
    )
    looks = [*draw.STYLES.values(), *draw.OTHERS]
    for name, look in zip(NUMBERS, looks, strict=False):
        rows = [row for row in result.rows if name in row.seconds]
        axes.plot(
            [intensity(row, name) for row in rows],
            [speed(row, name) / 1e9 for row in rows],
            look.marker,
            linestyle="none",
            color=look.colour,
            markeredgecolor="black",
            markersize=8,
            label=name,
        )
    for row in result.rows:
        name = next(iter(row.seconds))
        axes.annotate(
            row.labels["network"],
            (intensity(row, name), speed(row, name) / 1e9),
            xytext=(0, -14),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations per byte of weights and of what layers pass on")
    axes.set_ylabel("Gop/s")
    axes.set_ylim(top=2 * max(result.conditions[name] for name in ROOFS) / 1e9)
    axes.grid(which="both", alpha=0.25)
    figure.legend(ncols=len(NUMBERS), loc="outside lower center", fontsize=8)
    figure.suptitle(draw.heading("Fewer bits", result))


STUDY = Study(
    name="precision",
    summary="images/s and memory of networks of float32, bf16, fp16, int8, 4 bits, ternary",
    cases=cases,
    tables=tables,
    notes=notes,
    draw=plot,
    batch=8,
    has_layers=False,
    conditions=conditions,
)
