"""What is long: it is tried with LOWERCONV_LONG=1 only, and much like what is always tried."""

import os
from collections.abc import Iterable
from typing import Any

import pytest

VARIABLE = "LOWERCONV_LONG"
LONG = os.environ.get(VARIABLE) == "1"


def long_but(always: Iterable[Any], values: Iterable[Any]) -> list[Any]:
    """Return values for `pytest.mark.parametrize`: all but some of them are long."""
    kept = list(always)
    return [v if v in kept else pytest.param(v, marks=pytest.mark.long) for v in values]


def long_rows_but(always: Iterable[int], rows: Iterable[tuple]) -> list[Any]:
    """Return rows for `pytest.mark.parametrize`: all but some, by their index, are long."""
    kept = set(always)
    return [
        row if i in kept else pytest.param(*row, marks=pytest.mark.long)
        for i, row in enumerate(rows)
    ]
