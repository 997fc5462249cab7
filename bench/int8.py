"""Networks of 8-bit integers beside float32, ONNX Runtime and OpenVINO, all timed in turns.

    python -m bench.int8 [--models resnet50 googlenet mobilenet_v2] [--batches 1 16]
                         [--threads 2] [--rounds 5] [--seconds 2]

`lowerconv.quantize` makes each network; the others read the QDQ file that it writes, so that all
compute the same.  What is printed are times over ours: above 1 we are faster.  ``float32`` is the
same network before, of this library.
"""

from __future__ import annotations

import argparse
import io
import statistics
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import lowerconv as lc
from bench import peers
from bench.network_peers import NETWORKS, data, image_shape, options_of, torch_network
from lowerconv import nn
from lowerconv.bench.interleaved import SETTLE, Run, geometric_mean, median_ratio, times
from lowerconv.bench.load import DISTURBED, Others
from lowerconv.nn.models import MODELS
from lowerconv.onnx.fallback import open_session

OURS, FLOAT, ORT, OPENVINO = "lowerconv int8", "float32", "ONNX Runtime int8", "OpenVINO int8"
CALIBRATION = 8  # images


def network_of(model: str) -> nn.Module:
    """Return a network of random weights, with statistics of batch norm as they make them."""
    if model in MODELS:
        network = MODELS[model].build(**options_of(model))
        network.initialize(np.random.default_rng(1))
    else:
        import torch

        torch.manual_seed(1)
        made = torch_network(model).train()
        network = lc.torch.to_native(made, torch.zeros(2, *image_shape(model)))
    images, _ = data(model, CALIBRATION)
    network.run(images, nn.Step(training=True))
    return network


def runs_of(model: str, batch: int, threads: int) -> dict[str, Run]:
    """Return a call of each candidate."""
    network = network_of(model)
    integer = lc.quantize(network, data(model, CALIBRATION)[0])
    images, _ = data(model, batch)
    plain, quantized, file = network.compile(images.shape), integer.compile(images.shape), None
    runs: dict[str, Run] = {OURS: lambda: quantized(images), FLOAT: lambda: plain(images)}
    if not peers.is_missing("onnx"):
        file = io.BytesIO()
        integer.save_onnx(file, images.shape)
    if file is not None and not peers.is_missing("onnxruntime"):
        session = open_session(file.getvalue(), "bench.int8")
        name = session.get_inputs()[0].name
        runs[ORT] = lambda: session.run(None, {name: images})
    if file is not None and not peers.is_missing("openvino"):
        runs[OPENVINO] = peers.openvino(file.getvalue(), {"x": images}, threads)
    return runs


def measure(model: str, batch: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the times of all candidates."""
    runs, others = runs_of(model, batch, options.threads), Others()
    seconds = times(runs, options.seconds, SETTLE, options.rounds)
    return {"name": f"{model}, {batch}", "seconds": seconds, "others": others.cores()}


def table_of(rows: list[dict[str, Any]]) -> Table:
    """Return the table of all networks."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("network, batch", no_wrap=True)
    for title in ("ms", FLOAT, ORT, OPENVINO):
        table.add_column(title, justify="right")
    found: dict[str, list[float]] = {name: [] for name in (FLOAT, ORT, OPENVINO)}
    for row in rows:
        seconds = row["seconds"]
        cells = [row["name"], f"{1e3 * statistics.median(seconds[OURS]):.2f}"]
        for name, ratios in found.items():
            if name in seconds:
                ratios.append(median_ratio(seconds[name], seconds[OURS]))
            cells.append(f"{ratios[-1]:.2f}" if name in seconds else "")
        table.add_row(*cells)
    means = [f"{geometric_mean(r):.2f}" if r else "" for r in found.values()]
    table.add_row("geometric mean", "", *means)
    return table


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = ("resnet50", "googlenet", "mobilenet_v2")
    parser.add_argument("--models", nargs="+", choices=NETWORKS, default=default)
    parser.add_argument("--batches", nargs="+", type=int, default=(1, 16))
    parser.add_argument("--threads", type=int, default=lc.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5, help="at least (%(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a comparison (%(default)s)")
    options = parser.parse_args()
    lc.set_num_threads(options.threads)
    console = Console(width=100, markup=False, highlight=False)
    console.print(lc.machine_report()["cpu"]["name"], peers.versions("openvino"), sep=", ")
    rows = []
    for model in options.models:
        for batch in options.batches:
            rows.append(measure(model, batch, options))
            console.print(table_of(rows[-1:]))
    console.print(f"{options.threads} threads; others: their time over ours")
    console.print(table_of(rows))
    if any(row["others"] > DISTURBED for row in rows):
        console.print("other programs took a part of the machine meanwhile")


if __name__ == "__main__":
    main()
