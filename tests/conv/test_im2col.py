"""Lowering and its transpose, piece by piece, against the definition."""

import numpy as np
import pytest

from lowerconv.conv.blas.epilogue import gather, store
from lowerconv.conv.blas.im2col import Block, col2im, lower
from lowerconv.conv.problem import conv_problem

PROBLEMS = {
    "padded": conv_problem((3, 2, 6, 5), (1, 2, 3, 3), padding=1),
    "strided-asymmetric": conv_problem(
        (2, 3, 7, 9), (1, 3, 2, 3), stride=(2, 3), padding=((2, 0), (1, 3))
    ),
    "dilated": conv_problem((2, 2, 9, 9), (1, 2, 3, 2), dilation=(3, 2)),
    "padding-wider-than-image": conv_problem((2, 1, 2, 3), (1, 1, 2, 2), padding=5),
    "1x1": conv_problem((2, 3, 4, 4), (1, 3, 1, 1)),
}


def lowered(p, x):
    """The whole lowered matrix by its definition."""
    (top, bottom), (left, right) = p.padding
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    matrix = np.empty((p.C, p.R, p.S, p.N, p.P, p.Q), x.dtype)
    for r in range(p.R):
        for s in range(p.S):
            h, w = r * p.dilation[0], s * p.dilation[1]
            rows = padded[:, :, h : h + p.stride[0] * (p.P - 1) + 1 : p.stride[0]]
            pixels = rows[..., w : w + p.stride[1] * (p.Q - 1) + 1 : p.stride[1]]
            matrix[:, r, s] = pixels.transpose(1, 0, 2, 3)
    return matrix.reshape(p.C * p.R * p.S, p.N * p.P * p.Q)


def pieces(p):
    """Every cut of the matrix: whole, single rows and columns, and odd blocks."""
    rows, columns = p.C * p.R * p.S, p.N * p.P * p.Q
    yield 0, rows, 0, columns
    for k in range(rows):
        yield k, k + 1, 1, columns - 1
    for j in range(columns):
        yield 0, rows, j, j + 1
    rng = np.random.default_rng(3)
    for _ in range(50):
        k0, k1 = sorted(rng.integers(0, rows + 1, 2))
        j0, j1 = sorted(rng.integers(0, columns + 1, 2))
        yield k0, k1, j0, j1


@pytest.mark.parametrize("name", PROBLEMS)
def test_any_block_of_the_lowered_matrix(name):
    p = PROBLEMS[name]
    x = np.random.default_rng(1).standard_normal(p.x_shape).astype(np.float32)
    matrix = lowered(p, x)
    for k0, k1, j0, j1 in pieces(p):
        panel = np.full((k1 - k0 + 1, j1 - j0 + 5), np.nan, np.float32)
        lower(x, 0, Block(k0, k1, j0, j1), p.geometry, panel, 3)
        assert np.array_equal(panel[: k1 - k0, 3 : 3 + j1 - j0], matrix[k0:k1, j0:j1])
        assert np.isnan(panel[:, :3]).all()  # and nothing beside it was written
        assert np.isnan(panel[:, 3 + j1 - j0 :]).all()
        assert np.isnan(panel[k1 - k0 :]).all()


@pytest.mark.parametrize("name", PROBLEMS)
def test_raising_is_the_transpose(name):
    """<lower(x), m> = <x, raise(m)> for any block."""
    p = PROBLEMS[name]
    rng = np.random.default_rng(2)
    x = rng.standard_normal(p.x_shape)
    matrix = lowered(p, x)
    for k0, k1, j0, j1 in pieces(p):
        panel = rng.standard_normal((k1 - k0, j1 - j0 + 2))
        raised = np.zeros_like(x)
        col2im(panel, 2, 0, Block(k0, k1, j0, j1), p.geometry, raised)
        np.testing.assert_allclose(
            (raised * x).sum(), (panel[:, 2:] * matrix[k0:k1, j0:j1]).sum(), rtol=1e-9, atol=1e-9
        )


def test_store_and_gather_are_inverse():
    rng = np.random.default_rng(4)
    y = rng.standard_normal((3, 5, 7))
    matrix = y.transpose(1, 0, 2).reshape(5, 21)
    none = np.empty(0)
    for k0, k1, j0, j1 in ((0, 5, 0, 21), (2, 4, 3, 17), (1, 2, 7, 14), (0, 5, 20, 21)):
        tile = np.zeros((k1 - k0, j1 - j0 + 2))
        gather(y, Block(k0, k1, j0, j1), tile, 1)
        assert np.array_equal(tile[:, 1:-1], matrix[k0:k1, j0:j1])
        stored = np.full_like(y, np.nan)
        store(tile, 1, Block(k0, k1, j0, j1), none, False, stored)
        back = stored.transpose(1, 0, 2).reshape(5, 21)
        assert np.array_equal(back[k0:k1, j0:j1], matrix[k0:k1, j0:j1])
        assert np.isnan(back).sum() == back.size - (k1 - k0) * (j1 - j0)


def test_store_adds_the_bias_then_applies_relu():
    tile = np.array([[1.0, -3.0, np.nan]])
    y = np.empty((1, 1, 3))
    store(tile, 0, Block(0, 1, 0, 3), np.array([2.0]), True, y)
    assert y[0, 0, 0] == 3
    assert y[0, 0, 1] == 0
    assert np.isnan(y[0, 0, 2])
