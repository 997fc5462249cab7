"""Products of few rows, beside NumPy's."""

import numpy as np
import pytest

from lowerconv.ops.few_rows import (
    FEW,
    STRIP,
    few_rows,
    few_rows_input_grad,
    few_rows_weight_grad,
)
from lowerconv.runtime.threads import parallel_region


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("N", "inputs", "outputs"), [(1, 1, 1), (1, 300, 7), (FEW, 33, 65)])
def test_beside_numpy(N, inputs, outputs, dtype):
    rng = np.random.default_rng(11)
    x, w = (rng.standard_normal(s).astype(dtype) for s in ((N, inputs), (outputs, inputs)))
    bias = rng.standard_normal(outputs).astype(dtype)
    expected = x.astype(np.float64) @ w.T.astype(np.float64)
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    bits = set()
    for threads in (1, 2, 3, 5):
        cases = ((bias, True, False), (bias, False, True), (bias[:0], False, False))
        for given, relu, add in cases:
            y = np.full((N, outputs), 3 if add else np.nan, dtype)
            with parallel_region(threads) as team:
                few_rows(team, x, w, given, y, relu, add)
            right = expected + (given if given.size else 0) + 3 * add
            right = np.maximum(right, 0) if relu else right
            np.testing.assert_allclose(y, right, rtol=tolerance, atol=20 * tolerance)
        bits.add(y.tobytes())
    assert len(bits) == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("N", "inputs", "outputs"),
    [(0, 5, 3), (1, 1, 1), (1, STRIP + 33, 7), (3, 33, 65), (FEW, 2 * STRIP, 4)],
)
def test_gradients_beside_numpy(N, inputs, outputs, dtype):
    rng = np.random.default_rng(12)
    shapes = (N, inputs), (outputs, inputs), (N, outputs)
    x, w, dy = (rng.standard_normal(s).astype(dtype) for s in shapes)
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    wide = [array.astype(np.float64) for array in (x, w, dy)]
    for kernel, operand, right in (
        (few_rows_input_grad, w, wide[2] @ wide[1]),
        (few_rows_weight_grad, x, wide[2].T @ wide[0]),
    ):
        bits = set()
        for threads in (1, 2, 3, 5):
            for add in (False, True):
                out = np.full(right.shape, 3 if add else np.nan, dtype)
                with parallel_region(threads) as team:
                    kernel(team, dy, operand, out, add)
                np.testing.assert_allclose(
                    out, right + 3 * add, rtol=tolerance, atol=30 * tolerance
                )
            bits.add(out.tobytes())
        assert len(bits) == 1


def test_nan_stays():
    x, w = np.array([[np.nan, 1]], np.float32), np.ones((2, 2), np.float32)
    y = np.zeros((1, 2), np.float32)
    with parallel_region(1) as team:
        few_rows(team, x, w, w.reshape(-1)[:0], y, True, False)
    assert np.isnan(y).all()
