"""What was measured: times, round by round, and what follows from them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lowerconv.bench.case import REFERENCE
from lowerconv.bench.interleaved import geometric_mean, median_ratio
from lowerconv.bench.load import DISTURBED


@dataclass(frozen=True)
class Row:
    """One case, measured.

    Attributes
    ----------
    labels : dict of str to str
        Those of the case.
    seconds : dict of str to list of float
        Of each candidate, round by round; in a round all of them had their turn.
    facts : dict
        Those of the case, and ``others``: how many cores other processes used meanwhile.
    """

    labels: dict[str, str]
    seconds: dict[str, list[float]]
    facts: dict[str, Any]

    def median(self, name: str) -> float:
        """Return the seconds of a candidate."""
        return statistics.median(self.seconds[name])

    def gain(self, name: str, reference: str = REFERENCE) -> float | None:
        """Return the time of the reference over that of a candidate; None where one is missing."""
        if name not in self.seconds or reference not in self.seconds:
            return None
        return median_ratio(self.seconds[reference], self.seconds[name])

    def speed(self, name: str) -> float:
        """Return the FLOP/s of a candidate."""
        return self.facts["flops"] / self.median(name)

    @property
    def disturbed(self) -> bool:
        """Whether other processes were at work meanwhile."""
        return self.facts.get("others", 0.0) > DISTURBED

    def __str__(self) -> str:
        return ", ".join(self.labels.values())


@dataclass(frozen=True)
class Result:
    """A table, measured.

    Attributes
    ----------
    table : str
        One of `TABLES`.
    setting : dict
        ``threads``, ``batch`` (None where every network has its own), ``seconds``.
    conditions : dict of str to float
        What the machine gave in the same run: ``peak``, FLOP/s; some tables have more.
    machine : dict
        The machine report.
    rows : tuple of Row
    """

    table: str
    setting: dict[str, Any]
    conditions: dict[str, float]
    machine: dict[str, Any]
    rows: tuple[Row, ...]

    @property
    def names(self) -> list[str]:
        """All candidates, in the order in which they first appear."""
        return list(dict.fromkeys(name for row in self.rows for name in row.seconds))

    def values(self, label: str) -> list[str]:
        """Return what a label is in these rows, in their order."""
        return list(dict.fromkeys(row.labels[label] for row in self.rows))

    def where(self, **labels: str) -> list[Row]:
        """Return the rows with these labels."""
        return [row for row in self.rows if labels.items() <= row.labels.items()]


def mean_gain(rows: Sequence[Row], name: str) -> float | None:
    """Return the geometric mean of the gains of a candidate; None where there is none."""
    gains = [gain for row in rows if (gain := row.gain(name)) is not None]
    return geometric_mean(gains) if gains else None


def least_gain(rows: Sequence[Row], name: str) -> tuple[float, Row] | None:
    """Return the least gain of a candidate and its row; None where there is none."""
    gains = [(gain, row) for row in rows if (gain := row.gain(name)) is not None]
    return min(gains, key=lambda pair: pair[0], default=None)


def mean_share(rows: Sequence[Row], name: str, peak: float) -> float | None:
    """Return the geometric mean of a candidate's shares of the FMA peak; None where none is."""
    shares = [
        row.speed(name) / peak for row in rows if name in row.seconds and "flops" in row.facts
    ]
    return geometric_mean(shares) if shares else None


def total(rows: Sequence[Row], name: str) -> float | None:
    """Return the seconds of a candidate for all rows; None where one lacks it."""
    if not all(name in row.seconds for row in rows):
        return None
    return sum(row.median(name) for row in rows)
