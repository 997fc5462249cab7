"""Results that no machine has the memory for are a MemoryError, whatever the algorithm."""

from typing import Any

import numpy as np
import pytest

import lowerconv as lc

from .cases import by_algorithm, ones
from .reference import Array


def huge(shape: tuple[int, ...]) -> Array:
    """An array of any size that takes no memory."""
    return np.broadcast_to(np.float32(1), shape)


ONE = (1, 1, 1, 1)
FAR = 2**25

# Results of 2**50 numbers and more: no machine has the memory, whatever the algorithm.
IMPOSSIBLE: dict[str, tuple[str, dict[str, Any]]] = {
    "padding-2**40": ("conv2d", {"x": ones(ONE), "w": ones(ONE), "padding": 2**40}),
    # No numbers in it, but NumPy cannot make arrays of such a shape all the same.
    "batch-0-padding-2**40": (
        "conv2d",
        {"x": ones((0, 1, 1, 1)), "w": ones(ONE), "padding": 2**40},
    ),
    "image-2**50": ("conv2d", {"x": huge((1, 1, FAR, FAR)), "w": ones((1, 1, 3, 3))}),
    "batch-2**50": ("conv2d", {"x": huge((2**50, 1, 1, 1)), "w": ones(ONE)}),
    "outputs-2**50": ("conv2d", {"x": ones(ONE), "w": huge((2**50, 1, 1, 1))}),
    "bytes-beyond-2**63": ("conv2d", {"x": huge((2**31, 1, 1, 1)), "w": huge((2**31, 1, 1, 1))}),
    "dx-2**50": (
        "conv2d_input_grad",
        {"dy": huge((1, 1, FAR, FAR)), "w": ones(ONE), "x_shape": (1, 1, FAR, FAR)},
    ),
    "dx-2**80-of-one-dy": (
        "conv2d_input_grad",
        {"dy": ones(ONE), "w": ones(ONE), "x_shape": (1, 1, 2**40, 2**40), "stride": 2**40},
    ),
    "dw-2**50": (
        "conv2d_weight_grad",
        {"dy": huge((1, FAR, 1, 1)), "x": huge((1, FAR, 1, 1)), "w_shape": (FAR, FAR, 1, 1)},
    ),
}


@pytest.mark.parametrize(("function", "given"), IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
@by_algorithm
def test_sizes_that_cannot_exist(function: str, given: dict[str, Any], algorithm: str) -> None:
    with pytest.raises(MemoryError):
        getattr(lc, function)(**given, algorithm=algorithm)
