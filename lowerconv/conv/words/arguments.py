"""What plans of integers are given, checked: an error names the argument."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np

from lowerconv.checks import integer, plain_array
from lowerconv.codegen.microkernel_requantize import RANGES


def chosen(value: Any, argument: str, known: tuple[Any, ...]) -> Any:
    """Return a value that is one of those known."""
    if value not in known:
        raise ValueError(f"{argument}: got {value!r}, expected one of {known}")
    return value


def zero_point(value: Any, argument: str, kind: str) -> int:
    """Return a zero point, checked."""
    low, high = RANGES[kind]
    number = integer(value, argument, low)
    if number > high:
        raise ValueError(f"{argument}: got {number}, expected at most {high} for {kind}")
    return number


def result_range(out: str, low: float | None, high: float | None) -> tuple[float, float]:
    """Return what results are clamped to."""
    if out == "int32":
        if low is not None or high is not None:
            raise ValueError(f"low, high: got {low}, {high} with out 'int32', expected None")
        return -inf, inf
    least, most = RANGES.get(out, (-inf, inf))
    low, high = least if low is None else low, most if high is None else high
    if not least <= low <= high <= most:
        raise ValueError(f"low, high: got {low}, {high}, expected {least} <= low <= high <= {most}")
    if out in RANGES and (low != int(low) or high != int(high)):
        raise ValueError(f"low, high: got {low}, {high}, expected integers for {out!r}")
    return low, high


def checked(array: Any, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array of this dtype and shape."""
    plain_array(array, name)
    if array.dtype != dtype:
        raise TypeError(f"{name}: got dtype {array.dtype}, expected {dtype}")
    if array.shape != shape:
        raise ValueError(f"{name}: got shape {array.shape}, expected {shape}")
    return array
