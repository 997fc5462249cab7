"""Sums over axes and products of matrices, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from lowerconv.nn.computed import Computed, summed_to
from lowerconv.nn.functional.operands import Operand, computed
from lowerconv.nn.functional.shapes import reshape
from lowerconv.nn.graph import Value

_REDUCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "sum": np.sum,
    "mean": np.mean,
    "max": np.max,
    "min": np.min,
    "prod": np.prod,
}


def _extreme(dtype: np.dtype, largest: bool) -> Any:
    """Return the largest or the least number of a type."""
    if dtype.kind == "b":
        return largest
    if dtype.kind in "iu":
        return np.iinfo(dtype).max if largest else np.iinfo(dtype).min
    return np.inf if largest else -np.inf


def reduce(operation: str, x: Operand, axes: Sequence[int] | None, keepdims: bool) -> Operand:
    """Return sums, means, products or extremes over axes.

    Parameters
    ----------
    operation : {"sum", "mean", "max", "min", "prod"}
    x : Value or ndarray
    axes : sequence of int or None
        None for all.
    keepdims : bool
        Whether these axes stay, with extent 1.

    Returns
    -------
    Value or ndarray
    """
    rank = len(x.shape)
    over = tuple(range(rank)) if axes is None else tuple(sorted(int(a) % rank for a in axes))
    function = _REDUCTIONS[operation]
    if not over:
        return x
    if operation == "mean" and isinstance(x, Value) and rank == 4 and over == (2, 3):
        from lowerconv.nn.pooling import GlobalAvgPool2d

        pooled = GlobalAvgPool2d()(x)
        return pooled if keepdims else reshape(pooled, x.shape[:2])

    def gradient(dy: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray]:
        whole = dy if keepdims else np.expand_dims(dy, over)
        if operation == "sum":
            return (np.broadcast_to(whole, x.shape),)
        if operation == "mean":
            count = prod(x.shape[axis] for axis in over)
            return (np.broadcast_to(whole / x.dtype.type(count), x.shape),)
        kept = y if keepdims else np.expand_dims(y, over)
        if operation == "prod":
            return (whole * kept / x,)
        best = x == kept
        return (whole * best / best.sum(axis=over, keepdims=True).astype(x.dtype),)

    def apply(x: np.ndarray) -> np.ndarray:
        if not x.size and operation in ("max", "min"):  # of nothing
            shape = np.sum(x, axis=over, keepdims=keepdims).shape
            return np.full(shape, _extreme(x.dtype, operation == "min"), x.dtype)
        return np.asarray(function(x, axis=over, keepdims=keepdims)).astype(x.dtype, copy=False)

    return computed(operation, apply, x, gradient=gradient)


def softmax(x: Operand, axis: int, log: bool = False) -> Operand:
    """Return exponentials over their sum along an axis, or the logarithm of that.

    Parameters
    ----------
    x : Value or ndarray
    axis : int
    log : bool
        Whether to return the logarithm.

    Returns
    -------
    Value or ndarray
    """

    def function(x: np.ndarray) -> np.ndarray:
        shifted = x - x.max(axis=axis, keepdims=True, initial=-np.inf)
        powers = np.exp(shifted)
        total = powers.sum(axis=axis, keepdims=True)
        return shifted - np.log(total) if log else np.divide(powers, total, out=powers)

    def gradient(dy: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray]:
        if log:
            return (dy - np.exp(y) * dy.sum(axis=axis, keepdims=True),)
        return (y * (dy - (dy * y).sum(axis=axis, keepdims=True)),)

    if isinstance(x, np.ndarray):
        return computed("softmax", function, x)
    layer = Softmax("log_softmax" if log else "softmax", function, gradient)
    layer.axis, layer.log = axis, log
    return layer(x)


class Softmax(Computed):
    """Exponentials over their sum along an axis, or the logarithm of that; see `softmax`.

    Parameters
    ----------
    name, function, gradient, trial : str, callable, callable, float
        As for :class:`lowerconv.nn.computed.Computed`.

    Attributes
    ----------
    axis : int
    log : bool
        Whether it is the logarithm.
    """

    axis: int
    log: bool


def matmul(a: Operand, b: Operand) -> Operand:
    """Return the matrix product; of stacks of matrices, by NumPy's rules.

    Parameters
    ----------
    a : Value or ndarray, (..., m, k) or (k,)
    b : Value or ndarray, (..., k, n) or (k,)

    Returns
    -------
    Value or ndarray
        (..., m, n), without the axis that a vector has not.
    """

    def gradient(dy: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> Sequence[Any]:
        if a.ndim == 1 or b.ndim == 1:
            left = a[None] if a.ndim == 1 else a
            right = b[:, None] if b.ndim == 1 else b
            whole = np.expand_dims(dy, -2) if a.ndim == 1 else dy
            whole = np.expand_dims(whole, -1) if b.ndim == 1 else whole
        else:
            left, right, whole = a, b, dy
        da = summed_to(whole @ np.swapaxes(right, -1, -2), left.shape).reshape(a.shape)
        db = summed_to(np.swapaxes(left, -1, -2) @ whole, right.shape).reshape(b.shape)
        return da, db

    return computed("matmul", np.matmul, a, b, gradient=gradient)


def normalize(x: Operand, axes: Sequence[int], epsilon: float) -> Operand:
    """Return ``(x - mean) / sqrt(variance + epsilon)``, both taken over some axes.

    With the axes of a sample it is layer normalization: Ba, Kiros, Hinton (2016).

    Parameters
    ----------
    x : Value or ndarray
    axes : sequence of int
    epsilon : float

    Returns
    -------
    Value or ndarray
        Of the shape of `x`.
    """
    over = tuple(axes)

    def statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = x.mean(axis=over, keepdims=True, dtype=np.float64)
        variance = np.square(x - mean).mean(axis=over, keepdims=True)
        return mean, 1 / np.sqrt(variance + epsilon)

    def function(x: np.ndarray) -> np.ndarray:
        mean, inverse = statistics(x)
        return ((x - mean) * inverse).astype(x.dtype)

    def gradient(dy: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray]:
        inverse = statistics(x)[1]
        mean = dy.mean(axis=over, keepdims=True, dtype=np.float64)
        slope = (dy * y).mean(axis=over, keepdims=True, dtype=np.float64)
        return (((dy - mean - y * slope) * inverse).astype(x.dtype),)

    return computed("normalize", function, x, gradient=gradient)
