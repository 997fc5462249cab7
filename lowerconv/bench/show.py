"""What the tables have in common: their columns, and the lines below them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from lowerconv.bench.case import REFERENCE, SLOW
from lowerconv.bench.result import Result, Row, least_gain, mean_gain, mean_share

NONE = "-"  # not measured, or not published
NAMED = 4  # rows that are named one by one
TITLES = {"direct": "simple (direct)"}


def title(name: str) -> str:
    """Return an algorithm as the literature calls it."""
    return TITLES.get(name, name)


def head(name: str) -> str:
    """Return an algorithm as the head of a narrow column."""
    return title(name).replace(" ", "\n")


def new_table(heading: str, first: Sequence[str], others: Iterable[str]) -> Table:
    """Return an empty table: text in the first columns, numbers in the others.

    Columns are close together, so that a hundred characters do.
    """
    table = Table(
        title=heading, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    for name in first:
        table.add_column(name, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", overflow="fold")  # wrapped, never cut off
    return table


def ms(seconds: float | None) -> str:
    """Return milliseconds with three digits that count."""
    if seconds is None:
        return NONE
    value = 1e3 * seconds
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}"


def times(gain: float | None) -> str:
    """Return a speed-up."""
    return NONE if gain is None else f"{gain:.2f}"


def percent(share: float | None) -> str:
    """Return a share."""
    return NONE if share is None else f"{share:.0%}"


def ordered(result: Result) -> list[str]:
    """Return the candidates, the reference first and the loop nest last."""
    return sorted(result.names, key=lambda name: (name != REFERENCE, name == "direct"))


def add_gains(
    table: Table, rows: Sequence[Row], names: Sequence[str], before: int, after: int
) -> None:
    """Add two rows: the geometric means of the gains, and the worst layers.

    Parameters
    ----------
    table : Table
    rows : sequence of Row
    names : sequence of str
        Candidates whose gains stand in columns.
    before, after : int
        Columns between the first and those, and behind them.
    """
    table.add_section()
    means = [times(mean_gain(rows, name)) for name in names]
    table.add_row("geometric mean", *[""] * before, *means, *[""] * after)
    worst = []
    for name in names:
        found = least_gain(rows, name)
        worst.append(f"{found[0]:.2f}\n{found[1].labels['layer']}" if found else NONE)
    table.add_row("worst layer", *[""] * before, *worst, *[""] * after)


def caption(result: Result, reached: str | None = None) -> list[str]:
    """Return on what a table was measured, and what disturbed it.

    Parameters
    ----------
    result : Result
    reached : str, optional
        How near to the FMA peak it came; default: the candidate that came nearest.
    """
    threads, batch = result.setting["threads"], result.setting["batch"]
    reached = nearest(result) if reached is None else reached
    return [
        f"{result.machine['cpu']['name']}, {plural(threads, 'thread')}, "
        + ("each network's own batch" if batch is None else f"batch {batch}"),
        f"FMA peak of this run: {result.conditions['peak'] / 1e9:.0f} GFLOP/s"
        + f"; {reached}" * bool(reached),
        disturbance(result.rows),
    ]


def left_out(result: Result) -> list[str]:
    """Return why the loop nest is missing, where it is."""
    counted = [row for row in result.rows if "flops" in row.facts]
    if all("direct" in row.seconds for row in counted):
        return []
    return [f"{NONE}: the loop nest (direct) is left out above {SLOW / 1e9:.0f} GFLOP, as too slow"]


def plural(count: int, thing: str) -> str:
    """Return a count with its noun."""
    return f"{count} {thing}{'s' * (count != 1)}"


def nearest(result: Result) -> str:
    """Tell which candidate came nearest to the FMA peak; nothing where work was not counted."""
    peak = result.conditions["peak"]
    shares = {
        name: share
        for name in result.names
        if (share := mean_share(result.rows, name, peak)) is not None
    }
    best = max(shares, key=shares.__getitem__, default=None)
    return f"{best}: {shares[best]:.0%} of it (geometric mean)" if best else ""


def disturbance(rows: Sequence[Row]) -> str:
    """Tell during which rows other processes were at work."""
    found = [row for row in rows if row.disturbed]
    if not found:
        return "no other process disturbed it"
    most = max(row.facts["others"] for row in found)
    where = f"{len(found)} of {len(rows)} rows"
    if len(found) <= NAMED:  # by those labels that are not the same in all rows
        telling = [key for key in rows[0].labels if len({row.labels[key] for row in rows}) > 1]
        names = [" ".join(row.labels[key] for key in telling) for row in found]
        where = ", ".join(names) or "all of it"
    return f"measure again: other processes used up to {most:.1f} cores during {where}"
