"""Networks in bf16 beside float32, PyTorch's bf16 autocast and OpenVINO's bf16, timed in turns.

    python -m bench.bf16 [--models resnet50 googlenet vgg16] [--passes training inference]
                         [--batches 1 16] [--threads 2] [--rounds 5] [--seconds 2]

What is printed are times over those of our network in bf16: above 1 it is faster.  ``float32`` is
the same network of this library; PyTorch runs channels-last, its better layout for bf16.  OpenVINO
is inference alone.  ``memory`` is the arena of our step over that of float32: activations,
gradients and scratch, without parameters; what a process takes ``bench.network_memory`` measures.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import lowerconv as lc
from bench import peers
from bench.network_peers import (
    AUTOCAST,
    BF16,
    INFERENCE,
    OPENVINO_BF16,
    OURS,
    TRAINING,
    candidate,
    image_shape,
    options_of,
)
from lowerconv.bench.interleaved import SETTLE, geometric_mean, median_ratio, times
from lowerconv.bench.load import DISTURBED, Others
from lowerconv.nn.models import MODELS

DEFAULT = ("resnet50", "googlenet", "vgg16")
TITLES = {OURS: "float32", AUTOCAST: "PyTorch autocast", OPENVINO_BF16: "OpenVINO bf16"}
NEEDS = {OURS: (), AUTOCAST: ("torch",), OPENVINO_BF16: ("torch", "onnx", "openvino")}


def memory(model: str, batch: int, op: str) -> float:
    """Return the memory of our step in bf16 over that in float32."""
    network = MODELS[model].build(**options_of(model))
    shape, arena = (batch, *image_shape(model)), {}
    for precision in ("float32", "bf16"):
        network.precision = precision
        arena[precision] = network.memory_report(shape, training=op == TRAINING).arena
    return arena["bf16"] / arena["float32"]


def measure(model: str, batch: int, op: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the times of all candidates."""
    names = [
        name
        for name, needed in NEEDS.items()
        if not any(map(peers.is_missing, needed)) and (op == INFERENCE or name != OPENVINO_BF16)
    ]
    runs = {name: candidate(name, model, batch, op, options.threads) for name in (BF16, *names)}
    others = Others()
    seconds = times(runs, options.seconds, SETTLE, options.rounds)
    name, ratio = f"{model}, {batch}", memory(model, batch, op)
    return {"name": name, "seconds": seconds, "memory": ratio, "others": others.cores()}


def table_of(rows: list[dict[str, Any]], op: str) -> Table:
    """Return the table of all networks of a pass."""
    table = Table(title=op, box=SIMPLE_HEAD, title_justify="left")
    table.add_column("network, batch", no_wrap=True)
    for title in ("ms", *TITLES.values(), "memory"):
        table.add_column(title, justify="right")
    found: dict[str, list[float]] = {name: [] for name in TITLES}
    for row in rows:
        seconds = row["seconds"]
        cells = [row["name"], f"{1e3 * statistics.median(seconds[BF16]):.2f}"]
        for name, ratios in found.items():
            if name in seconds:
                ratios.append(median_ratio(seconds[name], seconds[BF16]))
            cells.append(f"{ratios[-1]:.2f}" if name in seconds else "")
        table.add_row(*cells, f"{row['memory']:.2f}")
    means = [f"{geometric_mean(r):.2f}" if r else "" for r in found.values()]
    table.add_row("geometric mean", "", *means, "")
    return table


def main() -> None:
    """Measure, and print a table for each pass."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    passes = (TRAINING, INFERENCE)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=DEFAULT)
    parser.add_argument("--passes", nargs="+", choices=passes, default=passes)
    parser.add_argument("--batches", nargs="+", type=int, default=(1, 16))
    parser.add_argument("--threads", type=int, default=lc.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5, help="at least (%(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a comparison (%(default)s)")
    options = parser.parse_args()
    lc.set_num_threads(options.threads)
    console = Console(width=100, markup=False, highlight=False)
    console.print(lc.machine_report()["cpu"]["name"], peers.versions("openvino"), sep=", ")
    console.print(f"{options.threads} threads; others: their time over ours in bf16")
    disturbed = False
    for op in options.passes:
        rows = []
        for model in options.models:
            for batch in options.batches:
                rows.append(measure(model, batch, op, options))
                console.print(table_of(rows[-1:], op))
        console.print(table_of(rows, op))
        disturbed |= any(row["others"] > DISTURBED for row in rows)
    if disturbed:
        console.print("other programs took a part of the machine meanwhile")


if __name__ == "__main__":
    main()
