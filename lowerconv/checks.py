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


def shape(value: Any, argument: str) -> tuple[int, ...]:
    """Return a shape as plain integers: it becomes part of a cache key, where 1 equals True."""
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{argument}: got {value!r}, expected a tuple of integers")
    return tuple(integer(extent, argument, 0) for extent in value)


def plain_array(value: Any, argument: str) -> np.ndarray:
    """Return `value` if it is a numpy array whose elements all count.

    A masked array is none: who reads its memory reads the hidden values, too.
    """
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{argument}: got {type(value).__name__}, expected a numpy array")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{argument}: got a masked array, expected one without a mask, such as .filled(0) of it"
        )
    return value
