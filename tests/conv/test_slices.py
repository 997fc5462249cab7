"""Images that are some channels of larger ones: read and written where they are."""

import numpy as np
import pytest

import lowerconv as lc
from lowerconv.conv.problem import conv_problem

#          N, C, K, R, S, H, W, stride, padding, groups
SHAPES = [
    (3, 5, 7, 3, 3, 9, 11, 1, 1, 1),
    (5, 16, 24, 1, 1, 7, 7, 1, 0, 1),
    (3, 20, 33, 3, 3, 17, 14, 1, 1, 1),
    (2, 8, 12, 5, 5, 12, 12, 2, 2, 2),
    (4, 6, 6, 3, 3, 10, 13, 1, 1, 6),
    (7, 3, 20, 2, 2, 4, 4, 1, 0, 1),
    (1, 4, 4, 3, 3, 6, 6, 1, 1, 1),
]


def among_others(array, before, after, rng):
    """Return a copy of the images as some channels of larger ones, and those."""
    N, C, H, W = array.shape
    whole = rng.standard_normal((N, before + C + after, H, W)).astype(array.dtype)
    whole[:, before : before + C] = array
    return whole[:, before : before + C], whole


@pytest.mark.parametrize("algorithm", lc.algorithms())
@pytest.mark.parametrize("N, C, K, R, S, H, W, stride, padding, groups", SHAPES)
def test_slices_of_channels(N, C, K, R, S, H, W, stride, padding, groups, algorithm):
    problem = conv_problem((N, C, H, W), (K, C // groups, R, S), stride, padding, 1, groups)
    if algorithm not in lc.algorithms(problem):
        pytest.skip(f"{algorithm} is not for such filters")
    rng = np.random.default_rng(42)
    x = rng.standard_normal((N, C, H, W)).astype(np.float32)
    w = rng.standard_normal((K, C // groups, R, S)).astype(np.float32)
    options = {"stride": stride, "padding": padding, "groups": groups, "algorithm": algorithm}
    y = lc.conv2d(x, w, **options)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    x_slice, _ = among_others(x, 2, 1, rng)
    dy_slice, _ = among_others(dy, 0, 3, rng)

    def check(expected, run):
        out, whole = among_others(np.empty_like(expected), 1, 2, rng)
        before = whole.copy()
        assert run(out) is out
        np.testing.assert_array_equal(out, expected)
        np.testing.assert_array_equal(whole[:, :1], before[:, :1])
        np.testing.assert_array_equal(whole[:, -2:], before[:, -2:])

    check(y, lambda out: lc.conv2d(x_slice, w, out=out, **options))
    check(
        lc.conv2d_input_grad(dy, w, x.shape, **options),
        lambda out: lc.conv2d_input_grad(dy_slice, w, x.shape, out=out, **options),
    )
    np.testing.assert_array_equal(
        lc.conv2d_weight_grad(dy_slice, x_slice, w.shape, **options),
        lc.conv2d_weight_grad(dy, x, w.shape, **options),
    )


def test_filters_in_slices_are_copied():
    """Only images may lie apart: every other filter of an array is not where kernels look."""
    rng = np.random.default_rng(43)
    x = rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    w = rng.standard_normal((10, 3, 3, 3)).astype(np.float32)
    np.testing.assert_array_equal(lc.conv2d(x, w[::2]), lc.conv2d(x, w[::2].copy()))
    dw = np.zeros((10, 3, 3, 3), np.float32)
    dy = rng.standard_normal((2, 5, 6, 6)).astype(np.float32)
    lc.conv2d_weight_grad(dy, x, (5, 3, 3, 3), out=dw[::2])
    np.testing.assert_array_equal(dw[::2], lc.conv2d_weight_grad(dy, x, (5, 3, 3, 3)))
    assert not dw[1::2].any()
