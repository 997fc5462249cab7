"""Checks of plain arguments: each error names the argument, what it was and what was expected."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

Pair = tuple[int, int]


def integer(value: Any, argument: str, least: int) -> int:
    """Return `value` as an int of at least `least`; bool and float are no integers here."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{argument}: got {value!r}, expected an integer")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{argument}: got {value!r} of type {type(value).__name__}, expected an integer"
        ) from None
    if number < least:
        raise ValueError(f"{argument}: got {number}, expected an integer of at least {least}")
    return number


def pair(value: Any, argument: str, least: int) -> Pair:
    """Return an int or a pair of ints as a pair (rows, columns)."""
    if isinstance(value, (tuple, list)) or (isinstance(value, np.ndarray) and value.ndim):
        if len(value) != 2:
            raise ValueError(
                f"{argument}: got {value!r} of length {len(value)}, expected an int or a pair"
            )
        return integer(value[0], argument, least), integer(value[1], argument, least)
    number = integer(value, argument, least)
    return number, number
