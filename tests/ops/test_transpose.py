"""Transposing by compiled loops, beside NumPy."""

from itertools import permutations

import numpy as np
import pytest

import lowerconv as lc
from lowerconv.nn import Module
from lowerconv.nn.functional import transpose
from lowerconv.ops import transpose as ops
from lowerconv.runtime.threads import run

SHAPES = (
    (3, 5),
    (4, 1, 7),
    (2, 3, 4, 5),
    (1, 6, 1, 9),
    (2, 3, 1, 4, 5),
    (1, 1, 1),
    (2, 3, 4, 5, 2),
    (3, 1030, 2),
    (2, 17, 19, 3),
)


@pytest.mark.parametrize("threads", (1, 3))
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_order_of_axes(shape, dtype, threads):
    before = lc.get_num_threads()
    lc.set_num_threads(threads)
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    try:
        for axes in permutations(range(len(shape))):
            gather = ops.merged(shape, axes)
            moved = x.transpose(axes)
            if gather is None:
                assert sum(n > 1 for n in shape) > ops.AXES
                continue
            y = np.full(x.size, np.nan, dtype)
            run(ops.transpose, x.reshape(-1), y, gather)
            np.testing.assert_array_equal(y.reshape(moved.shape), moved)
    finally:
        lc.set_num_threads(before)


def test_neighbours_that_stay_together_are_one_axis():
    assert ops.merged((2, 3, 4, 5), (0, 2, 3, 1)) == ((1, 2, 20, 3), (0, 60, 1, 20))
    assert ops.merged((2, 3, 4, 5), (0, 1, 2, 3)) == ((1, 1, 1, 120), (0, 0, 0, 1))
    assert ops.merged((2, 0, 4), (2, 1, 0)) is None


class Moved(Module):
    def forward(self, x):
        return transpose(x, (0, 2, 3, 1))


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_in_a_network(dtype):
    x = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).astype(dtype)
    np.testing.assert_array_equal(Moved()(x), x.transpose(0, 2, 3, 1))
