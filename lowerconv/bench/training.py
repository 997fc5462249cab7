"""Where a training step spends its time: the library's own models, layer by layer.

A network tells when a layer is done; nothing in `lowerconv.nn` knows that it is timed.
"""

from __future__ import annotations

import inspect
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from lowerconv import nn
from lowerconv.bench import draw, published
from lowerconv.bench.case import REFERENCE, Case, Options
from lowerconv.bench.interleaved import Run
from lowerconv.bench.result import Result, Row
from lowerconv.bench.show import NONE, caption, ms, new_table, percent
from lowerconv.bench.study import Study
from lowerconv.copying import not_copied
from lowerconv.nn.frame import Frame
from lowerconv.nn.models import MODELS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MODEL_NAMES = ("lenet", "cifar10_quick")
ALGORITHMS = ("auto", REFERENCE)
CLASSES = 10
CONVOLUTION, REST = "convolution", "rest"
KINDS = {
    nn.Conv2d: CONVOLUTION,
    nn.Linear: "fully connected",
    nn.MaxPool2d: "pooling",
    nn.AvgPool2d: "pooling",
    nn.ReLU: "activation",
    nn.Dropout: "activation",
}
LOSS, UPDATE = "loss", "update"
PARTS = (*dict.fromkeys(KINDS.values()), LOSS, UPDATE, REST)
HEADS = {CONVOLUTION: "conv", "fully connected": "linear", "pooling": "pool", "activation": "act."}


