"""``lowerconv timeline``: what the ranks of a run did in some steps, as a table or a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.table import Table

from lowerconv.arguments import Number, Place, reader
from lowerconv.bench.show import NONE, new_table, percent
from lowerconv.bench.step_picture import save_picture
from lowerconv.cli.mistakes import EXPECTED, tell
from lowerconv.console import PlainConsole
from lowerconv.parallel.trace.chrome import Trace, read
from lowerconv.parallel.trace.summary import Summary, summarize_all
from lowerconv.printable import printable

BESIDE = Path()  # stands for the name of the trace


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "timeline",
        help="tell or draw what lowerconv train --timeline has recorded",
        description="Tell where the time of the recorded steps went on each rank, and how much of "
        "the communication was hidden behind computation. https://ui.perfetto.dev opens the file.",
    )
    parser.add_argument("trace", type=Path, metavar="FILE", help="of lowerconv train --timeline")
    parser.add_argument(
        "--plot",
        type=reader(Place("a picture")),
        nargs="?",
        const=BESIDE,
        metavar="PNG",
        help="draw a step; default: FILE with the ending .png",
    )
    parser.add_argument(
        "--step",
        type=reader(Number(int, 0)),
        metavar="N",
        help="to be drawn; default: the middle one",
    )
    parser.set_defaults(func=run)


def run(options: argparse.Namespace) -> int:
    """Tell or draw as told; returns the exit status."""
    console = PlainConsole(80)
    try:
        if options.step is not None and options.plot is None:
            raise ValueError("--step: got it without --plot, expected both")
        trace = read(options.trace)
        console.print(table(trace))
        for line in notes(trace):
            console.print(line, soft_wrap=True)
        if options.plot is not None:
            path = options.plot
            if path is BESIDE:
                path = options.trace.with_suffix(".png")
            if path == options.trace:
                raise ValueError(f"--plot: got {path}, expected another file than the trace")
            save_picture(trace, path, options.step)
            console.print(f"drawn: {printable(path)}", soft_wrap=True)
    except (*EXPECTED, RuntimeError) as error:
        return tell(error)
    return 0


def table(trace: Trace) -> Table:
    """Return a row for each rank, and one for all."""
    result = new_table(
        f"{printable(trace.about)}: mean of a step, in ms",
        ["rank"],
        [
            "step",
            "compute",
            "wait",
            "rest",
            "in\nflight",
            "hidden",
            "MB\nsent",
            "images\n/s",
        ],
    )
    whole, ranks = summarize_all(trace)
    for rank, summary in zip(trace.ranks, ranks, strict=True):
        result.add_row(f"{rank.rank}, {printable(rank.host)}", *_cells(summary))
    if len(ranks) > 1:
        result.add_section()
        result.add_row("all", *_cells(whole))
    return result


def _cells(summary: Summary) -> list[str]:
    rest = summary.data + summary.other
    parts = (summary.seconds, summary.compute, summary.exposed, rest, summary.in_flight)
    return [
        *(f"{1e3 * seconds:.1f}" for seconds in parts),
        percent(summary.hidden),
        NONE if summary.sent is None else f"{summary.sent / 1e6:.4g}",
        f"{summary.images_per_second:,.0f}",
    ]


def notes(trace: Trace) -> list[str]:
    """Return what the columns mean."""
    numbers = [step.number for step in trace.ranks[0].steps]
    off = max(rank.uncertainty for rank in trace.ranks) / 1e6
    lines = [
        f"steps {numbers[0]} to {numbers[-1]} of the run, counted from 0",
        "wait: for communication, or moving it along; in flight: communication under way; "
        "hidden: 1 - wait / in flight",
        "rest: fetching the batch, and Python between the layers; MB sent: on the wire, "
        f"{NONE} where the MPI library did that on its own",
    ]
    if len(trace.ranks) > 1:
        lines.append(f"times of different ranks are comparable to {off:.3f} ms")
    return lines
