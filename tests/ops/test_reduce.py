"""Sums and extremes by compiled loops, beside NumPy's."""

import numpy as np
import pytest

from lowerconv.ops.reduce import MAX, MIN, SUM, reduce
from lowerconv.runtime.threads import parallel_region

SIZES = [(1, 1, 1), (5, 2, 1), (3, 40, 1), (3, 31, 1), (2, 1000, 1), (2, 7, 3), (3, 5, 1100)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_beside_numpy(sizes, dtype):
    rng = np.random.default_rng(3)
    x = rng.standard_normal(sizes).astype(dtype)
    for nan in (False, True):
        if nan:
            x[0, sizes[1] // 2, 0] = np.nan
        exact = x.astype(np.float64)
        expected = {
            (SUM, 1.0): exact.sum(1),
            (SUM, 0.25): exact.sum(1) / 4,
            (MAX, 1.0): exact.max(1),
            (MIN, 1.0): exact.min(1),
        }
        for (kind, factor), right in expected.items():
            bits = set()
            for threads in (1, 2, 3):
                y = np.full((sizes[0], sizes[2]), 9, dtype)
                with parallel_region(threads) as team:
                    reduce(team, x.reshape(-1), y.reshape(-1), sizes, kind, factor)
                tolerance = 1e-5 if dtype == np.float32 else 1e-13
                np.testing.assert_allclose(y, right, rtol=tolerance, atol=tolerance)
                bits.add(y.tobytes())
            assert len(bits) == 1
