"""Numbers rounded to multiples of a learnt step, against the formulas in NumPy."""

import numpy as np
import pytest

from lowerconv.ops.learned_step import (
    levels,
    quantize,
    quantize_grad,
    quantize_rows,
    quantize_rows_grad,
)
from lowerconv.runtime.threads import parallel_region

SHAPES = [(3, 5, 7), (0, 3, 4), (1, 1, 1), (2, 3, 20_001), (70, 2, 33)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
ranges = pytest.mark.parametrize("limits", [(-2, 1), (-8, 7), (0, 15), (-128, 127)], ids=str)
STEP = 0.3


def run(function, threads, *arguments):
    with parallel_region(threads) as team:
        function(team, *arguments)


def draw(shape, dtype, seed, limits):
    """Return values of which some are outside of the range, and some between two multiples."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 0.6 * STEP * (limits[1] + 1), shape).astype(dtype)
    if x.size > 4:
        # A tie, an end of the range, and far beyond.
        x.reshape(-1)[[0, 1, 2, -1]] = 0.5 * dtype(STEP), limits[1] * dtype(STEP), 1e9, -1e9
    return x


def quantized(x, step, low, high):
    return np.rint(np.clip(x / step, low, high)) * step


def gradients(x, dy, step, low, high):
    """Return the gradient of `x`, and each item's part of that of the step."""
    with np.errstate(invalid="ignore"):
        q = x / step
        inside = (q > low) & (q < high)
        slope = np.where(inside, np.rint(q) - q, np.where(q <= low, low, high))
    return np.where(inside, dy, 0), dy * slope


@shapes
@dtypes
@ranges
def test_quantize(tensor, shape, dtype, limits):
    values = draw(shape, dtype, 1, limits)
    x, y = tensor(values), tensor(np.full(shape, 3, dtype))
    run(quantize, 2, x.images, y.images, dtype(STEP), levels(*limits, np.dtype(dtype)))
    np.testing.assert_array_equal(y.values, quantized(values, dtype(STEP), *limits))
    assert y.neighbours_untouched()


def test_ties_go_to_even(tensor):
    x = tensor(np.array([[[0.5, 1.5, 2.5, -0.5, -1.5, -2.5]]], np.float32))
    run(quantize, 1, x.images, x.images, np.float32(1), levels(-8, 7, np.dtype(np.float32)))
    np.testing.assert_array_equal(x.values, [[[0, 2, 2, 0, -2, -2]]])


@shapes
@dtypes
@ranges
@pytest.mark.parametrize("add", [False, True])
def test_gradients(tensor, shape, dtype, limits, add):
    values = draw(shape, dtype, 2, limits)
    upper = np.random.default_rng(3).standard_normal(shape).astype(dtype)
    before = np.full(shape, 3, dtype)
    x, dy, dx, slope = tensor(values), tensor(upper), tensor(before), np.zeros(1)
    constants = dtype(STEP), levels(*limits, np.dtype(dtype))
    run(quantize_grad, 2, x.images, dy.images, dx.images, *constants, add, slope)
    expected, parts = gradients(values, upper, dtype(STEP), *limits)
    np.testing.assert_array_equal(dx.values, before + expected if add else expected)
    wide = parts.astype(np.float64)
    error = 30 * np.finfo(dtype).eps * np.abs(wide).sum()
    np.testing.assert_allclose(slope[0], wide.sum(), rtol=0, atol=error)
    assert dx.neighbours_untouched()


def test_not_a_number_stays_one(tensor):
    x, dy = tensor(np.full((1, 1, 3), np.nan, np.float32)), tensor(np.ones((1, 1, 3), np.float32))
    y, slope = tensor(np.zeros((1, 1, 3), np.float32)), np.zeros(1)
    constants = np.float32(1), levels(-8, 7, np.dtype(np.float32))
    run(quantize, 1, x.images, y.images, *constants)
    assert np.isnan(y.values).all()
    run(quantize_grad, 1, x.images, dy.images, y.images, *constants, False, slope)
    assert (y.values == 1).all()
    assert np.isnan(slope[0])


def test_without_a_step_numbers_pass(tensor):
    values = draw((3, 5, 7), np.float32, 4, (-8, 7))
    x, y, slope = tensor(values), tensor(values), np.ones(1)
    y.values[...] = 0
    constants = np.float32(0), levels(-8, 7, np.dtype(np.float32))
    run(quantize, 2, x.images, y.images, *constants)
    np.testing.assert_array_equal(y.values, values)
    run(quantize_grad, 2, x.images, x.images, y.images, *constants, True, slope)
    np.testing.assert_array_equal(y.values, values + values)
    assert slope[0] == 0


@dtypes
@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (5, 27), (3, 5000)], ids=str)
def test_rows(dtype, each, shape):
    limits = (-8, 7)
    w = draw(shape, dtype, 5, limits)
    upper = np.random.default_rng(6).standard_normal(shape).astype(dtype)
    steps = np.linspace(0.2, 0.5, len(w) if each else 1).astype(dtype)
    q, dw, sums = np.empty_like(w), upper.copy(), np.zeros(len(w))
    constants = steps, levels(*limits, np.dtype(dtype))
    run(quantize_rows, 2, w, q, *constants)
    np.testing.assert_array_equal(q, quantized(w, steps[:, None], *limits))
    run(quantize_rows_grad, 2, w, dw, *constants, sums)
    expected, parts = gradients(w, upper, steps[:, None], *limits)
    np.testing.assert_array_equal(dw, expected)
    wide = parts.astype(np.float64)
    error = 30 * np.finfo(dtype).eps * np.abs(wide).sum()
    np.testing.assert_allclose(sums, wide.sum(1), rtol=0, atol=error)


def test_sums_are_the_same_on_any_number_of_threads(tensor):
    values = draw((7, 3, 20_001), np.float32, 7, (-8, 7))
    x, dx = tensor(values), tensor(values)
    found = []
    for threads in (1, 2, 3):
        slope = np.zeros(1)
        constants = np.float32(STEP), levels(-8, 7, np.dtype(np.float32))
        run(quantize_grad, threads, x.images, x.images, dx.images, *constants, False, slope)
        found.append(slope.tobytes())
    assert len(set(found)) == 1
