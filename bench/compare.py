"""lowerconv beside PyTorch and ONNX Runtime, layer by layer, all of them timed in turns.

    python -m bench.compare [--network googlenet] [--at 1,1 2,32] [--passes forward] [--layers 3x3]
                            [--algorithms auto direct] [--call function] [--save times.json]

``--at`` takes pairs of threads and batch.  The first of ``--algorithms`` is ours: its speed as a
share of what multiply-adds give on as many cores (`lowerconv.bench.peak`), and the times of the
others over its own.  Peers get everything as they like it, before the clock starts: tensors in
their memory format, the weights of ONNX Runtime as a part of its model.  With ``--call plan`` we
are given the memory of the result, as ONNX Runtime is; PyTorch allocates its own, and so does
``function``.  On one thread every call comes after one of another candidate, which has evicted some
of the data from the caches; on several, or with ``--warm``, it comes after calls of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console

import lowerconv as lc
from bench import peers
from bench.candidates import (
    Setting,
    add_options,
    candidates,
    check_options,
    names,
    selected,
)
from bench.tables import Row, layer_table, summary_table
from lowerconv.bench.interleaved import SETTLE, times
from lowerconv.bench.load import Others
from lowerconv.bench.passes import check_agreement, flops
from lowerconv.bench.peak import fma_peak

SECONDS = 0.8  # for all candidates of a comparison together
NARROW, WIDE = 100, 120  # columns that the tables are made for


def measure(network: str, at: Setting, op: str, options: argparse.Namespace) -> list[Row]:
    """Return a row for each selected layer of a network."""
    rows, peak = [], 0.0
    for layer in selected(network, options):
        peak = max(peak, fma_peak(at.threads))  # the clock of a shared machine comes and goes
        runs = candidates(names(op, options), layer, at, op, options)
        check_agreement(runs, f"{network}, {layer.name}, {at}, {op}")
        others = Others()
        settle = SETTLE if at.threads > 1 or options.warm else 0.0
        taken = times(runs, options.seconds, settle)
        work = flops(layer, at.batch)
        rows.append(Row(network, at, op, layer.name, work, peak, others.cores(), taken))
    return [replace(row, peak=peak) for row in rows]


def save(file: Path, rows: list[Row]) -> None:
    """Write all times, and on what they were measured."""
    content = {
        "command": sys.argv[1:],
        "machine": lc.machine_report(),
        "peers": peers.versions(),
        "rows": [row.record() for row in rows],
    }
    file.write_text(json.dumps(content, indent=1) + "\n")


def main() -> None:
    """Print a table for each network, setting and pass, and one over all of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser.add_argument)
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="of each comparison (default: %(default)s)"
    )
    parser.add_argument(
        "--warm",
        action="store_true",
        help="on one thread also repeat calls, as several threads need it: with data in the caches",
    )
    parser.add_argument("--save", type=Path, metavar="FILE", help="write all times as JSON")
    options = parser.parse_args()
    try:
        check_options(options)
    except ValueError as error:
        parser.error(str(error))
    # Plain text: markup would swallow the brackets of "lowerconv[bench]".
    width = max(NARROW, min(WIDE, Console().width))
    console = Console(width=width, markup=False, highlight=False)
    console.print(lc.machine_report()["cpu"]["name"], peers.versions(), sep=", ")
    for name, reason in peers.missing().items():
        console.print(f"{name}: {reason}")
    rows: list[Row] = []
    try:
        for network in options.network:
            for at in options.at:
                for op in options.passes:
                    found = measure(network, at, op, options)
                    if found:
                        console.print(layer_table(found))
                    rows += found
    finally:  # of a run that was interrupted, what there is
        if options.save:
            save(options.save, rows)
    if not rows:
        parser.error(f"--layers: no layer's name contains {options.layers.pattern!r}")
    console.print(summary_table(rows))


if __name__ == "__main__":
    main()
