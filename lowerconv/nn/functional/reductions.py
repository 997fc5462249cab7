"""Sums over axes and products of matrices, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from lowerconv.nn.computed import Computed, summed_to
from lowerconv.nn.frame import Frame
from lowerconv.nn.functional.operands import Operand, apply, computed, viewed
from lowerconv.nn.functional.shapes import reshape, transpose
from lowerconv.nn.graph import Value
from lowerconv.nn.moving import COMPILED
from lowerconv.nn.normalise import Normalise, Softmax
from lowerconv.nn.step import Step
from lowerconv.ops import reduce as kernels
from lowerconv.runtime.threads import run

_REDUCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "sum": np.sum,
    "mean": np.mean,
    "max": np.max,
    "min": np.min,
    "prod": np.prod,
}

_COMPILED = {"sum": kernels.SUM, "mean": kernels.SUM, "max": kernels.MAX, "min": kernels.MIN}


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
    rank = x.ndim
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

    if isinstance(x, Value):
        return Reduction(operation, apply, gradient, over, keepdims)(x)
    return computed(operation, apply, x, gradient=gradient)


class Reduction(Computed):
    """Sums, means, products or extremes over axes.

    Parameters
    ----------
    operation : str
    function, gradient : callable
        As of `Computed`.
    axes : tuple of int
        In order.
    keepdims : bool
    """

    def __init__(
        self, operation: str, function: Any, gradient: Any, axes: tuple[int, ...], keepdims: bool
    ) -> None:
        super().__init__(operation, function, gradient)
        self.operation, self.axes, self.keepdims = operation, axes, keepdims

    def prepare(self, frame: Frame) -> None:
        """Decide how: axes that follow each other are reduced by compiled loops."""
        shape, axes = frame.x.shape, self.axes
        frame.prepared["plan"] = None
        if self.operation not in _COMPILED or frame.dtype not in COMPILED or 0 in shape:
            return
        if axes != tuple(range(axes[0], axes[-1] + 1)) or not frame.y.whole or not frame.x.whole:
            return
        outer, middle = prod(shape[: axes[0]]), prod(shape[axes[0] : axes[-1] + 1])
        sizes = outer, middle, prod(shape[axes[-1] + 1 :])
        factor = 1 / middle if self.operation == "mean" else 1.0
        frame.prepared["plan"] = sizes, _COMPILED[self.operation], factor

    def compute(self, frame: Frame, step: Step) -> None:
        """Reduce."""
        if frame.prepared["plan"] is None:
            super().compute(frame, step)
        else:
            run(kernels.reduce, frame.x.flat, frame.y.flat, *frame.prepared["plan"])

    def is_capturable(self, frame: Frame) -> bool:
        """Return whether `compute` only launches kernels, and leaves nothing to NumPy."""
        return frame.prepared["plan"] is not None


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
    if not x.shape:
        return reshape(softmax(reshape(x, (1,)), 0, log), ())
    return apply(Softmax(int(axis) % len(x.shape), log), x)


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
    rank = len(x.shape)
    over = sorted(int(axis) % rank for axis in axes)
    source = viewed(x) if isinstance(x, Value) else x
    if source is not x and over == [rank - 1] and source.shape[-1] == x.shape[-1]:
        return reshape(normalize(source, (-1,), epsilon), x.shape)
    if over == list(range(over[0], over[-1] + 1)):
        layer = Normalise(tuple(over), epsilon)
        if over[-1] == rank - 1:
            layer.features, layer.dtype = tuple(x.shape[over[0] :]), x.dtype
        return apply(layer, x)
    order = [axis for axis in range(rank) if axis not in over] + over
    back = [order.index(axis) for axis in range(rank)]
    last = range(rank - len(over), rank)
    return transpose(normalize(transpose(x, order), last, epsilon), back)
