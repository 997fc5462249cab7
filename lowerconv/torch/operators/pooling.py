"""Pooling over windows and over whole images."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from lowerconv.nn import functional as F
from lowerconv.nn.pooling import AvgPool2d, MaxPool2d
from lowerconv.nn.windows import Windows, max_indices
from lowerconv.torch.operators.convolution import flat, per_axis, planar, unflat
from lowerconv.torch.registry import operator


def batched(x: Any, axes: int, function: Any) -> Any:
    """Return what a function makes of a batch; of an image alone, of a batch of one."""
    if len(x.shape) == axes + 1:
        y = function(F.reshape(x, (1, *x.shape)))
        return F.reshape(y, y.shape[1:])
    return function(x)


def pool_by_numpy(x: Any, operation: str, *geometry: Any) -> Any:
    """Record pooling by NumPy."""
    size, stride, padding, dilation, ceil, include = geometry
    pads = tuple((p, p) for p in padding)
    return F.pool(x, operation, Windows(size, stride, pads, dilation, ceil), include)


@operator("max_pool1d", "max_pool2d", "max_pool3d")
def max_pool(net: Any, x: Any, size: Any, stride: Any, padding: Any, dilation: Any, ceil: bool):
    """Record the largest item of windows."""
    return _max_pool(x, *_pool_geometry(x, size, stride, padding, dilation, ceil))


def _pool_geometry(x: Any, size: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> Any:
    """Return the number of axes, and size, stride, padding and dilation along each."""
    # One number stands for all axes; how many these are tells the operator's rank of windows.
    axes = len(size) if len(size) > 1 else max(len(stride or ()), len(padding), len(dilation))
    axes = max(axes, len(x.shape) - 2 if len(x.shape) > 2 else 1) if axes == 1 else axes
    given = (size, stride or size, padding, dilation)
    return axes, *(per_axis(v, axes) for v in given), ceil


def _max_pool(
    x: Any, axes: int, size: Any, stride: Any, padding: Any, dilation: Any, ceil: bool
) -> Any:
    def pool(x: Any) -> Any:
        if axes > 2 or set(dilation) != {1}:
            return pool_by_numpy(x, "max", size, stride, padding, dilation, ceil, False)
        layer = MaxPool2d(planar(size, 1), planar(stride, 1), planar(padding, 0), ceil)
        return unflat(F.apply(layer, flat(x)), axes)

    return batched(x, axes, pool)


@operator("max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices")
def max_pool_with_indices(net: Any, x: Any, *geometry: Any):
    """Record the largest item of windows, and the number of each in its image."""
    return max_pool(net, x, *geometry), _indices(x, *_pool_geometry(x, *geometry))


def _indices(x: Any, axes: int, size: Any, stride: Any, padding: Any, dilation: Any, ceil: bool):
    windows = Windows(size, stride, tuple((p, p) for p in padding), dilation, ceil)

    def function(x: np.ndarray) -> np.ndarray:
        found = max_indices(x, windows)
        return found % prod(x.shape[2:])  # those before are of other images

    return batched(x, axes, lambda x: F.computed("places of maxima", function, x))


@operator("avg_pool1d", "avg_pool2d", "avg_pool3d")
def avg_pool(
    net: Any,
    x: Any,
    size: Any,
    stride: Any,
    padding: Any,
    ceil: bool,
    include: bool,
    divisor: Any = None,
):
    """Record the means of windows."""
    axes = max(len(size), len(stride or ()), len(padding))
    axes = max(axes, len(x.shape) - 2 if len(x.shape) > 2 else 1) if axes == 1 else axes
    size, stride, padding = (per_axis(v, axes) for v in (size, stride or size, padding))
    geometry = (size, stride, padding, (1,) * axes, ceil)

    def pool(x: Any) -> Any:
        if divisor is not None:
            return F.scaled(pool_by_numpy(x, "sum", *geometry, True), 1 / divisor)
        if axes > 2:
            return pool_by_numpy(x, "mean", *geometry, include)
        layer = AvgPool2d(planar(size, 1), planar(stride, 1), planar(padding, 0), ceil, include)
        return unflat(F.apply(layer, flat(x)), axes)

    return batched(x, axes, pool)


def _means(n: int, m: int, dtype: Any) -> np.ndarray:
    """Return the matrix that makes `m` means of `n` items, as adaptive pooling does."""
    matrix = np.zeros((m, n), dtype)
    for i in range(m):
        first, last = i * n // m, -(-(i + 1) * n // m)
        matrix[i, first:last] = 1 / (last - first)
    return matrix


@operator("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
def adaptive_avg_pool(net: Any, x: Any, sizes: Any):
    """Record means of as many windows as asked for."""
    axes = len(sizes)
    pixels = x.shape[len(x.shape) - axes :]
    sizes = tuple(n if m is None else m for n, m in zip(pixels, sizes, strict=True))
    if tuple(sizes) == tuple(pixels):
        return x

    def pool(x: Any) -> Any:
        if axes == 2 and tuple(sizes) == (1, 1):
            return F.reduce("mean", x, (2, 3), True)
        if axes < 3 and all(n % m == 0 for n, m in zip(pixels, sizes, strict=True)):
            each = tuple(n // m for n, m in zip(pixels, sizes, strict=True))
            return unflat(F.apply(AvgPool2d(planar(each, 1)), flat(x)), axes)
        matrices = [_means(n, m, x.dtype) for n, m in zip(pixels, sizes, strict=True)]

        def along(x: np.ndarray, transposed: bool) -> np.ndarray:
            for axis, matrix in enumerate(matrices):
                factor = matrix.T if transposed else matrix
                x = np.moveaxis(np.tensordot(factor, x, (1, 2 + axis)), 0, 2 + axis)
            return x

        return F.computed(
            "adaptive mean",
            lambda x: along(x, False),
            x,
            gradient=lambda dy, y, x: (along(dy, True),),
        )

    return batched(x, axes, pool)


def largest(x: Any, sizes: Any) -> Any:
    """Record the largest item of whole images."""
    axes = len(sizes)
    pixels = tuple(x.shape[len(x.shape) - axes :])
    if any(n % m for n, m in zip(pixels, sizes, strict=True)) or prod(pixels) == 0:
        raise NotImplementedError(f"output size {list(sizes)} that does not divide {pixels}")
    each = tuple(n // m for n, m in zip(pixels, sizes, strict=True))
    return _max_pool(x, axes, each, each, (0,) * axes, (1,) * axes, False)


@operator("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def adaptive_max_pool(net: Any, x: Any, sizes: Any):
    """Record the largest items of windows; where they lie is not known."""
    return largest(x, sizes), _NoIndices()


class _NoIndices:
    """Stands for places of maxima, which nothing may read."""
