"""Arrays joined along any axis, and zeros around them, in networks: beside NumPy."""

import numpy as np
import pytest

from lowerconv import nn
from lowerconv.nn import functional as F

STEP = nn.Step(training=True, input_grad=True)


class Module(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 2, 3, 1), (2, 3)], ids=str)
def test_joined(shape, dtype):
    x = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    for axis in range(-1, len(shape)):

        def function(x, axis=axis):
            return F.concat([x, F.pointwise(x, "abs"), F.pointwise(x, "affine", 2.0, 0.0)], axis)

        expected = np.concatenate([x, np.abs(x), 2 * x], axis)
        network = Module(function)
        for _ in range(4):
            np.testing.assert_array_equal(network(x), expected)
        infer = network.compile(x.shape) if dtype == np.float32 else network
        for _ in range(4):
            np.testing.assert_array_equal(infer(x), expected)
        network.run(x, STEP)
        dy = np.random.default_rng(2).standard_normal(expected.shape).astype(dtype)
        a, b, c = np.split(dy, 3, axis)
        np.testing.assert_allclose(network.backward(dy), a + np.sign(x) * b + 2 * c, rtol=1e-5)


@pytest.mark.parametrize("widths", [(0, 2, 0), (1, 0, 0), (0, 0, 3), (1, 0, 2)], ids=str)
@pytest.mark.parametrize("after", [0, 1])
def test_padded(widths, after):
    x = np.random.default_rng(1).standard_normal((2, 3, 4)).astype(np.float32)
    pads = [(n, n * after) for n in widths]
    network = Module(lambda x: F.pad(F.pointwise(x, "abs"), pads, "constant"))
    expected = np.pad(np.abs(x), pads)
    infer = network.compile(x.shape)
    for _ in range(4):
        np.testing.assert_array_equal(network(x), expected)
        np.testing.assert_array_equal(infer(x), expected)
    network.run(x, STEP)
    dy = np.random.default_rng(2).standard_normal(expected.shape).astype(np.float32)
    inside = tuple(slice(a, a + n) for (a, _), n in zip(pads, x.shape, strict=True))
    np.testing.assert_array_equal(network.backward(dy), dy[inside] * np.sign(x))
