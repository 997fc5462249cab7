"""``lowerconv compare``: an ONNX file here and in ONNX Runtime, values and times."""

from __future__ import annotations

import argparse
from statistics import median

import numpy as np
from rich.table import Table

from lowerconv.bench.interleaved import SETTLE, times
from lowerconv.cli.mistakes import EXPECTED, tell
from lowerconv.cli.network_inputs import add_model, random_inputs, shapes_of
from lowerconv.console import PlainConsole
from lowerconv.onnx import load
from lowerconv.onnx.fallback import open_session
from lowerconv.printable import printable
from lowerconv.runtime.threads import get_num_threads

TOLERANCE = 1e-4  # relative, of float32


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "compare",
        help="compare an ONNX file with ONNX Runtime",
        description="Compute an ONNX file here and in ONNX Runtime, on random inputs and with as "
        "many threads, and compare outputs and times. The exit status is 1 where outputs differ.",
    )
    add_model(parser)
    parser.add_argument(
        "--repeats", type=int, default=10, metavar="N", help="turns of each, at least"
    )
    parser.set_defaults(func=run)


def run(options: argparse.Namespace) -> int:
    """Compare; returns the exit status."""
    try:
        if options.repeats < 1:
            raise ValueError(f"--repeats: got {options.repeats}, expected at least 1")
        network = load(options.model)
        arrays = random_inputs(network, shapes_of(network, options.shape))
        session = open_session(options.model, "compare")
        feeds = dict(zip(network.input_names, arrays, strict=True))
        ours, theirs = network(*arrays), session.run(list(network.output_names), feeds)
        candidates = {
            "lowerconv": lambda: network(*arrays),
            "ONNX Runtime": lambda: session.run(None, feeds),
        }
        settle = SETTLE if get_num_threads() > 1 else 0.0
        found = times(candidates, settle=settle, least=options.repeats)
    except (*EXPECTED, TypeError, ImportError) as error:
        return tell(error)
    console = PlainConsole(80)
    table = Table(box=None, pad_edge=False)
    for name in ("output", "shape", "relative difference"):
        table.add_column(name)
    worst = 0.0
    ours = ours if isinstance(ours, tuple) else (ours,)
    for name, mine, other in zip(network.output_names, ours, theirs, strict=True):
        apart = difference(mine, np.asarray(other))
        worst = max(worst, apart)
        table.add_row(printable(name), str(mine.shape), f"{apart:.2e}")
    console.print(table)
    here, there = (median(seconds) for seconds in found.values())
    console.print(
        f"lowerconv {1e3 * here:.3f} ms, ONNX Runtime {1e3 * there:.3f} ms, "
        f"{there / here:.2f} times as fast ({get_num_threads()} threads)"
    )
    return 0 if worst <= TOLERANCE else 1


def difference(mine: np.ndarray, other: np.ndarray) -> float:
    """Return the largest difference over the largest item; infinity where arrays are unlike."""
    if mine.shape != other.shape or mine.dtype != other.dtype:
        return float("inf")
    if not mine.size:
        return 0.0
    a, b = mine.astype(np.float64), other.astype(np.float64)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf")
    finite = np.isfinite(a)
    largest = np.abs(b[finite]).max(initial=0.0)
    return float(np.abs(a[finite] - b[finite]).max(initial=0.0) / (largest or 1.0))
