"""ReLU, addition, copies, dropout and the bias' gradient against NumPy."""

import numpy as np
import pytest

from lowerconv.ops.elementwise import (
    BatchPart,
    Draw,
    add,
    bias_relu_grad,
    copy,
    dropout,
    relu,
    relu_grad,
    row_sum,
)
from lowerconv.ops.images import Images
from lowerconv.runtime.threads import parallel_region

SHAPES = [(3, 5, 7), (0, 3, 4), (1, 1, 1), (2, 3, 70_001), (70, 2, 33)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def run(function, threads, *arguments):
    with parallel_region(threads) as team:
        function(team, *arguments)


def rows(values):
    """Return rows of features as kernels take them."""
    return Images(values.reshape(-1), values.shape[1], *values.shape, 1, 1)


def draw(shape, dtype, seed):
    x = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    if x.size > 3:
        x.reshape(-1)[[0, 1, -1]] = np.nan, -np.inf, np.inf
    return x


def positive(x):
    return np.where(x < 0, 0, x)


def sizes(shape):
    return shape[0], shape[1] * shape[2]


@shapes
@dtypes
def test_relu(tensor, shape, dtype):
    values = draw(shape, dtype, 1)
    x, y = tensor(values), tensor(np.full(shape, 3, dtype))
    run(relu, 2, x.images, y.images)
    np.testing.assert_array_equal(y.values, positive(values))
    run(relu, 3, x.images, x.images)
    np.testing.assert_array_equal(x.values, positive(values))
    assert x.neighbours_untouched()
    assert y.neighbours_untouched()


@shapes
@dtypes
def test_relu_grad(tensor, shape, dtype):
    values, gradient, there = (draw(shape, dtype, seed) for seed in (1, 2, 3))
    masked = np.where(values > 0, gradient, 0)
    y, dy = tensor(values), tensor(gradient)
    for more in (False, True):
        dx = tensor(there if more else np.full_like(there, np.nan))
        operands = y.images, dy.images, dx.images
        run(relu_grad, 2, *operands, more)
        np.testing.assert_array_equal(dx.values, masked + there if more else masked)
        assert dx.neighbours_untouched()
    operands = y.images, dy.images, dy.images
    run(relu_grad, 3, *operands, False)
    np.testing.assert_array_equal(dy.values, masked)
    assert dy.neighbours_untouched()


@shapes
@dtypes
@pytest.mark.parametrize("masked", [False, True])
def test_bias_relu_grad(tensor, shape, dtype, masked):
    N, K, pixels = shape
    rng = np.random.default_rng(1)
    values, gradient = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    expected = np.where(values > 0, gradient, 0) if masked else gradient
    sums = []
    for threads in (1, 2, 3, 5):
        y, dy = tensor(values), tensor(gradient)
        db = np.full(K, np.nan, dtype)
        operands = dy.images, y.images
        run(bias_relu_grad, threads, *operands, db, masked)
        np.testing.assert_array_equal(dy.values, expected)
        assert dy.neighbours_untouched()
        sums.append(db)
    tolerance = 1e-10 if dtype == np.float64 else 1e-5 * np.sqrt(1 + N * pixels)
    exact = expected.sum((0, 2), dtype=np.float64)
    np.testing.assert_allclose(sums[0], exact, 1e-5, tolerance)
    assert all(np.array_equal(sums[0], other) for other in sums)

    dy = tensor(gradient)
    operands = dy.images, y.images
    run(bias_relu_grad, 2, *operands, np.empty(0, dtype), masked)
    np.testing.assert_array_equal(dy.values, expected)


def test_a_sum_of_much_stays_exact():
    values = np.full(10_000_019, 0.1, np.float32)
    np.testing.assert_allclose(row_sum(values), 10_000_019 * np.float64(np.float32(0.1)), 1e-6)


@shapes
@dtypes
@pytest.mark.parametrize("positive_only", [False, True])
def test_add(tensor, shape, dtype, positive_only):
    values = draw(shape, dtype, 1), np.random.default_rng(2).standard_normal(shape).astype(dtype)
    expected = values[0] + values[1]
    if positive_only:
        expected = positive(expected)
    for onto in (None, 0, 1):
        a, b = (tensor(v) for v in values)
        y = tensor(np.zeros(shape, dtype)) if onto is None else (a, b)[onto]
        operands = a.images, b.images, y.images
        run(add, 2, *operands, positive_only)
        np.testing.assert_array_equal(y.values, expected)
        assert y.neighbours_untouched()


def test_add_of_a_tensor_to_itself(tensor):
    x = tensor(np.arange(12, dtype=np.float32).reshape(2, 2, 3))
    run(add, 2, x.images, x.images, x.images, False)
    np.testing.assert_array_equal(x.values.reshape(-1), 2 * np.arange(12))


@shapes
@dtypes
def test_copy(tensor, shape, dtype):
    values, there = (np.random.default_rng(s).standard_normal(shape).astype(dtype) for s in (1, 2))
    for more in (False, True):
        x, y = tensor(values, False), tensor(there)
        run(copy, 2, x.images, y.images, more)
        np.testing.assert_array_equal(y.values, values + there if more else values)
        assert y.neighbours_untouched()


def splitmix(key, numbers):
    """What items draw: the output function of SplitMix64, in Python's integers."""
    mask = 2**64 - 1
    drawn = []
    for number in numbers:
        z = (key + number * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        drawn.append(z ^ (z >> 31))
    return drawn


@pytest.mark.parametrize("shape", [s for s in SHAPES if s[2] < 1000], ids=str)
@dtypes
def test_dropout(tensor, shape, dtype):
    values, there = (np.random.default_rng(s).standard_normal(shape).astype(dtype) for s in (1, 2))
    key, first, threshold = 2**63 + 12345, 1000, int(0.3 * 2.0**64)
    drawn = splitmix(key, range(first, first + values.size))
    kept = np.reshape([d >= threshold for d in drawn], shape)
    scale = dtype(1 / 0.7)
    expected = np.where(kept, values * scale, dtype(0))
    N, items = sizes(shape)
    part = BatchPart(np.arange(N), np.array([[0, first, items]]), items)
    last = part, Draw(np.uint64(key), np.uint64(threshold), scale)
    for more in (False, True):
        x, y = tensor(values), tensor(there)
        run(dropout, 2, x.images, y.images, *last, more)
        np.testing.assert_array_equal(y.values, expected + there if more else expected)
        assert y.neighbours_untouched()
    run(dropout, 3, x.images, x.images, *last, False)
    np.testing.assert_array_equal(x.values, expected)


@dtypes
def test_dropout_of_some_samples_and_some_items_of_each(dtype):
    """Runs of items longer than a piece of work, not aligned to one."""
    rng = np.random.default_rng(4)
    N, full = 5, 50_000
    runs = [(17, 3), (100, 18_000), (20_000, 29_999)]  # in the full sample: first, count
    whole = rng.standard_normal((N, full)).astype(dtype)
    chosen = np.concatenate([np.arange(first, first + count) for first, count in runs])
    begins = np.cumsum([0, *(count for _, count in runs)])
    segments = np.array([(b, *run) for b, run in zip(begins[:-1], runs, strict=True)])
    draw = Draw(np.uint64(99), np.uint64(2**63), dtype(2))
    everything = BatchPart(np.arange(N), np.array([[0, 0, full]]), full)
    kept = np.empty_like(whole)
    run(dropout, 2, rows(whole), rows(kept), everything, draw, False)
    samples = np.array([4, 0, 3])
    x = np.ascontiguousarray(whole[samples][:, chosen])
    y, there = np.ones_like(x), np.ones_like(x)
    part = BatchPart(samples, segments, full)
    for target, more in ((y, True), (there, False), (x, False)):
        run(dropout, 3, rows(x), rows(target), part, draw, more)
    expected = kept[samples][:, chosen]
    np.testing.assert_array_equal(there, expected)
    np.testing.assert_array_equal(x, expected)
    np.testing.assert_array_equal(y, 1 + expected)
