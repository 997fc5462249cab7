"""Pooling and its gradients, window by window as the definition says."""

import zlib

import numpy as np
import pytest

from lowerconv.ops.avg_pool import avg_pool, avg_pool_grad
from lowerconv.ops.images import Images
from lowerconv.ops.max_pool import max_pool, max_pool_grad
from lowerconv.ops.windows import Windows
from lowerconv.runtime.threads import parallel_region


def pooled(extent, size, stride, pad, ceil_mode):
    """The number of windows along an axis, as PyTorch counts them."""
    room = extent + 2 * pad - size
    windows = (-(-room // stride) if ceil_mode else room // stride) + 1
    return windows - 1 if ceil_mode and (windows - 1) * stride >= extent + pad else windows


def windows(shape, size, stride, pad, P, Q):
    """Yield p, q, the rows and columns inside, and where they begin in the window."""
    H, W = shape
    for p in range(P):
        for q in range(Q):
            h, w = p * stride[0] - pad[0], q * stride[1] - pad[1]
            rows = slice(max(h, 0), min(h + size[0], H))
            columns = slice(max(w, 0), min(w + size[1], W))
            yield p, q, rows, columns, (rows.start - h, columns.start - w)


def slow_max(x, P, Q, size, stride, pad):
    """Values and tap numbers: the first of equal pixels, the last NaN."""
    N, C, *plane = x.shape
    y, number = np.empty((N, C, P, Q), x.dtype), np.empty((N, C, P, Q), int)
    for p, q, rows, columns, (r0, s0) in windows(plane, size, stride, pad, P, Q):
        part = x[:, :, rows, columns]
        R, S = part.shape[2:]
        part = part.reshape(N, C, R * S)
        nan = np.isnan(part)
        last = R * S - 1 - nan[..., ::-1].argmax(2)
        best = np.where(nan.any(2), last, part.argmax(2))  # of equal ones argmax is the first
        y[:, :, p, q] = np.take_along_axis(part, best[..., None], 2)[..., 0]
        number[:, :, p, q] = (r0 + best // S) * size[1] + s0 + best % S
    return y, number


def slow_max_grad(dy, number, shape, size, stride, pad):
    N, C = shape[:2]
    P, Q = dy.shape[2:]
    dx = np.zeros(shape)
    n, c, p, q = np.indices((N, C, P, Q))
    r, s = np.divmod(number, size[1])
    pixels = n, c, p * stride[0] - pad[0] + r, q * stride[1] - pad[1] + s
    np.add.at(dx, pixels, dy)
    return dx


def slow_avg(x, P, Q, size, stride, pad, count_pad):
    """The means, and the gradient of a function of them."""
    N, C, H, W = x.shape
    y = np.empty((N, C, P, Q))
    weights = np.empty((P, Q))
    for p, q, rows, columns, _ in windows((H, W), size, stride, pad, P, Q):
        h, w = p * stride[0] - pad[0], q * stride[1] - pad[1]
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        if count_pad:
            area = (min(h + size[0], H + pad[0]) - h) * (min(w + size[1], W + pad[1]) - w)
        weights[p, q] = 1 / area
        y[:, :, p, q] = x[:, :, rows, columns].sum((2, 3)) / area

    def gradient(dy):
        dx = np.zeros(x.shape)
        for p, q, rows, columns, _ in windows((H, W), size, stride, pad, P, Q):
            dx[:, :, rows, columns] += (dy[:, :, p, q] * weights[p, q])[..., None, None]
        return dx

    return y, gradient


CASES = {
    # N, C, H, W, size, stride, pad, ceil_mode
    "2x2": (3, 5, 14, 14, (2, 2), (2, 2), (0, 0), False),
    "3x3-2-ceil": (2, 3, 28, 28, (3, 3), (2, 2), (0, 0), True),
    "3x3-2-pad": (2, 3, 31, 30, (3, 3), (2, 2), (1, 1), False),
    "3x3-1": (4, 9, 7, 7, (3, 3), (1, 1), (1, 1), False),
    "wide-rows": (1, 2, 9, 75, (3, 3), (1, 1), (1, 1), False),
    "many-bands": (1, 2, 150, 90, (3, 3), (2, 2), (1, 1), True),
    "one-row": (1, 1, 1, 9, (1, 3), (1, 4), (0, 1), True),
    "uneven": (2, 3, 7, 5, (3, 2), (2, 1), (1, 1), False),
    "gaps": (2, 2, 13, 17, (2, 2), (5, 3), (1, 0), False),
    "last-begins-in-padding": (1, 2, 5, 5, (2, 2), (3, 3), (1, 1), True),
    "no-images": (0, 3, 6, 6, (2, 2), (2, 2), (0, 0), False),
    "global": (2, 5, 7, 7, (7, 7), (1, 1), (0, 0), False),
    "global-wide": (1, 3, 50, 61, (50, 61), (50, 61), (0, 0), False),
    "larger-than-plane": (1, 2, 3, 4, (5, 6), (1, 1), (2, 3), False),
    "huge": (1, 2, 40, 37, (17, 23), (2, 3), (8, 11), True),
    "1x1": (2, 2, 5, 6, (1, 1), (1, 1), (0, 0), False),
    "1x1-2": (2, 2, 9, 9, (1, 1), (2, 2), (0, 0), False),
    "4x4-1": (1, 2, 9, 20, (4, 4), (1, 1), (2, 2), False),
    "5x5-2": (1, 2, 21, 20, (5, 5), (2, 2), (2, 2), False),
    "6x2-3x1": (1, 2, 21, 20, (6, 2), (3, 1), (1, 0), False),
}


def random_case(rng):
    size = tuple(map(int, rng.integers(1, 6, 2)))
    stride = tuple(map(int, rng.integers(1, 5, 2)))
    pad = tuple(int(rng.integers(0, s // 2 + 1)) for s in size)
    H, W = (int(rng.integers(max(1, s - 2 * p), 40)) for s, p in zip(size, pad, strict=True))
    N, C = map(int, rng.integers(1, 5, 2))
    return N, C, H, W, size, stride, pad, bool(rng.integers(2))


for seed in range(40):
    CASES[f"seed-{seed}"] = random_case(np.random.default_rng(seed))

cases = pytest.mark.parametrize("name", CASES)


def problem(name):
    """Return the extents that kernels take, and a source of numbers."""
    N, C, H, W, size, stride, pad, ceil_mode = CASES[name]
    P, Q = (pooled(*v, ceil_mode) for v in zip((H, W), size, stride, pad, strict=True))
    print(name, CASES[name])
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return (N, C, H, W, P, Q, size, stride, pad), rng


def numbers_for(size):
    return np.uint8 if size[0] * size[1] <= 256 else np.uint16


def images(values, shape):
    """Return a plain tensor as kernels take it."""
    N, C, H, W = shape
    return Images(values.reshape(-1), C * H * W, N, C, H, W)


def run(function, threads, *arguments):
    with parallel_region(threads) as team:
        function(team, *arguments)


def check_max(tensor, x, extents, threads=2, sliced=True):
    """Compare values, winners and gradients; return them."""
    N, C, _, _, P, Q, size, stride, pad = extents
    source, target = tensor(x, sliced), tensor(np.full((N, C, P, Q), 5, x.dtype), sliced)
    winner = np.full(N * C * P * Q, 99, numbers_for(size))
    operands, windows = (source.images, target.images), Windows(size, stride, pad)
    expected, number = slow_max(x, P, Q, size, stride, pad)

    run(max_pool, threads, *operands, winner[:0], windows)
    np.testing.assert_array_equal(target.values, expected)
    target.values[:] = 5
    run(max_pool, threads, *operands, winner, windows)
    np.testing.assert_array_equal(target.values, expected)
    np.testing.assert_array_equal(winner.reshape(number.shape), number)
    assert target.neighbours_untouched()
    assert source.neighbours_untouched()

    rng = np.random.default_rng(5)
    dy = rng.standard_normal((N, C, P, Q)).astype(x.dtype)
    expected = slow_max_grad(dy, number, x.shape, size, stride, pad)
    gradient = tensor(dy, sliced)
    for add in (False, True):
        before = rng.standard_normal(x.shape).astype(x.dtype) if add else np.full_like(x, np.nan)
        result = tensor(before, sliced)
        run(max_pool_grad, threads, gradient.images, winner, result.images, windows, add)
        tolerance = 1e-5 if x.dtype == np.float32 else 1e-12
        np.testing.assert_allclose(
            result.values, expected + before if add else expected, tolerance, tolerance
        )
        assert result.neighbours_untouched()
    return target.values, winner, result.values


@cases
def test_max_pool(tensor, name):
    extents, rng = problem(name)
    x = rng.standard_normal(extents[:4]).astype(np.float32)
    check_max(tensor, x, extents)
    check_max(tensor, rng.integers(-2, 3, x.shape).astype(np.float32), extents, 3)  # many ties
    special = rng.choice([np.nan, -np.inf, np.inf, 0, 1], x.shape, p=(0.1, 0.6, 0.1, 0.1, 0.1))
    check_max(tensor, special.astype(np.float32), extents, 1, False)
    check_max(tensor, np.full_like(x, -np.inf), extents)


@pytest.mark.parametrize("name", ["3x3-2-pad", "3x3-1", "huge", "global"])
def test_max_pool_in_float64_and_on_any_number_of_threads(tensor, name):
    extents, rng = problem(name)
    x = rng.standard_normal(extents[:4])
    first = check_max(tensor, x, extents, 1)
    for threads in (2, 3, 5):
        for one, other in zip(first, check_max(tensor, x, extents, threads), strict=True):
            assert np.array_equal(one, other)


def check_avg(tensor, x, extents, count_pad, threads=2, sliced=True):
    N, C, _, _, P, Q, size, stride, pad = extents
    source, target = tensor(x, sliced), tensor(np.full((N, C, P, Q), 5, x.dtype), sliced)
    tolerance = 1e-5 if x.dtype == np.float32 else 1e-12
    expected, gradient = slow_avg(x, P, Q, size, stride, pad, count_pad)
    windows = Windows(size, stride, pad)
    run(avg_pool, threads, source.images, target.images, windows, count_pad)
    np.testing.assert_allclose(target.values, expected, tolerance, tolerance)
    assert target.neighbours_untouched()

    rng = np.random.default_rng(5)
    dy = rng.standard_normal((N, C, P, Q)).astype(x.dtype)
    given = tensor(dy, sliced)
    for add in (False, True):
        before = rng.standard_normal(x.shape).astype(x.dtype) if add else np.full_like(x, np.nan)
        result = tensor(before, sliced)
        run(avg_pool_grad, threads, given.images, result.images, windows, count_pad, add)
        expected = gradient(dy) + before if add else gradient(dy)
        np.testing.assert_allclose(result.values, expected, tolerance, tolerance)
        assert result.neighbours_untouched()
    return target.values, result.values


@cases
@pytest.mark.parametrize("count_pad", [False, True])
def test_avg_pool(tensor, name, count_pad):
    extents, rng = problem(name)
    check_avg(tensor, rng.standard_normal(extents[:4]).astype(np.float32), extents, count_pad)


@pytest.mark.parametrize("name", ["3x3-2-pad", "3x3-1", "huge", "global"])
def test_avg_pool_in_float64_and_on_any_number_of_threads(tensor, name):
    extents, rng = problem(name)
    x = rng.standard_normal(extents[:4])
    first = check_avg(tensor, x, extents, True, 1)
    for threads in (2, 3, 5):
        for one, other in zip(
            first, check_avg(tensor, x, extents, True, threads, False), strict=True
        ):
            assert np.array_equal(one, other)


def test_a_nan_reaches_its_windows_only():
    x = np.zeros((1, 1, 6, 6), np.float32)
    x[0, 0, 2, 3] = np.nan
    y = np.empty(36, np.float32)
    for function, more in ((avg_pool, (True,)), (max_pool, ())):
        winner = (np.empty(36, np.uint8),) if function is max_pool else ()
        source, target = images(x, x.shape), images(y, x.shape)
        run(function, 2, source, target, *winner, Windows((3, 3), (1, 1), (1, 1)), *more)
        expected = np.zeros((6, 6), bool)
        expected[1:4, 2:5] = True
        assert np.array_equal(np.isnan(y.reshape(6, 6)), expected)


@pytest.mark.parametrize("name", [n for n in CASES if n != "no-images"])
def test_pooling_agrees_with_pytorch(name):
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    extents, rng = problem(name)
    N, C, H, W, P, Q, size, stride, pad = extents
    ceil_mode = CASES[name][-1]
    values = rng.standard_normal((N, C, H, W))
    for dtype, tolerance in ((np.float64, 1e-9), (np.float32, 1e-4)):
        x = torch.tensor(values.astype(dtype), requires_grad=True)
        expectations = [F.max_pool2d(x, size, stride, pad, ceil_mode=ceil_mode)]
        expectations.append(F.avg_pool2d(x, size, stride, pad, ceil_mode, False))
        expectations.append(F.avg_pool2d(x, size, stride, pad, ceil_mode, True))
        for kind, result in enumerate(expectations):
            dy = rng.standard_normal((N, C, P, Q)).astype(dtype)
            (expected,) = torch.autograd.grad(result, x, torch.from_numpy(dy))
            y, dx = np.empty(dy.size, dtype), np.empty(values.size, dtype)
            given, gradient = images(values.astype(dtype), values.shape), images(dy, dy.shape)
            results = images(y, dy.shape), images(dx, values.shape)
            windows = Windows(size, stride, pad)
            if kind == 0:
                winner = np.empty(y.size, numbers_for(size))
                run(max_pool, 2, given, results[0], winner, windows)
                run(max_pool_grad, 2, gradient, winner, results[1], windows, False)
            else:
                run(avg_pool, 2, given, results[0], windows, kind == 2)
                run(avg_pool_grad, 2, gradient, results[1], windows, kind == 2, False)
            expected_y = result.detach().numpy().reshape(-1)
            np.testing.assert_allclose(y, expected_y, tolerance, tolerance)
            np.testing.assert_allclose(dx, expected.numpy().reshape(-1), tolerance, tolerance)
