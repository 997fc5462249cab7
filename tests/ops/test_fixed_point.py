"""Rounding to fixed point against NumPy: values, ends of the range, chances, threads."""

from math import sqrt

import numpy as np
import pytest

from lowerconv.ops.fixed_point import Rounding, round_images, round_range
from lowerconv.runtime.threads import parallel_region

SHAPES = [(3, 5, 7), (0, 3, 4), (1, 1, 1), (2, 3, 20_001), (70, 2, 33)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
KEY = np.uint64(0x1234_5678_9ABC_DEF0)


def run(function, threads, *arguments):
    with parallel_region(threads) as team:
        function(team, *arguments)


def rounding(integer: int, fraction: int, key: np.uint64 | None = None) -> Rounding:
    half = 2.0 ** (integer + fraction - 1)
    scale = 2.0**fraction
    stochastic = key is not None
    return Rounding(scale, 1 / scale, -half, half - 1, key or np.uint64(0), stochastic)


def drawn(places: np.ndarray, key: np.uint64) -> np.ndarray:
    """Return what items draw: SplitMix64, from 0 to 1."""
    golden, one, two = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
    z = places.astype(np.uint64) * np.uint64(golden) + key
    z = (z ^ (z >> np.uint64(30))) * np.uint64(one)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(two)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) / 2.0**53


def expected(x, places, how: Rounding) -> np.ndarray:
    steps = np.clip(x.astype(np.float64) * how.scale, how.low, how.high)
    below = np.floor(steps)
    threshold = drawn(places, how.key) if how.stochastic else 0.5
    return ((below + (steps - below > threshold)) * how.step).astype(x.dtype)


def draw(shape, dtype, seed):
    x = np.random.default_rng(seed).normal(0, 3, shape).astype(dtype)
    if x.size > 4:
        x.reshape(-1)[[0, 1, 2, -1]] = 2.5 / 2**12, np.inf, -np.inf, np.nan
    return x


@shapes
@dtypes
@pytest.mark.parametrize("key", [None, KEY], ids=["nearest", "stochastic"])
@pytest.mark.parametrize("add", [False, True])
def test_images(tensor, shape, dtype, key, add):
    values, how = draw(shape, dtype, 1), rounding(4, 12, key)
    before = np.full(shape, 0.25, dtype)
    x, y = tensor(values), tensor(before)
    samples = np.arange(len(values))[::-1] + 5
    run(round_images, 2, x.images, y.images, samples, tuple(how), add)
    items = int(np.prod(shape[1:]))
    places = (samples[:, None] * items + np.arange(items)).reshape(shape)
    wanted = expected(values, places, how)
    np.testing.assert_array_equal(y.values, before + wanted if add else wanted)
    assert y.neighbours_untouched()
    if not add:
        run(round_images, 3, x.images, x.images, samples, tuple(how), False)
        np.testing.assert_array_equal(x.values, wanted)
        assert x.neighbours_untouched()


@pytest.mark.parametrize("key", [None, KEY], ids=["nearest", "stochastic"])
def test_numbers_of_the_format_stay(key):
    how = rounding(3, 5, key)
    grid = np.arange(how.low, how.high + 1, dtype=np.float32) * np.float32(how.step)
    values = grid.copy()
    run(round_range, 2, values, 0, values.size, tuple(how))
    np.testing.assert_array_equal(values, grid)


@pytest.mark.parametrize("key", [None, KEY], ids=["nearest", "stochastic"])
def test_ends_of_the_range(key):
    values = np.array([7.999, 8, 1e30, np.inf, -8.001, -1e30, -np.inf, np.nan], np.float32)
    run(round_range, 1, values, 0, values.size, tuple(rounding(4, 2, key)))
    ends = values[1:7].tolist()
    assert ends == [7.75, 7.75, 7.75, -8, -8, -8]
    assert np.isnan(values[7])


def test_ties_go_down():
    """As equation (1) of the paper has it; only the sign of zero is not looked at."""
    values = np.array([0.5, 1.5, -0.5, -1.5, 0.501, 0.499], np.float32)
    run(round_range, 1, values, 0, values.size, tuple(rounding(8, 0)))
    assert values.tolist() == [0, 1, -1, -2, 1, 0]


@dtypes
@pytest.mark.parametrize("fraction", [0.5, 0.1, 0.9, 2.0**-10])
@pytest.mark.parametrize("base", [3, -4])
def test_stochastic_rounding_is_unbiased(dtype, fraction, base):
    """The mean of n numbers deviates by less than 5 of its standard deviations."""
    n, step = 1_000_000, 2.0**-6
    print(f"key {KEY}")
    values = np.full(n, (base + fraction) * step, dtype)
    run(round_range, 2, values, 0, n, tuple(rounding(8, 6, KEY)))
    up = values == dtype((base + 1) * step)
    assert ((values == dtype(base * step)) | up).all()
    exact = float(dtype((base + fraction) * step)) / step - base
    deviation = sqrt(exact * (1 - exact) / n)
    assert abs(up.mean() - exact) < 5 * deviation
    # Neighbours draw independently: as often both go up as chance has it.
    both = (up[1:] & up[:-1]).mean()
    assert abs(both - exact**2) < 6 * exact * sqrt(3 * (1 - exact) / n) + 1e-6


def test_a_range_draws_by_places_in_the_whole():
    whole = draw((1, 1, 50_000), np.float32, 3).reshape(-1)
    how = tuple(rounding(4, 12, KEY))
    pieces = whole.copy()
    run(round_range, 1, whole, 0, whole.size, how)
    for begin, end in ((0, 777), (777, 777), (777, 30_000), (30_000, 50_000)):
        run(round_range, 3, pieces, begin, end, how)
    np.testing.assert_array_equal(pieces, whole)


@pytest.mark.parametrize("threads", [2, 3])
def test_the_same_on_any_number_of_threads(tensor, threads):
    values = draw((7, 3, 20_001), np.float32, 4)
    results = []
    for count in (1, threads):
        x = tensor(values)
        arguments = np.arange(7), tuple(rounding(4, 12, KEY)), False
        run(round_images, count, x.images, x.images, *arguments)
        results.append(x.whole.tobytes())
    assert results[0] == results[1]