@not_copied("make another from its arguments")
class TrainingStep:
    """Calls are training steps of a network; each notes what every kind of layer takes.

    A ReLU that a layer applies to its own result counts with that layer.

    Parameters
    ----------
    model : str
        One of `MODELS`.
    batch : int
    algorithm : str
        Of the convolutions.
    """

    def __init__(self, model: str, batch: int, algorithm: str) -> None:
        build = MODELS[model].build
        shape = inspect.signature(build).parameters["image_shape"].default
        rng = np.random.default_rng(0)
        self.network = build(shape, CLASSES, algorithm)
        self.network.initialize(rng)
        self.images = rng.standard_normal((batch, *shape), np.float32)
        self.labels = rng.integers(CLASSES, size=batch)
        # The weights stay as they are, so that every step is the same work.
        self.optimizer = nn.SGD(self.network, lr=0.0, momentum=0.9)
        self.step = nn.Step(training=True)
        self.spent: list[dict[str, float]] = []
        self.flops: dict[str, int] = {}
        self._since = 0.0
        self.network.register_watch(self._note)

    def _note(self, layer: nn.Layer, frame: Frame, phase: str) -> None:
        """Add the time since the last layer to those of a kind."""
        now = time.perf_counter()
        self.spent[-1][KINDS.get(type(layer), REST)] += now - self._since
        self._since = now
        if isinstance(layer, nn.Conv2d) and phase == "forward":
            passes = 2 if frame.dx is None else 3  # nobody needs the images' gradient
            self.flops[frame.name] = layer.flops(frame.x.shape) * passes

    def _timed(self, kind: str, call: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        result = call()
        self.spent[-1][kind] += time.perf_counter() - begin
        return result

    def __call__(self) -> None:
        """Train one step."""
        self.spent.append(dict.fromkeys(PARTS, 0.0))
        begin = self._since = time.perf_counter()
        scores = self.network.run(self.images, self.step)
        loss = self._timed(LOSS, partial(nn.softmax_cross_entropy, scores, self.labels))
        self._since = time.perf_counter()
        self.network.backward(loss.gradient)
        self._timed(UPDATE, self.optimizer.step)
        parts = self.spent[-1]
        parts[REST] += time.perf_counter() - begin - sum(parts.values())

    def details(self) -> dict[str, Any]:
        """Return the median seconds of each kind, and the FLOP of the convolutions."""
        warm = self.spent[1:] or self.spent  # the first may have compiled
        return {
            "seconds": {kind: statistics.median(parts[kind] for parts in warm) for kind in PARTS},
            "flops": sum(self.flops.values()),
        }


def cases(options: Options) -> list[Case]:
    """Return a case for each model; algorithms are its candidates."""
    found = []
    for model in MODEL_NAMES:
        batch = options.batch or MODELS[model].batch
        labels = {"model": model, "batch": str(batch)}
        found.append(Case(labels, ALGORITHMS, partial(_runs, model, batch), agree=False))
    return found


def _runs(model: str, batch: int, names: Iterable[str]) -> dict[str, Run]:
    return {name: TrainingStep(model, batch, name) for name in names}


def shares(row: Row, name: str) -> dict[str, float]:
    """Return the share of each kind in a step of a candidate; they add up to one."""
    seconds = row.facts["details"][name]["seconds"]
    whole = sum(seconds.values())
    return {kind: seconds[kind] / whole for kind in PARTS}


def _speed(row: Row, name: str) -> float:
    """Return the FLOP/s of the convolutions while they run."""
    details = row.facts["details"][name]
    return details["flops"] / details["seconds"][CONVOLUTION]


def tables(result: Result) -> list[Table]:
    """Return the time of a step of each model and algorithm, and its shares."""
    table = new_table(
        "training step: share of each kind of layer, forward and backward",
        ["model, batch", "algorithm"],
        ["ms", *(HEADS.get(part, part) for part in PARTS), "% of\npeak"],
    )
    for row in result.rows:
        for name in row.seconds:
            parts = shares(row, name)
            table.add_row(
                str(row),
                name,
                ms(row.median(name)),
                *(percent(parts[kind]) for kind in PARTS),
                percent(_speed(row, name) / result.conditions["peak"]),
            )
    table.add_section()
    claim = percent(published.claim("convolution_share"))
    table.add_row("published", "", "", claim, *[NONE] * (len(PARTS) - 1), "")
    return [table]


def notes(result: Result) -> list[str]:
    """Return the lines below the table."""
    peak = result.conditions["peak"]
    speed, name = max((_speed(row, name), name) for row in result.rows for name in row.seconds)
    return [
        *caption(result, f"convolutions of {name} reach up to {speed / peak:.0%} of it"),
        "linear: fully connected layers; act.: activation; % of peak: convolutions while they run",
        "random images; loss and update (SGD with momentum) are parts of a step, reading data is "
        f"not; {REST}: reshaping, and Python between the layers",
        "published: share of convolution in a CNN's training on a CPU, Sakiyama et al.",
    ]


def plot(result: Result, figure: Figure) -> None:
    """Draw each step as a bar made of its kinds, and the published share as a line."""
    axes = figure.subplots()
    bars = [(row, name) for row in result.rows for name in row.seconds]
    looks = [draw.STYLES[name] for name in ("fused", "lowering", "pipelined", "direct")]
    looks += [draw.STYLES["published"], *draw.OTHERS]
    left = [0.0] * len(bars)
    for kind, look in zip(PARTS, looks, strict=False):
        widths = [100 * shares(row, name)[kind] for row, name in bars]
        axes.barh(range(len(bars)), widths, left=left, label=kind, **draw.fill(look))
        left = [a + b for a, b in zip(left, widths, strict=True)]
    claim = 100 * published.claim("convolution_share")
    axes.axvline(claim, color="white", linewidth=4)  # to be seen on light and on dark bars
    axes.axvline(claim, color="black", linestyle="--")
    axes.text(
        claim,
        -0.65,
        f"convolution, as published: {claim:.0f}%",
        ha="center",
        va="center",
        bbox={"facecolor": "white", "edgecolor": "black"},
    )
    axes.set_yticks(
        range(len(bars)),
        [
            f"{row.labels['model']}, batch {row.labels['batch']}\n{name}, {ms(row.median(name))} ms"
            for row, name in bars
        ],
    )
    axes.set_ylim(len(bars) - 0.5, -0.95)
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of a training step (%)")
    figure.legend(ncols=len(PARTS), loc="outside lower center")
    figure.suptitle(draw.heading("Training step", result))


STUDY = Study(
    name="training",
    summary="where a training step of lenet and cifar10_quick spends its time",
    cases=cases,
    tables=tables,
    notes=notes,
    draw=plot,
    has_layers=False,
)
