"""Batch normalisation and its gradient against the formulas in float64, and against PyTorch."""

from itertools import pairwise

import numpy as np
import pytest

from lowerconv.ops.batch_norm import (
    Operands,
    Parameters,
    Statistics,
    batch_norm,
    channel_statistics,
    finish,
    merge,
    normalise,
)
from lowerconv.ops.batch_norm_grad import (
    GradOperands,
    batch_norm_grad,
    gradient_sums,
    input_gradient,
)
from lowerconv.ops.images import Images
from lowerconv.runtime.threads import parallel_region

EPS, MOMENTUM = 1e-5, 0.1
# Few channels and many, few pixels and more than one piece of a plane.
SHAPES = [(3, 5, 7), (1, 1, 40_001), (4, 67, 49), (2, 3, 1), (33, 9, 200)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def none(x):
    """Return no images, of the dtype of some."""
    return x._replace(flat=x.flat[:0])


def run(function, threads, *arguments):
    with parallel_region(threads) as team:
        function(team, *arguments)


def per_channel(values):
    return np.asarray(values, np.float64)[:, None]


def tolerances(dtype):
    return {"rtol": 1e-10, "atol": 1e-10} if dtype == np.float64 else {"rtol": 1e-5, "atol": 2e-5}


class Problem:
    """Operands, and what comes out of them."""

    def __init__(self, shape, dtype, relu, with_residual, seed=1):
        rng = np.random.default_rng(seed)
        self.shape, self.dtype, self.relu = shape, dtype, relu
        draw = rng.standard_normal
        self.x = (3 * draw(shape) + 2).astype(dtype)
        self.residual = draw(shape).astype(dtype) if with_residual else np.empty(0, dtype)
        self.gamma, self.beta = (draw(shape[1]).astype(dtype) for _ in range(2))
        self.running = draw(shape[1]).astype(dtype), draw(shape[1]).astype(dtype) ** 2
        self.dy = draw(shape).astype(dtype)

        x = self.x.astype(np.float64)
        self.count = shape[0] * shape[2]
        self.mean, self.var = x.mean((0, 2)), x.var((0, 2))
        inv_std = 1 / np.sqrt(self.var + EPS)
        xhat = (x - per_channel(self.mean)) * per_channel(inv_std)
        y = xhat * per_channel(self.gamma) + per_channel(self.beta)
        y = y + self.residual if with_residual else y
        self.y = np.maximum(y, 0) if relu else y

        g = np.where(y > 0, self.dy, 0) if relu else self.dy.astype(np.float64)
        self.g = g
        self.dbeta, self.dgamma = g.sum((0, 2)), (g * xhat).sum((0, 2))
        centred = g - per_channel(self.dbeta / self.count)
        centred -= xhat * per_channel(self.dgamma / self.count)
        self.dx = centred * per_channel(self.gamma * inv_std)

    def close(self, got, expected):
        scale = max(1.0, float(np.abs(expected).max(initial=0)))
        np.testing.assert_allclose(got / scale, expected / scale, **tolerances(self.dtype))

    def forward(self, tensor, threads, onto=None):
        """Run; return the result, the statistics and the operands."""
        x, C = tensor(self.x), self.shape[1]
        residual = tensor(self.residual) if self.residual.size else None
        y = {"x": x, "residual": residual}.get(onto) or tensor(np.full(self.shape, 7, self.dtype))
        statistics = Statistics(np.empty(C), np.empty(C))
        running = [values.copy() for values in self.running]
        parameters = Parameters(self.gamma, self.beta, *running, EPS, MOMENTUM)
        added = residual.images if residual else none(x.images)
        operands = Operands(x.images, y.images, added)
        run(batch_norm, threads, operands, statistics, parameters, self.relu)
        assert all(t is None or t.neighbours_untouched() for t in (x, y, residual))
        return y.values, *statistics, *running

    def backward(self, tensor, threads, mean, inv_std, onto=None, add=False):
        """Run; return dx, dgamma, dbeta and the gradient of the residual."""
        C = self.shape[1]
        x, y, dy = tensor(self.x), tensor(self.y.astype(self.dtype)), tensor(self.dy)
        dx = dy if onto == "dx" else tensor(np.full(self.shape, np.nan, self.dtype))
        there = np.full(self.shape, 2 if add else np.nan, self.dtype)
        residual = None
        if self.residual.size:
            residual = dy if onto == "residual" else tensor(there)
        wanted = residual.images if residual else none(x.images)
        operands = GradOperands(dy.images, y.images, x.images, dx.images, wanted)
        statistics = Statistics(mean, inv_std)
        dgamma, dbeta = np.empty(C, self.dtype), np.empty(C, self.dtype)
        run(
            batch_norm_grad,
            threads,
            operands,
            statistics,
            self.gamma,
            dgamma,
            dbeta,
            self.relu,
            add,
        )
        assert all(t is None or t.neighbours_untouched() for t in (x, y, dy, dx, residual))
        return dx.values, dgamma, dbeta, None if residual is None else residual.values


@shapes
@dtypes
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
def test_against_the_formulas(tensor, shape, dtype, relu, with_residual):
    p = Problem(shape, dtype, relu, with_residual)
    y, mean, inv_std, running_mean, running_var = p.forward(tensor, 2)
    p.close(y, p.y)
    p.close(mean, p.mean)
    np.testing.assert_allclose(inv_std, 1 / np.sqrt(p.var + EPS), rtol=1e-5)
    unbiased = p.var * p.count / max(1, p.count - 1)
    p.close(running_mean, (1 - MOMENTUM) * p.running[0] + MOMENTUM * p.mean)
    p.close(running_var, (1 - MOMENTUM) * p.running[1] + MOMENTUM * unbiased)
    for onto in ("x", "residual") if with_residual else ("x",):
        assert np.array_equal(p.forward(tensor, 2, onto)[0], y)

    for onto, add in ((None, False), (None, True), ("dx", False), ("residual", False)):
        dx, dgamma, dbeta, residual = p.backward(tensor, 2, mean, inv_std, onto, add)
        p.close(dx, p.dx)
        p.close(dgamma, p.dgamma)
        p.close(dbeta, p.dbeta)
        if residual is not None:
            p.close(residual, p.g + 2 if add else p.g)


@shapes
def test_the_same_on_any_number_of_threads(tensor, shape):
    p = Problem(shape, np.float32, True, True)
    first = p.forward(tensor, 1)
    gradients = p.backward(tensor, 1, *first[1:3])
    for threads in (2, 3, 5):
        for one, other in zip(first, p.forward(tensor, threads), strict=True):
            assert np.array_equal(one, other)
        for one, other in zip(gradients, p.backward(tensor, threads, *first[1:3]), strict=True):
            assert np.array_equal(one, other)


@shapes
def test_ranks_that_merge_their_sums_compute_the_same(tensor, shape):
    p = Problem(shape, np.float64, True, False)
    N, C, pixels = shape
    cuts = [0, N // 3, N // 3, N]  # a rank without images, too
    ranks = [slice(a, b) for a, b in pairwise(cuts)]
    total = 0.0, np.zeros(C), np.zeros(C)
    for part in ranks:
        x, mean, m2 = tensor(p.x[part]), np.empty(C), np.empty(C)
        run(channel_statistics, 2, x.images, mean, m2)
        more = float(len(p.x[part]) * pixels)
        merged = [merge(total[0], total[1][c], total[2][c], more, mean[c], m2[c]) for c in range(C)]
        total = merged[0][0], *(np.array(column) for column in list(zip(*merged, strict=True))[1:])
    statistics = Statistics(total[1], np.empty(C))
    running = [values.copy() for values in p.running]
    parameters = Parameters(p.gamma, p.beta, *running, EPS, MOMENTUM)
    finish(statistics, total[2], p.count, parameters, 0, C)

    y, dx = np.empty(shape), np.empty(shape)

    def images(values):
        return Images(values.reshape(-1), C * pixels, len(values), C, 1, pixels)

    def grad_operands(part):
        dy, result, x, gradient = (images(a[part]) for a in (p.dy, y, p.x, dx))
        return GradOperands(dy, result, x, gradient, none(x))

    own, sums = np.empty((2, C)), np.zeros((2, C))
    for part in ranks:
        x = images(p.x[part])
        operands = Operands(x, images(y[part]), none(x))
        run(normalise, 2, operands, statistics, parameters, True)
        run(gradient_sums, 2, grad_operands(part), statistics, own, True, False)
        sums += own
    for part in ranks:
        run(input_gradient, 2, grad_operands(part), statistics, p.gamma, sums, p.count, True)
    p.close(y, p.y)
    p.close(dx, p.dx)
    p.close(sums[1], p.dgamma)


@pytest.mark.parametrize("first", ["alike", "zeros"])
def test_a_large_mean_beside_a_small_variance(first):
    rng = np.random.default_rng(4)
    N, C, pixels = 32, 6, 300
    x = (1000 + 0.01 * rng.standard_normal((N, C, pixels))).astype(np.float32)
    if first == "zeros":  # the range that the others are measured from is far from them
        x[0] = 0
    mean, m2 = np.empty(C), np.empty(C)
    run(channel_statistics, 2, Images(x.reshape(-1), C * pixels, N, C, 1, pixels), mean, m2)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean((0, 2)), rtol=1e-9)
    np.testing.assert_allclose(m2 / (N * pixels), exact.var((0, 2)), rtol=1e-5)


def test_no_images_change_nothing():
    empty, ones = Images(np.empty(0, np.float32), 12, 0, 3, 1, 4), np.ones(3, np.float32)
    statistics = Statistics(np.empty(3), np.empty(3))
    running = [np.full(3, 5, np.float32), np.full(3, 6, np.float32)]
    parameters = Parameters(ones, ones, *running, EPS, MOMENTUM)
    run(batch_norm, 2, Operands(empty, empty, empty), statistics, parameters, False)
    assert (running[0] == 5).all()
    assert (running[1] == 6).all()
    dgamma, dbeta = np.full(3, np.nan, np.float32), np.full(3, np.nan, np.float32)
    operands = GradOperands(empty, empty, empty, empty, empty)
    run(batch_norm_grad, 2, operands, statistics, ones, dgamma, dbeta, False, False)
    assert (dgamma == 0).all()
    assert (dbeta == 0).all()


def test_a_nan_stays_in_its_channel(tensor):
    p = Problem((3, 9, 50), np.float32, True, False)
    p.x[1, 2, 3] = np.nan
    y = p.forward(tensor, 2)[0]
    assert np.isnan(y[:, 2]).all()
    assert not np.isnan(np.delete(y, 2, 1)).any()


@pytest.mark.parametrize("shape", [s for s in SHAPES if s[0] * s[2] > 2], ids=str)
@dtypes
@pytest.mark.parametrize("relu", [False, True])
def test_agrees_with_pytorch(tensor, shape, dtype, relu):
    torch = pytest.importorskip("torch")
    p = Problem(shape, dtype, relu, True)
    x, residual, gamma, beta = (
        torch.tensor(v, requires_grad=True) for v in (p.x, p.residual, p.gamma, p.beta)
    )
    running = [torch.tensor(v) for v in p.running]
    result = torch.nn.functional.batch_norm(x, *running, gamma, beta, True, MOMENTUM, EPS)
    result = result + residual
    result = result.relu() if relu else result
    y, mean, inv_std, *own = p.forward(tensor, 2)
    tolerance = 1e-9 if dtype == np.float64 else 1e-4
    result.backward(torch.from_numpy(p.dy))
    p.y = y
    dx, dgamma, dbeta, dresidual = p.backward(tensor, 2, mean, inv_std)
    computed = (y, *own, dx, dgamma, dbeta, dresidual)
    right = (result.detach(), *running, x.grad, gamma.grad, beta.grad, residual.grad)
    for got, expected in zip(computed, right, strict=True):
        expected = expected.numpy()
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(got / scale, expected / scale, tolerance, tolerance)
