"""Operations that move items, and change shapes and types of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from lowerconv.nn.combine import Concat, View
from lowerconv.nn.computed import Computed, summed_to
from lowerconv.nn.frame import Frame
from lowerconv.nn.functional.operands import Operand, computed, layer_of, viewed
from lowerconv.nn.functional.placed import Joined, Placed
from lowerconv.nn.graph import Value
from lowerconv.nn.moving import COMPILED
from lowerconv.nn.step import Step
from lowerconv.ops.transpose import merged
from lowerconv.ops.transpose import transpose as transpose_items
from lowerconv.runtime.threads import run

Pads = Sequence[tuple[int, int]]


def reshape(x: Operand, shape: Sequence[int]) -> Operand:
    """Return the same items in another shape.

    Parameters
    ----------
    x : Value or ndarray
    shape : sequence of int
        One extent may be -1: whatever is left.

    Returns
    -------
    Value or ndarray

    Raises
    ------
    ValueError
        Another number of items.
    """
    if isinstance(x, np.ndarray):
        return x.reshape(tuple(shape))
    new = list(map(int, shape))
    if -1 in new:
        rest = -prod(new)
        if not rest or prod(x.shape) % rest:
            raise ValueError(f"shape: got {tuple(shape)} for an array of shape {x.shape}")
        new[new.index(-1)] = prod(x.shape) // rest
    if prod(new) != prod(x.shape):
        raise ValueError(f"shape: got {tuple(shape)} for an array of shape {x.shape}")
    if tuple(new) == x.shape:
        return x
    source = viewed(x)
    return source if tuple(new) == source.shape else View(tuple(new))(source)


def transpose(x: Operand, axes: Sequence[int]) -> Operand:
    """Return an array with its axes in another order.

    Of values, two in a row become one, or none where they cancel.

    Parameters
    ----------
    x : Value or ndarray
    axes : sequence of int
        The axis of `x` that becomes each axis of the result.

    Returns
    -------
    Value or ndarray
    """
    axes = tuple(int(axis) % len(x.shape) for axis in axes)
    if isinstance(x, np.ndarray):
        return x.transpose(axes)
    if axes == tuple(range(len(axes))):
        return x
    moved = [axis for axis in axes if x.shape[axis] != 1]
    if moved == sorted(moved):  # nothing moves in memory
        return reshape(x, [x.shape[axis] for axis in axes])
    before = layer_of(x, Transpose)
    if before is not None and x.node is not None:
        return transpose(x.node.operands[0], [before.axes[axis] for axis in axes])
    return Transpose(axes)(x)


class Transpose(Computed):
    """Axes in another order; see `transpose`.

    Parameters
    ----------
    axes : tuple of int
        The axis of the operand that becomes each axis of the result.
    """

    def __init__(self, axes: tuple[int, ...]) -> None:
        inverse = tuple(np.argsort(axes))
        super().__init__(
            "transpose",
            lambda x: x.transpose(axes),
            lambda dy, y, x: (dy.transpose(inverse),),
        )
        self.axes = axes

    def prepare(self, frame: Frame) -> None:
        """Decide how items are gathered."""
        frame.prepared["gather"] = merged(frame.x.shape, self.axes) if self._flat(frame) else None

    @staticmethod
    def _flat(frame: Frame) -> bool:
        return frame.x.whole and frame.y.whole and frame.dtype in COMPILED

    def compute(self, frame: Frame, step: Step) -> None:
        """Gather the items."""
        gather = frame.prepared["gather"]
        if gather is None:
            super().compute(frame, step)
        else:
            run(transpose_items, frame.x.flat, frame.y.flat, gather)

    def is_capturable(self, frame: Frame) -> bool:
        """Return whether `compute` only launches kernels, and leaves nothing to NumPy."""
        return frame.prepared["gather"] is not None


def getitem(x: Operand, index: tuple[Any, ...]) -> Operand:
    """Return a part of an array by slices and integers.

    Parameters
    ----------
    x : Value or ndarray
    index : tuple of slice or int

    Returns
    -------
    Value or ndarray
    """

    def gradient(dy: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray]:
        dx = np.zeros(x.shape, x.dtype)
        dx[index] = dy
        return (dx,)

    return computed("slice", lambda x: x[index], x, gradient=gradient)


def concat(operands: Sequence[Operand], axis: int) -> Operand:
    """Return operands one after the other along an axis.

    Parameters
    ----------
    operands : sequence of Value or ndarray
        Of the same shape but for that axis.
    axis : int

    Returns
    -------
    Value or ndarray
    """
    operands = list(operands)
    axis %= operands[0].ndim
    if len(operands) == 1:
        return operands[0]
    if all(isinstance(x, Value) for x in operands) and axis == 1:
        return Concat()(*operands)
    sizes = np.cumsum([x.shape[axis] for x in operands])[:-1]

    def function(*xs: np.ndarray) -> np.ndarray:
        return np.concatenate(xs, axis)

    def gradient(dy: np.ndarray, y: np.ndarray, *xs: np.ndarray) -> Sequence[np.ndarray]:
        return np.split(dy, sizes, axis)

    if all(isinstance(x, Value) for x in operands):
        return Joined("concat", function, gradient, axis=axis)(*operands)
    return computed("concat", function, *operands, gradient=gradient)


def pad(x: Operand, widths: Sequence[tuple[int, int]], mode: str, value: Any = 0) -> Operand:
    """Return an array with margins.

    Parameters
    ----------
    x : Value or ndarray
    widths : sequence of (before, after)
        Items for each axis; negative ones are cut off.
    mode : str
        What margins are filled with, as for ``numpy.pad``.
    value : scalar
        For mode "constant".

    Returns
    -------
    Value or ndarray
    """
    if not any(any(pair) for pair in widths):
        return x
    grown = [(max(0, before), max(0, after)) for before, after in widths]
    cut = tuple(slice(max(0, -before), None if after >= 0 else after) for before, after in widths)
    options = {"constant_values": value} if mode == "constant" else {}

    def function(x: np.ndarray) -> np.ndarray:
        return np.pad(x[cut], grown, mode, **options)  # type: ignore[call-overload]

    def gradient(dy: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray]:
        numbers = np.arange(x.size).reshape(x.shape)
        fill: dict[str, Any] = {"constant_values": -1} if options else {}
        inner = np.pad(numbers[cut], grown, mode, **fill)  # type: ignore[call-overload]
        kept = inner.reshape(-1) >= 0
        sums = np.bincount(inner.reshape(-1)[kept], dy.reshape(-1)[kept], x.size)
        return (sums.reshape(x.shape).astype(x.dtype),)

    if isinstance(x, Value) and mode == "constant" and value == 0 and grown == list(widths):
        return ZeroPadding("pad", function, gradient, widths=grown)(x)
    return computed("pad", function, x, gradient=gradient)


class ZeroPadding(Placed):
    """Zeros around an array, so many before and after each axis."""

    def __init__(self, *arguments: Any, widths: Sequence[tuple[int, int]]) -> None:
        super().__init__(*arguments)
        self.widths = tuple(widths)

    def starts(self, frame: Frame) -> tuple[int, Sequence[int], bool] | None:
        """Return where the array begins, if it has zeros along one axis alone."""
        axes = [axis for axis, pair in enumerate(self.widths) if any(pair)]
        return (axes[0], [self.widths[axes[0]][0]], True) if len(axes) == 1 else None


def unpadded(x: Operand, pads: Pads) -> tuple[Operand, tuple[tuple[int, int], ...]]:
    """Return images (N, C, ...) without zeros around them, and the padding that makes up for it.

    Parameters
    ----------
    x : Value or ndarray
        Which a convolution reads.
    pads : sequence of (int, int)
        What it pads, before and after each axis of pixels.

    Returns
    -------
    (Value or ndarray, tuple of (int, int))
    """
    layer = layer_of(x, ZeroPadding)
    if layer is None or any(map(any, layer.widths[:2])):
        return x, tuple(pads)
    assert isinstance(x, Value) and x.node is not None
    both = zip(pads, layer.widths[2:], strict=True)
    more = tuple((before + a, after + b) for (before, after), (a, b) in both)
    return unpadded(x.node.operands[0], more)


def expand(x: Operand, shape: Sequence[int]) -> Operand:
    """Return an array repeated along axes, by NumPy's rules of broadcasting.

    Parameters
    ----------
    x : Value or ndarray
    shape : sequence of int
        What `x` is broadcast with; the result may be larger.

    Returns
    -------
    Value or ndarray
    """
    full = np.broadcast_shapes(x.shape, tuple(map(int, shape)))
    if full == tuple(x.shape):
        return x
    return computed(
        "expand",
        lambda x: np.broadcast_to(x, full),
        x,
        gradient=lambda dy, y, x: (summed_to(dy, x.shape),),
    )


def cast(x: Operand, dtype: Any) -> Operand:
    """Return an array in another type of number.

    Parameters
    ----------
    x : Value or ndarray
    dtype : dtype-like

    Returns
    -------
    Value or ndarray
    """
    dtype = np.dtype(dtype)
    if x.dtype == dtype:
        return x
    return computed(
        "cast", lambda x: x.astype(dtype), x, gradient=lambda dy, y, x: (dy.astype(x.dtype),)
    )


def where(condition: Operand, a: Operand, b: Operand) -> Operand:
    """Return `a` where a condition holds, else `b`.

    Parameters
    ----------
    condition : Value or ndarray, bool
    a, b : Value or ndarray
        Broadcast with `condition`.

    Returns
    -------
    Value or ndarray
    """
    return computed(
        "where",
        np.where,
        condition,
        a,
        b,
        gradient=lambda dy, y, c, a, b: (
            None,
            summed_to(np.where(c, dy, 0), a.shape),
            summed_to(np.where(c, 0, dy), b.shape),
        ),
    )


def take(x: Operand, indices: Operand, axis: int) -> Operand:
    """Return the items at indices along an axis.

    Parameters
    ----------
    x : Value or ndarray
    indices : Value or ndarray, integers
        Negative ones count from the end.
    axis : int

    Returns
    -------
    Value or ndarray
        Of the shape of `x` with that axis replaced by those of `indices`.
    """

    def gradient(dy: np.ndarray, y: np.ndarray, x: np.ndarray, i: np.ndarray) -> Sequence[Any]:
        dx = np.zeros(x.shape, x.dtype)
        moved = np.moveaxis(dx, axis, 0)
        at = tuple(range(axis, axis + i.ndim))
        np.add.at(moved, i, np.moveaxis(dy, at, range(i.ndim)))
        return dx, None

    return computed("gather", lambda x, i: np.take(x, i, axis), x, indices, gradient=gradient)
