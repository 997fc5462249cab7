"""A result that shares memory with an operand is refused, and nothing is written."""

from typing import Any

import numpy as np
import pytest

import lowerconv as lc

from .cases import by_algorithm, ones
from .reference import Array

UNTOUCHED = 7.0


# All arrays of one shape, so that each operand can be the result as well.
SQUARE = (4, 4, 1, 1)


def overlapping(kind: str) -> tuple[Array, Array]:
    """An operand and a result that share memory."""
    memory = np.full(5 * 16, UNTOUCHED, np.float32)
    if kind == "same":
        return memory[:16].reshape(SQUARE), memory[:16].reshape(SQUARE)
    if kind == "last-element":
        return memory[:16].reshape(SQUARE), memory[15:31].reshape(SQUARE)
    if kind == "reversed":
        return memory[:16].reshape(SQUARE), memory[15::-1].reshape(SQUARE)
    # Every second and every third element: all but a few places differ.
    return memory[:32:2].reshape(SQUARE), memory[:48:3].reshape(SQUARE)


@pytest.mark.parametrize("kind", ["same", "last-element", "reversed", "interleaved"])
@by_algorithm
@pytest.mark.parametrize(
    ("function", "name"),
    [
        ("conv2d", "x"),
        ("conv2d", "w"),
        ("conv2d_input_grad", "dy"),
        ("conv2d_input_grad", "w"),
        ("conv2d_weight_grad", "dy"),
        ("conv2d_weight_grad", "x"),
    ],
)
def test_out_overlapping_an_operand(function: str, name: str, algorithm: str, kind: str) -> None:
    right: dict[str, dict[str, Any]] = {
        "conv2d": {"x": ones(SQUARE), "w": ones(SQUARE)},
        "conv2d_input_grad": {"dy": ones(SQUARE), "w": ones(SQUARE), "x_shape": SQUARE},
        "conv2d_weight_grad": {"dy": ones(SQUARE), "x": ones(SQUARE), "w_shape": SQUARE},
    }
    operand, out = overlapping(kind)
    with pytest.raises(ValueError, match=rf"\bout\b.*\b{name}\b"):
        getattr(lc, function)(**right[function] | {name: operand}, out=out, algorithm=algorithm)
    assert (out == UNTOUCHED).all()


@by_algorithm
def test_out_overlapping_the_bias(algorithm: str) -> None:
    out = np.full(SQUARE, UNTOUCHED, np.float32)
    with pytest.raises(ValueError, match=r"\bout\b.*\bbias\b"):
        lc.conv2d(ones(SQUARE), ones(SQUARE), out[:, 0, 0, 0], algorithm=algorithm, out=out)
    assert (out == UNTOUCHED).all()
