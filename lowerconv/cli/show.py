"""``lowerconv show``: the layers of an ONNX file, how each computes, and how long it takes."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.table import Table

from lowerconv.bench.peak import fma_peak
from lowerconv.cli.mistakes import EXPECTED, tell
from lowerconv.cli.network_inputs import add_model, random_inputs, shapes_of
from lowerconv.cli.network_picture import draw
from lowerconv.console import PlainConsole
from lowerconv.onnx import load
from lowerconv.onnx.explain import Explanation
from lowerconv.printable import printable
from lowerconv.runtime.threads import get_num_threads


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "show",
        help="list the layers of an ONNX file, with their algorithms and times",
        description="List the layers of an ONNX file as they are computed for inputs of some "
        "shape: neighbours that are done in one pass are one row.",
    )
    add_model(parser)
    parser.add_argument(
        "--repeats", type=int, default=10, metavar="N", help="runs to measure with; 0 for none"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.svg", help="draw the layers, with times as colours"
    )
    parser.set_defaults(func=run)


def run(options: argparse.Namespace) -> int:
    """Print the layers; returns the exit status."""
    try:
        if options.repeats < 0:
            raise ValueError(f"--repeats: got {options.repeats}, expected at least 0")
        network = load(options.model)
        arrays = random_inputs(network, shapes_of(network, options.shape))
        explanation = network.explain(*arrays, repeats=options.repeats)
        if options.plot:
            draw(explanation, options.plot)
    except (*EXPECTED, TypeError, ImportError) as error:
        return tell(error)
    print_layers(PlainConsole(100), explanation)
    return 0


def print_layers(console: PlainConsole, explanation: Explanation) -> None:
    """Print a table of layers, and what they are together."""
    total = sum(layer.seconds or 0 for layer in explanation.layers)
    peak = fma_peak(get_num_threads()) if total else 0.0
    table = Table(box=None, pad_edge=False)
    for name in ("layer", "operator", "shape", "algorithm"):
        table.add_column(name, overflow="fold")
    for name in ("GFLOP", *(("ms", "share", "of peak") if total else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for layer in explanation.layers:
        seconds = layer.seconds or 0
        speed = f"{layer.flop / seconds / peak:.0%}" if layer.flop and seconds and peak else ""
        timed = (f"{1e3 * seconds:.3f}", f"{seconds / total:.1%}", speed) if total else ()
        table.add_row(
            *(printable(layer.name), layer.operator, "x".join(map(str, layer.shape))),
            *(
                layer.algorithm or layer.how,
                f"{layer.flop / 1e9:.3g}" if layer.flop else "",
                *timed,
            ),
        )
    console.print(table)
    text = f"{explanation.flop / 1e9:.3g} GFLOP, {explanation.arena / 2**20:.4g} MiB of results"
    if total:
        text += f", {1e3 * total:.3f} ms"
        if peak:
            text += f", {explanation.flop / total / peak:.0%} of the peak"
    console.print(text)
