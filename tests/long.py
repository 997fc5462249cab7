"""What is long: it is tried with LOWERCONV_LONG=1 only, and much like what is always tried.

Of cases that are all alike each run draws some: sooner or later all of them have been tried.
"""

import os
import random
from collections.abc import Iterable
from typing import Any

import pytest

VARIABLE = "LOWERCONV_LONG"
LONG = os.environ.get(VARIABLE) == "1"


def long_but(always: Iterable[Any], values: Iterable[Any]) -> list[Any]:
    """Return values for `pytest.mark.parametrize`: all but some of them are long."""
    kept = list(always)
    return [v if v in kept else pytest.param(v, marks=pytest.mark.long) for v in values]


def drawn(rng: random.Random, items: Iterable[Any], count: int) -> list[Any]:
    """Return all items in long runs, else some of them, drawn anew in each run."""
    found = list(items)
    return found if LONG or count >= len(found) else rng.sample(found, count)


def chosen(always: Iterable[int], rows: Iterable[Any]) -> list[Any]:
    """Return all rows in long runs, else some, by their index: where they are more than tests."""
    found = list(rows)
    return found if LONG else [found[i] for i in always]


def long_rows_but(always: Iterable[int], rows: Iterable[tuple]) -> list[Any]:
    """Return rows for `pytest.mark.parametrize`: all but some, by their index, are long."""
    kept = set(always)
    return [
        row if i in kept else pytest.param(*row, marks=pytest.mark.long)
        for i, row in enumerate(rows)
    ]
