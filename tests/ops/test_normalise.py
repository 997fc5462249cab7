"""Normalisation and softmax along axes against NumPy, on any number of threads."""

import numpy as np
import pytest

from lowerconv import nn
from lowerconv.nn import functional as F
from lowerconv.nn.normalise import Normalise, Softmax
from lowerconv.nn.step import Step
from lowerconv.runtime.threads import get_num_threads, set_num_threads

SEED = 11
TOLERANCE = {np.float32: 2e-5, np.float64: 1e-11}
#   shape, axes, period, items of scale and shift
NORMS = [
    ((3, 5, 6), (2,), 1, 6),
    ((2, 5, 6), (1, 2), 1, 30),
    ((2, 6, 20), (2,), 6, 6),  # a set of pixels for each channel: instance norm
    ((2, 2, 60), (2,), 2, 6),  # two groups of three channels
    ((2, 6, 13, 11), (1,), 1, 6),  # channels first
    ((300, 4, 3), (1,), 1, 4),
    ((2, 7, 3000), (2,), 1, 0),
]
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


class Twice(nn.Module):
    """A layer whose operand has another reader, so that its gradient is added to."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return F.concat([self.layer(x), x], 0)


def run(layer, x, dy):
    """Result and gradients of the operand, of a layer and of parameters."""
    net = Twice(layer)
    step = Step(training=True, input_grad=True)
    y = net.run(x, step).copy()
    dx = net.backward(np.concatenate([dy, np.ones_like(dy)])).copy()
    return [y[: len(x)], dx - 1, *(p.grad.copy() for p in layer.own_parameters().values())]


def reference(x, dy, axes, period, weight, bias, eps):
    x, dy = x.astype(np.float64), dy.astype(np.float64)
    first, last = axes[0], axes[-1] + 1
    middle = int(np.prod(x.shape[first:last]))
    outer = int(np.prod(x.shape[:first]))
    cut, dcut = (a.reshape(outer, middle, -1) for a in (x, dy))
    normal = (cut - cut.mean(1, keepdims=True)) / np.sqrt(cut.var(1, keepdims=True) + eps)
    inv_std = 1 / np.sqrt(cut.var(1, keepdims=True) + eps)
    if weight is None:
        weight, bias = np.ones(middle), np.zeros(middle)
        period = 1
    place = (np.arange(outer)[:, None] % period) * middle + np.arange(middle)
    place = place * weight.size // (period * middle)
    y = normal * weight[place][..., None] + bias[place][..., None]
    g = dcut * weight[place][..., None]
    dx = inv_std * (g - g.mean(1, keepdims=True) - normal * (g * normal).mean(1, keepdims=True))
    dw, db = np.zeros(weight.size), np.zeros(weight.size)
    np.add.at(dw, place, (dcut * normal).sum(2))
    np.add.at(db, place, dcut.sum(2))
    return [y.reshape(x.shape), dx.reshape(x.shape), dw, db]


def close(found, expected, dtype, what=""):
    for i, (a, b) in enumerate(zip(found, expected, strict=False)):
        scale = max(1.0, float(np.abs(b).max()))
        assert np.abs(a - b).max() <= TOLERANCE[dtype] * scale, f"{what} {i}, seed {SEED}"


@dtypes
@pytest.mark.parametrize("shape, axes, period, items", NORMS, ids=str)
def test_normalise(shape, axes, period, items, dtype):
    rng = np.random.default_rng(SEED)
    x, dy = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    x = 3 * x + 7
    layer = Normalise(axes, 1e-5, period)
    weight = bias = None
    if items:
        weight, bias = (rng.standard_normal(items).astype(dtype) for _ in range(2))
        layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    expected = reference(x, dy, axes, period, weight, bias, 1e-5)
    threads, found = get_num_threads(), []
    try:
        for count in (1, 3):
            set_num_threads(count)
            found.append(run(layer, x, dy))
    finally:
        set_num_threads(threads)
    close(found[0], expected, dtype)
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))


def test_a_mean_that_is_large_beside_the_deviation():
    x = (1e4 + np.random.default_rng(SEED).standard_normal((4, 3000))).astype(np.float32)
    exact = x.astype(np.float64)
    exact = (exact - exact.mean(1, keepdims=True)) / exact.std(1, keepdims=True)
    assert np.abs(F.normalize(x, (1,), 0.0) - exact).max() < 1e-5


@dtypes
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    "shape, axis",
    [
        *[((3, 7), 1), ((2, 5000), 1), ((2, 6, 13, 11), 1), ((5, 3), 0), ((2500, 2), 1)],
        *[((700, 3), 1), ((3, 63), 1), ((70, 64), 1), ((3, 65), 1), ((4, 1), 1)],
    ],
)
def test_softmax(shape, axis, log, dtype):
    rng = np.random.default_rng(SEED)
    x, dy = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    x = 20 * x
    exact = x.astype(np.float64)
    y = np.exp(exact - exact.max(axis, keepdims=True))
    y /= y.sum(axis, keepdims=True)
    if log:
        dx = dy - y * dy.sum(axis, keepdims=True)
        y = np.log(y)
    else:
        dx = y * (dy - (dy * y).sum(axis, keepdims=True))
    close(run(Softmax(axis, log), x, dy), [y, dx], dtype, "softmax")


@dtypes
@pytest.mark.parametrize("axis", [0, 1])
def test_softmax_of_what_is_masked(axis, dtype):
    x = np.array([[0, -np.inf, 1, np.nan], [-np.inf] * 4, [500, 0, -500, 1]], dtype).T.copy()
    x = x if axis == 0 else x.T.copy()
    y = F.softmax(x, axis)
    with np.errstate(all="ignore"):
        e = np.exp(x - x.max(axis, keepdims=True))
        expected = e / e.sum(axis, keepdims=True)
    assert np.array_equal(np.isnan(y), np.isnan(expected))
    assert np.allclose(y, expected, equal_nan=True)
    ours = F.softmax(np.array([[0, -np.inf, 1]], dtype), 1)
    assert ours[0, 1] == 0


def test_a_part_of_a_concatenation():
    class Beside(nn.Module):
        def forward(self, x):
            return F.concat([F.normalize(x, (2, 3), 1e-5), F.softmax(x, 1)], 1)

    x = np.random.default_rng(SEED).standard_normal((3, 2, 4, 5)).astype(np.float32)
    apart = [F.normalize(x, (2, 3), 1e-5), F.softmax(x, 1)]
    assert np.array_equal(Beside()(x), np.concatenate(apart, 1))


def test_scale_and_shift_that_do_not_fit():
    layer = Normalise((1,), 1e-5)
    layer.weight = nn.Parameter(np.ones(5, np.float32))
    with pytest.raises(ValueError, match="weight: got 5 items"):
        layer(np.ones((2, 7), np.float32))
