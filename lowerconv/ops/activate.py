"""A function of each item as the last thing that other kernels do, while results are in the cache.

They call it by its address, as they call emitted functions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numba import carray, types

from lowerconv.codegen.activation import Activation
from lowerconv.codegen.compiled import callback, internal
from lowerconv.codegen.signatures import Activate
from lowerconv.ops.pointwise import AFFINE, FUNCTIONS, apply_function
from lowerconv.runtime.launch import pointer


def activate_constants(activation: Activation) -> np.ndarray:
    """Return what `Activate` wants the address of."""
    function, *constants = activation
    return np.array([FUNCTIONS[function], *constants, activation.is_scaled], np.float64)


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
