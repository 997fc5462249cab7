"""What only the forward pass has: bias, activation; and the several ways to say one geometry."""

import random
from typing import Any

import numpy as np
import pytest

import lowerconv as lc

from ..long import drawn
from . import reference
from .cases import (
    BLOCKS,
    EDGES,
    Case,
    assert_close,
    by_algorithm,
    by_dtype,
    data_of,
    each,
    named,
)
from .reference import Array

EPILOGUES = named(
    "single-number",
    "kernel-1x1",
    "kernel-is-image",
    "batch-0",
    "groups-2-everything",
    "depthwise-multiplier-3",
    "padding-beyond-kernel",
    "pixels-33",
    "outputs-17",
    "tiles-67x83",
    "sums-of-2304",
    "partial-everywhere-groups-3",
    "small-maps-batch-33",
)


@by_dtype
@by_algorithm
def test_bias_and_activation(algorithm: str, dtype: str, rng: random.Random) -> None:
    """Both of each case, and of the rest one that is drawn."""
    for case in each(EPILOGUES):
        check_epilogue(case, algorithm, dtype, True, "relu")
        for rest in drawn(rng, [(False, None), (True, None), (False, "relu")], 1):
            check_epilogue(case, algorithm, dtype, *rest)


def check_epilogue(
    case: Case, algorithm: str, dtype: str, biased: bool, activation: str | None
) -> None:
    x, w, bias, _ = data_of(case, dtype)
    # The bias must weigh as much as the sums do, or a wrong one would pass within the tolerance.
    scaled = bias * np.sqrt(w[0].size).astype(dtype) if biased else None
    expected = reference.forward(x, w, scaled, case.geometry)
    if activation == "relu":
        expected = np.maximum(expected, 0)
    y = lc.conv2d(x, w, scaled, *case.arguments, algorithm=algorithm, activation=activation)
    assert_close(y, expected)


@by_algorithm
def test_relu_and_bias_let_values_pass_that_are_not_finite(algorithm: str) -> None:
    x = np.array([np.nan, np.inf, -np.inf, -1.0, 2.0]).reshape(1, 1, 1, 5)
    w = np.ones((2, 1, 1, 1))
    bias = np.array([0.5, np.nan])
    y = lc.conv2d(x, w, bias, algorithm=algorithm, activation="relu")
    expected = [[[[np.nan, np.inf, 0.0, 0.0, 2.5]], [[np.nan] * 5]]]
    np.testing.assert_array_equal(y, expected)


SPELLINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "stride-pair": ({"stride": 2}, {"stride": (2, 2)}),
    "stride-numpy-integer": ({"stride": 2}, {"stride": np.int64(2)}),
    "stride-numpy-pair": ({"stride": (2, 1)}, {"stride": (np.int32(2), np.uint8(1))}),
    "padding-pair": ({"padding": 2}, {"padding": (2, 2)}),
    "padding-sides": ({"padding": (2, 1)}, {"padding": ((2, 2), (1, 1))}),
    "padding-numpy-integer": ({"padding": 2}, {"padding": np.int16(2)}),
    "padding-valid": ({"padding": 0}, {"padding": "valid"}),
    # 3 x 4 taps: two rows shared out evenly, and of three columns the odd one to the right
    "padding-same": ({"padding": ((1, 1), (1, 2))}, {"padding": "same"}),
    "padding-same-dilated": (
        {"padding": ((2, 2), (3, 3)), "dilation": 2},
        {"padding": "same", "dilation": 2},
    ),
    "dilation-pair": ({"dilation": 2}, {"dilation": (2, 2)}),
    "dilation-numpy-integer": ({"dilation": 2}, {"dilation": np.intp(2)}),
    "groups-numpy-integer": ({"groups": 2}, {"groups": np.int64(2)}),
    "defaults": ({}, {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}),
}


@pytest.mark.parametrize(("one", "other"), SPELLINGS.values(), ids=SPELLINGS.keys())
def test_two_ways_to_say_the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    groups = int(one.get("groups", 1))
    case = Case("spelling", (2, 4, 9, 10), (6, 4 // groups, 3, 4), **one)
    x, w, _, dy = data_of(case, "float32")
    without_bias = {name: value for name, value in other.items() if name != "bias"}
    pairs: list[tuple[Array, Array]] = [
        (lc.conv2d(x, w, **one), lc.conv2d(x, w, **other)),
        (
            lc.conv2d_input_grad(dy, w, x.shape, **one),
            lc.conv2d_input_grad(dy, w, x.shape, **without_bias),
        ),
        (
            lc.conv2d_weight_grad(dy, x, w.shape, **one),
            lc.conv2d_weight_grad(dy, x, w.shape, **without_bias),
        ),
    ]
    for first, second in pairs:
        np.testing.assert_array_equal(first, second)


def test_auto_is_the_default() -> None:
    (case,) = named("groups-2-everything")
    x, w, bias, _ = data_of(case, "float32")
    y = lc.conv2d(x, w, bias, *case.arguments)
    np.testing.assert_array_equal(y, lc.conv2d(x, w, bias, *case.arguments, algorithm="auto"))


def test_algorithms_are_named() -> None:
    assert {"direct", "lowering", "pipelined"} <= set(lc.algorithms())
    assert "auto" not in lc.algorithms()


def test_case_names_are_unique() -> None:
    names = [case.name for case in EDGES + BLOCKS]
    assert len(set(names)) == len(names)
