"""Tables of networks beside others: times of these over ours, with geometric means."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import lowerconv as lc
from bench import peers
from lowerconv.bench.interleaved import geometric_mean, median_ratio
from lowerconv.bench.load import DISTURBED

Row = dict[str, Any]  # name, seconds of each candidate, cores of others, further cells by title


def parser(text: str, models: Collection[str], default: Sequence[str]) -> argparse.ArgumentParser:
    """Return a parser with the options that all comparisons of networks have."""
    made = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--models", nargs="+", choices=list(models), default=default)
    made.add_argument("--batches", nargs="+", type=int, default=(1, 16))
    made.add_argument("--threads", type=int, default=lc.get_num_threads())
    made.add_argument("--rounds", type=int, default=5, help="at least (%(default)s)")
    made.add_argument("--seconds", type=float, default=2.0, help="of a comparison (%(default)s)")
    return made


def console_of(options: argparse.Namespace) -> Console:
    """Set the threads, and return a console on which machine and peers have been told."""
    lc.set_num_threads(options.threads)
    console = Console(width=100, markup=False, highlight=False)
    console.print(lc.machine_report()["cpu"]["name"], peers.versions("openvino"), sep=", ")
    console.print(f"{options.threads} threads; others: their time over ours")
    return console


def table_of(
    rows: Sequence[Row], ours: str, others: Mapping[str, str], further: Sequence[str] = ()
) -> Table:
    """Return the table of some networks.

    Parameters
    ----------
    rows : sequence of Row
    ours : str
        The candidate that the others are measured by.
    others : mapping of str to str
        Candidates and their titles; one that was not run has empty cells.
    further : sequence of str
        Titles of the numbers that rows have beside.
    """
    table = Table(box=SIMPLE_HEAD)
    table.add_column("network, batch", no_wrap=True)
    for title in ("ms", *others.values(), *further):
        table.add_column(title, justify="right")
    found: dict[str, list[float]] = {name: [] for name in others}
    for row in rows:
        seconds = row["seconds"]
        cells = [row["name"], f"{1e3 * statistics.median(seconds[ours]):.2f}"]
        for name, ratios in found.items():
            if name in seconds:
                ratios.append(median_ratio(seconds[name], seconds[ours]))
            cells.append(f"{ratios[-1]:.2f}" if name in seconds else "")
        table.add_row(*cells, *(f"{row[title]:.2f}" for title in further))
    means = [f"{geometric_mean(ratios):.2f}" if ratios else "" for ratios in found.values()]
    table.add_row("geometric mean", "", *means, *("" for _ in further))
    return table


def tell_disturbed(console: Console, rows: Sequence[Row]) -> None:
    """Say where other programs ran beside."""
    if any(row["others"] > DISTURBED for row in rows):
        console.print("other programs took a part of the machine meanwhile")
