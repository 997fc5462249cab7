"""Pooling layers on every small problem: shapes, values, gradients and errors are PyTorch's."""

import random
from itertools import product

import numpy as np
import pytest

from lowerconv import nn

TRAINING = nn.Step(training=True, input_grad=True)
KINDS = ("max", "average", "average-of-pixels")  # the last does not count the padding

# Extent, kernel size, stride and padding along an axis; padding above half the kernel is refused.
AXES = list(product(range(1, 6), range(1, 7), range(1, 6), range(4)))


def count_windows(extent, size, stride, pad, ceil_mode):
    """PyTorch's `pooling_output_shape`; None where it raises."""
    if pad > size // 2 or extent < 1:
        return None
    windows = (extent + 2 * pad - (size - 1) - 1 + (stride - 1) * ceil_mode) // stride + 1
    if ceil_mode and (windows - 1) * stride >= extent + pad:
        windows -= 1
    return windows if windows >= 1 else None


def problems():
    """Yield every problem of one axis, beside a random one along the other."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for ceil_mode in (False, True):
        fine = [axis for axis in AXES if count_windows(*axis, ceil_mode)]
        for axis in AXES:
            other = rng.choice(fine)
            rows, columns = (axis, other) if rng.random() < 0.5 else (other, axis)
            yield *zip(rows, columns, strict=True), ceil_mode, rng.getrandbits(32)


def pool(x, dy, size, stride, pad, kind):
    """Return the result of pooling by its definition, and the gradient of `x`."""
    H, W = x.shape[2:]
    y, dx = np.empty(dy.shape), np.zeros(x.shape)
    for n, c, p, q in np.ndindex(dy.shape):
        h, w = p * stride[0] - pad[0], q * stride[1] - pad[1]
        inside = (n, c, slice(max(h, 0), h + size[0]), slice(max(w, 0), w + size[1]))
        window, gradient = x[inside], dx[inside]
        if kind == "max":
            y[n, c, p, q] = window.max()
            gradient[np.unravel_index(window.argmax(), window.shape)] += dy[n, c, p, q]
            continue
        count = window.size
        if kind == "average":
            count = (min(h + size[0], H + pad[0]) - h) * (min(w + size[1], W + pad[1]) - w)
        y[n, c, p, q] = window.sum() / count
        gradient += dy[n, c, p, q] / count
    return y, dx


def make(kind, size, stride, pad, ceil_mode):
    if kind == "max":
        return nn.MaxPool2d(size, stride, pad, ceil_mode)
    return nn.AvgPool2d(size, stride, pad, ceil_mode, kind == "average")


def draw(extents, windows, seed):
    """Return images and gradients of results; no two pixels of an image are equal."""
    rng = np.random.default_rng(seed)
    x = rng.permuted(np.arange(2.0 * extents[0] * extents[1]).reshape(1, 2, *extents), axis=None)
    return x.astype(np.float32), rng.standard_normal((1, 2, *windows)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_every_small_problem(kind):
    refused = 0
    for extents, size, stride, pad, ceil_mode, seed in problems():
        told = f"{extents} size {size} stride {stride} padding {pad} ceil_mode {ceil_mode}"
        windows = [
            count_windows(*axis, ceil_mode) for axis in zip(extents, size, stride, pad, strict=True)
        ]
        if None in windows:
            refused += 1
            with pytest.raises(ValueError, match=r"^(x|padding): got "):
                make(kind, size, stride, pad, ceil_mode)(np.ones((1, 2, *extents), np.float32))
            continue
        x, dy = draw(extents, windows, seed)
        layer = make(kind, size, stride, pad, ceil_mode)
        inferred = layer.run(x).copy()  # by another kernel, which tells no winners
        found = layer.run(x, TRAINING)
        assert found.shape == dy.shape, told
        np.testing.assert_array_equal(inferred, found, err_msg=told)
        y, dx = pool(x, dy, size, stride, pad, kind)
        np.testing.assert_allclose(found, y, 1e-5, 1e-6, err_msg=told)
        np.testing.assert_allclose(layer.backward(dy), dx, 1e-5, 1e-5, err_msg=told)
    assert refused > 200


@pytest.mark.parametrize("kind", KINDS)
def test_the_definition_is_that_of_pytorch(kind):
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    for extents, size, stride, pad, ceil_mode, seed in problems():
        told = f"{extents} size {size} stride {stride} padding {pad} ceil_mode {ceil_mode}"
        windows = [
            count_windows(*axis, ceil_mode) for axis in zip(extents, size, stride, pad, strict=True)
        ]
        x, dy = draw(extents, [count or 1 for count in windows], seed)
        theirs = torch.tensor(x, requires_grad=True)
        try:
            if kind == "max":
                result = F.max_pool2d(theirs, size, stride, pad, ceil_mode=ceil_mode)
            else:
                result = F.avg_pool2d(theirs, size, stride, pad, ceil_mode, kind == "average")
        except RuntimeError:
            assert None in windows, told
            continue
        assert tuple(result.shape) == (1, 2, *windows), told
        y, dx = pool(x, dy, size, stride, pad, kind)
        np.testing.assert_allclose(result.detach(), y, 1e-5, 1e-6, err_msg=told)
        (gradient,) = torch.autograd.grad(result, theirs, torch.from_numpy(dy))
        np.testing.assert_allclose(gradient, dx, 1e-5, 1e-5, err_msg=told)


@pytest.mark.parametrize(
    ("size", "stride", "pad"),
    [(3000, 3000, 0), (5, 2**70, 2), (2**40, 2**41, 0), (2**70, 2**70, 0), (700, 2**20, 333)],
)
@pytest.mark.parametrize("kind", KINDS)
def test_one_window_far_larger_than_the_image(kind, size, stride, pad):
    x = np.arange(1, 10, dtype=np.float32).reshape(1, 1, 3, 3)
    layer = make(kind, size, stride, pad, True)
    y = layer.run(x, TRAINING)
    assert y.shape == (1, 1, 1, 1)
    area = (3 + 2 * pad if pad else 3) ** 2 if kind == "average" else 9
    area = min(area, size**2)
    np.testing.assert_allclose(y, 9 if kind == "max" else 45 / area, 1e-5)
    dx = layer.backward(np.ones_like(y)).reshape(-1)
    expected = [0] * 8 + [1] if kind == "max" else [1 / area] * 9
    np.testing.assert_allclose(dx, expected, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_windows_of_too_many_pixels_are_refused(kind):
    """Their numbers would not fit: a wrong gradient, or one far outside of the image."""
    layer = make(kind, 2**20, 2**20, 2**19, True)
    with pytest.raises(ValueError, match=r"^kernel_size: got \(1048576, 1048576\) with padding"):
        layer(np.ones((1, 1, 3, 3), np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size, stride", [((3, 3), (2, 2)), ((2, 2), (2, 2)), ((3, 2), (1, 1))])
def test_wide_planes_and_nan(size, stride, dtype):
    rng = np.random.default_rng(5)
    for H, W in ((7, 33), (20, 70), (5, 16), (9, 15)):
        for pad in (0, 1):
            x = rng.standard_normal((2, 3, H, W)).astype(dtype)
            x[rng.random(x.shape) < 0.02] = np.nan
            layer = nn.MaxPool2d(size, stride, pad)
            inferred = layer.run(x).copy()
            np.testing.assert_array_equal(inferred, layer.run(x, TRAINING))
            assert np.isnan(inferred).any()
