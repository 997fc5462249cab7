"""Ternary weights against the formulas in NumPy."""

import numpy as np
import pytest

from lowerconv.ops.ternary import ternarize_rows
from lowerconv.runtime.threads import parallel_region


def ternary(row: np.ndarray) -> np.ndarray:
    magnitudes = np.abs(row.astype(np.float64))
    above = magnitudes > 0.7 * magnitudes.mean()
    scale = magnitudes[above].mean() if above.any() else 0.0
    return np.sign(row) * above * scale


def run(w: np.ndarray, threads: int = 2) -> np.ndarray:
    t = np.full_like(w, 3)
    with parallel_region(threads) as team:
        ternarize_rows(team, w, t)
    return t


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1), (5, 27), (3, 5000)], ids=str)
def test_rows(dtype, shape):
    seed = 11
    print(f"seed {seed}")
    w = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    t = run(w)
    expected = np.stack([ternary(row) for row in w])
    error = np.finfo(dtype).eps + shape[1] * np.finfo(np.float64).eps  # of float64 sums
    np.testing.assert_allclose(t, expected, rtol=error)
    for row in t:
        assert len(np.unique(np.abs(row[row != 0]))) <= 1
    np.testing.assert_array_equal(run(w, 3), t)


def test_zeros_stay_zeros():
    assert not run(np.zeros((2, 9), np.float32)).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_with_a_number_that_is_not_finite_is_no_number(bad):
    w = np.ones((3, 9), np.float32)
    w[1, 4] = bad
    t = run(w)
    assert np.isnan(t[1]).all()
    np.testing.assert_array_equal(t[[0, 2]], 1)
