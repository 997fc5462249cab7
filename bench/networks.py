"""Whole networks beside PyTorch, ONNX Runtime and OpenVINO, all of them timed in turns.

    python -m bench.networks [--models googlenet resnet50] [--passes training inference]
                             [--batches 1 8 32] [--candidates lowerconv torch_nchw ...]
                             [--threads 2] [--rounds 5] [--save FILE]

Prints images per second, our share of what multiply-adds give on as many cores
(`lowerconv.bench.peak`), and the times of the others over ours: above 1 we are faster.  Ours is the
network of this library (``lowerconv``); of networks that only PyTorch has, and where that is not
among the candidates, it is PyTorch's through `lowerconv.torch.convert`.  Where both are there, the
time of ``convert`` over ours is what the conversion costs.  The operations counted are those of the
products as they are defined, whatever the algorithm.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import lowerconv as lc
from bench import peers
from bench.network_peers import (
    BF16,
    CANDIDATES,
    CONVERT,
    NETWORKS,
    available,
    candidate,
    flops,
    reference,
)
from lowerconv.bench.interleaved import SETTLE, median_ratio, times
from lowerconv.bench.load import Others
from lowerconv.bench.peak import fma_peak

DEFAULT = ("cifar10_quick", "alexnet", "googlenet", "resnet50", "vgg16")
BATCHES = (1, 8, 32)
ROUNDS = 5
TITLES = {
    BF16: "bf16",
    CONVERT: "convert",
    "torch_nchw": "PT NCHW",
    "torch_channels_last": "PT NHWC",
    "torch_compile": "PT compiled",
    "onnxruntime": "ORT",
    "openvino": "OpenVINO",
}


def measure(model: str, batch: int, op: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the times of all candidates on one network."""
    runs = {}
    asked = options.candidates
    for name in (*available(op, model), BF16):
        if name not in (asked or CANDIDATES[op]):
            continue
        run = candidate(name, model, batch, op, options.threads)
        if name == "torch_compile":
            try:
                run()
            except Exception as error:
                print(f"torch_compile does not work here: {str(error).splitlines()[0]}")
                continue
        runs[name] = run
    peak, others = fma_peak(options.threads), Others()
    taken = times(runs, options.seconds, SETTLE, options.rounds)
    return {
        "model": model,
        "batch": batch,
        "pass": op,
        "peak": max(peak, fma_peak(options.threads)),
        "flops": flops(model, batch, op),
        "others": others.cores(),
        "seconds": taken,
    }


def table_of(rows: list[dict[str, Any]], op: str) -> Table:
    """Return a table of all networks for a pass."""
    found = [
        name
        for name in (*CANDIDATES[op], BF16)
        if any(name in row["seconds"] and name != reference(row["seconds"]) for row in rows)
    ]
    table = Table(title=op, box=SIMPLE_HEAD, title_justify="left")
    table.add_column("network, batch", no_wrap=True)
    for title in ("images/s", "ms", "peak", *(TITLES[name] for name in found)):
        table.add_column(title, justify="right")
    for row in rows:
        ours = reference(row["seconds"])
        cells = [f"{row['model']}, {row['batch']}"]
        if ours:
            seconds = statistics.median(row["seconds"][ours])
            speed = row["flops"] / seconds / row["peak"]
            cells += [f"{row['batch'] / seconds:,.1f}", f"{1e3 * seconds:,.2f}", f"{speed:.0%}"]
        else:
            cells += [""] * 3
        table.add_row(*cells, *(_ratio(row["seconds"], name, ours) for name in found))
    return table


def _ratio(seconds: dict[str, list[float]], name: str, ours: str | None) -> str:
    """Return a candidate's time over ours as a cell."""
    if ours is None or name not in seconds:
        return ""
    return "ours" if name == ours else f"{median_ratio(seconds[name], seconds[ours]):.2f}"


def main() -> None:
    """Measure, and print a table for each pass."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=NETWORKS, default=DEFAULT)
    parser.add_argument("--passes", nargs="+", choices=list(CANDIDATES), default=list(CANDIDATES))
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--candidates", nargs="+", choices=(*CANDIDATES["inference"], BF16))
    parser.add_argument("--threads", type=int, default=lc.get_num_threads())
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="at least (%(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a comparison (%(default)s)")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write all times as JSON")
    options = parser.parse_args()
    lc.set_num_threads(options.threads)
    console = Console(width=100, markup=False, highlight=False)
    console.print(lc.machine_report()["cpu"]["name"], peers.versions("openvino"), sep=", ")
    console.print(f"{options.threads} threads; others: their time over ours")
    rows: list[dict[str, Any]] = []
    try:
        for op in options.passes:
            for model in options.models:
                for batch in options.batches:
                    rows.append(measure(model, batch, op, options))
                    console.print(table_of(rows[-1:], op))
    finally:
        if options.save:
            options.save.write_text(json.dumps({"command": sys.argv[1:], "rows": rows}) + "\n")
    for op in options.passes:
        console.print(table_of([row for row in rows if row["pass"] == op], op))


if __name__ == "__main__":
    main()
