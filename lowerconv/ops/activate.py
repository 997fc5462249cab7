"""A function of each item as the last thing that other kernels do, while results are in the cache.

They call it by its address, as they call emitted functions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import carray, types

from lowerconv.codegen.compiled import callback, internal
from lowerconv.codegen.epilogue import IN_REGISTERS, Function
from lowerconv.codegen.signatures import Activate
from lowerconv.ops.pointwise import AFFINE, FUNCTIONS, apply_function
from lowerconv.runtime.launch import pointer


class Activation(NamedTuple):
    """A function of one number.

    Attributes
    ----------
    function : str
        One of `lowerconv.ops.pointwise.FUNCTIONS`, where the formulas are.
    a, b : float
        Its constants.
    scale, shift : float
        The results are multiplied with `scale`, and then `shift` is added.
    """

    function: str
    a: float
    b: float
    scale: float = 1.0
    shift: float = 0.0

    @property
    def is_scaled(self) -> bool:
        """Whether the results are scaled or shifted."""
        return (self.scale, self.shift) != (1.0, 0.0)

    def in_registers(self) -> Function | None:
        """Return the function as kernels apply it before they store; None if they cannot."""
        known = self.function in IN_REGISTERS
        return Function(self.function, self.is_scaled) if known else None

    def numbers(self, dtype: np.dtype) -> np.ndarray:
        """Return what kernels want the address of that apply the function `in_registers`."""
        return np.array(self[1:], dtype)

    def constants(self) -> np.ndarray:
        """Return what `Activate` wants the address of."""
        return np.array([FUNCTIONS[self.function], *self[1:], self.is_scaled], np.float64)


@internal
def _activate(target, rows, items, step, constants, dtype):
    numbers = carray(pointer(constants), 6, np.float64)
    a, b, scale, shift = (
        dtype(numbers[1]),
        dtype(numbers[2]),
        dtype(numbers[3]),
        dtype(numbers[4]),
    )
    whole = carray(pointer(target), (rows - 1) * step + items, dtype)
    for row in range(rows):
        values = whole[row * step : row * step + items]
        apply_function(np.int64(numbers[0]), values, a, b)
        if numbers[5]:
            apply_function(AFFINE, values, scale, shift)


def _activate_float32(target, rows, items, step, constants):
    _activate(target, rows, items, step, constants, np.float32)


def _activate_float64(target, rows, items, step, constants):
    _activate(target, rows, items, step, constants, np.float64)


_ACTIVATE: dict[str, Callable[..., None]] = {
    "float32": _activate_float32,
    "float64": _activate_float64,
}


@lru_cache
def activate_address(dtype: np.dtype) -> int:
    """Return the address of the function of a signature `Activate`, for arrays of a dtype."""
    signature = types.void(*[types.int64] * len(Activate._fields))
    return callback(signature, _ACTIVATE[dtype.name]).address
