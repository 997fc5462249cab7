"""Operations between the values of a `forward`, or between arrays: what importers put together.

Each takes values and arrays alike.  Of arrays alone it returns the result at once, by NumPy: so the
shapes and constants of an imported network are worked out while it is recorded.  Of values it
records a layer, or, where neighbours have a form of their own, that: ``x * sigmoid(x)`` is SiLU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, TypeAlias

import numpy as np

from lowerconv.nn.arithmetic import _NUMPY, Arithmetic
from lowerconv.nn.combine import COMPILED, Add, Concat, View
from lowerconv.nn.computed import Computed, summed_to
from lowerconv.nn.graph import Value
from lowerconv.nn.pointwise import Pointwise

Operand: TypeAlias = "Value | np.ndarray"


def layer_of(value: Operand, kind: type) -> Any:
    """Return the layer that makes a value where it is one of a kind, else None."""
    if isinstance(value, Value) and value.node is not None and isinstance(value.node.layer, kind):
        return value.node.layer
    return None


def computed(
    name: str,
    function: Callable[..., np.ndarray],
    *operands: Operand,
    gradient: Callable[..., Sequence[np.ndarray | None]] | None = None,
    trial: float = 1,
) -> Operand:
    """Return a function of operands that NumPy computes.

    Parameters
    ----------
    name : str
        For people.
    function : callable
        Of all operands, as arrays.
    *operands : Value or ndarray
    gradient : callable, optional
        Of the gradient of the result, the result, and all operands; returns one for each operand.
    trial : float
        As of `Computed`.

    Returns
    -------
    Value or ndarray
        A value where one of the operands is.
    """
    at = [i for i, operand in enumerate(operands) if isinstance(operand, Value)]
    if not at:
        with np.errstate(all="ignore"):
            return np.asarray(function(*operands))
    if len(at) == len(operands):
        return Computed(name, function, gradient, trial)(*operands)
    fixed = list(operands)

    def whole(values: Sequence[np.ndarray]) -> list[Any]:
        filled = list(fixed)
        for i, value in zip(at, values, strict=True):
            filled[i] = value
        return filled

    def of_values(*values: np.ndarray) -> np.ndarray:
        return function(*whole(values))

    def gradient_of_values(dy: np.ndarray, y: np.ndarray, *values: np.ndarray) -> list[Any]:
        assert gradient is not None
        every = gradient(dy, y, *whole(values))
        return [every[i] for i in at]

    layer = Computed(name, of_values, gradient and gradient_of_values, trial)
    return layer(*(operands[i] for i in at))


# --- functions of one number ---


def pointwise(x: Operand, function: str, a: float | None = None, b: float | None = None) -> Operand:
    """Return a function of every item; see `lowerconv.nn.pointwise.Pointwise`."""
    if isinstance(x, np.ndarray):
        return _evaluated(lambda v: pointwise(v, function, a, b), x)
    layer = Pointwise(function, a, b)
    if function == "affine":
        before = layer_of(x, Pointwise)
        if before is not None and before.function == "affine" and x.node is not None:
            return affine(x.node.operands[0], layer.a * before.a, layer.a * before.b + layer.b)
    if function == "clip" and layer.a == 0 and layer.b == np.inf:
        from lowerconv.nn.activation import relu

        return relu(x)
    return layer(x)


def affine(x: Operand, a: float, b: float) -> Operand:
    """Return ``a * x + b``."""
    if abs(a - 1) < 1e-7 and b == 0:
        return x
    return pointwise(x, "affine", a, b)


def _evaluated(function: Callable[[Value], Operand], x: np.ndarray) -> np.ndarray:
    """Return what a module with this `forward` makes of an array."""
    from lowerconv.nn.module import Module

    class Single(Module):
        def forward(self, *values: Any, **_: Any) -> Any:
            return function(values[0])

    kind = x.dtype if x.dtype in (np.float32, np.float64) else np.dtype(np.float64)
    shaped = np.ascontiguousarray(np.atleast_1d(x), kind)
    return Single()(shaped).reshape(x.shape).astype(x.dtype)


# --- functions of two ---


def arithmetic(operation: str, a: Operand, b: Operand) -> Operand:
    """Return ``a + b`` or another operation of `lowerconv.nn.arithmetic.Arithmetic`."""
    if not isinstance(a, Value) and not isinstance(b, Value):
        with np.errstate(all="ignore"):
            if operation == "div" and np.result_type(a, b).kind in "iu":
                return _truncated(a, b)
            return np.asarray(_NUMPY[operation](a, b))
    if isinstance(a, Value) and isinstance(b, Value):
        found = _gated(a, b) or _gated(b, a) if operation == "mul" else None
        if found is not None:
            return found
        same = a.shape == b.shape and a.dtype == b.dtype and a.dtype in COMPILED
        if operation == "add" and same and a is not b:
            return Add()(a, b)
        if operation == "div" and np.result_type(a.dtype, b.dtype).kind in "iu":
            return computed("div", _truncated, a, b)
        return Arithmetic(operation)(a, b)
    value, constant, first = (b, a, True) if isinstance(b, Value) else (a, b, False)
    assert isinstance(value, Value) and isinstance(constant, np.ndarray)
    constant = constant.astype(value.dtype, copy=False)
    if operation == "div" and value.dtype.kind in "iu":
        return computed("div", _truncated, *((constant, value) if first else (value, constant)))
    if constant.size == 1 and constant.ndim <= len(value.shape) and value.dtype.kind == "f":
        number = float(constant.reshape(()))
        if operation == "add":
            return affine(value, 1.0, number)
        if operation == "sub":
            return affine(value, -1.0, number) if first else affine(value, 1.0, -number)
        if operation == "mul":
            return affine(value, number, 0.0)
        if operation == "div" and not first and number:
            return affine(value, 1 / number, 0.0)
        if operation == "pow" and not first and number in (0.5, -1.0, 1.0):
            return {0.5: pointwise(value, "sqrt"), -1.0: pointwise(value, "reciprocal")}.get(
                number, value
            )
        if operation == "pow" and not first and number == 2:
            return Arithmetic("mul")(value, value)
        if operation in ("min", "max"):
            bounds = (None, number) if operation == "min" else (number, None)
            return pointwise(value, "clip", *bounds)
    return Arithmetic(operation, constant, first)(value)


def _truncated(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return quotients of integers, rounded towards zero as in C."""
    kind = np.result_type(a, b)
    safe = np.where(b == 0, 1, b).astype(kind)
    quotient = np.floor_divide(a, safe)
    return np.asarray(quotient + ((quotient < 0) & (quotient * safe != a))).astype(kind)


def _gated(x: Value, gate: Value) -> Operand | None:
    """Return ``x * gate`` where that is a function of `x` alone with a name, else None."""
    layer = layer_of(gate, Pointwise)
    if layer is None:
        return None
    assert gate.node is not None
    source = gate.node.operands[0]
    if source is x:
        if layer.function == "sigmoid":
            return pointwise(x, "silu")
        if layer.function == "hard_sigmoid" and _near(layer.a, 1 / 6) and layer.b == 0.5:
            return pointwise(x, "hard_swish")
        return None
    # min(max(x + 3, 0), 6) is six times the gate of HardSwish.
    if layer.function == "affine" and layer.b == 0:
        inner = _gated(x, source)
        return None if inner is None else affine(inner, layer.a, 0.0)
    before = layer_of(source, Pointwise)
    if (
        (layer.function, layer.a, layer.b) == ("clip", 0.0, 6.0)
        and before is not None
        and (before.function, before.a, before.b) == ("affine", 1.0, 3.0)
        and source.node is not None
        and source.node.operands[0] is x
    ):
        return affine(pointwise(x, "hard_swish"), 6.0, 0.0)
    return None


def _near(a: float, b: float) -> bool:
    return abs(a - b) < 1e-6


# --- shapes ---


def reshape(x: Operand, shape: Sequence[int]) -> Operand:
    """Return the same items in another shape; one extent may be -1."""
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
    before = layer_of(x, View)
    return View(tuple(new))(x.node.operands[0] if before is not None and x.node is not None else x)


def transpose(x: Operand, axes: Sequence[int]) -> Operand:
    """Return an array with its axes in another order; pairs that cancel vanish."""
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
    """Axes in another order."""

    def __init__(self, axes: tuple[int, ...]) -> None:
        inverse = tuple(np.argsort(axes))
        super().__init__(
            "transpose",
            lambda x: x.transpose(axes),
            lambda dy, y, x: (dy.transpose(inverse),),
        )
        self.axes = axes


def getitem(x: Operand, index: tuple[Any, ...]) -> Operand:
    """Return a part of an array by slices and integers."""

    def gradient(dy: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray]:
        dx = np.zeros(x.shape, x.dtype)
        dx[index] = dy
        return (dx,)

    return computed("slice", lambda x: x[index], x, gradient=gradient)


def concat(operands: Sequence[Operand], axis: int) -> Operand:
    """Return operands one after the other along an axis."""
    operands = list(operands)
    axis %= len(operands[0].shape)
    if len(operands) == 1:
        return operands[0]
    if all(isinstance(x, Value) for x in operands) and axis == 1:
        return Concat()(*operands)
    sizes = np.cumsum([x.shape[axis] for x in operands])[:-1]
    return computed(
        "concat",
        lambda *xs: np.concatenate(xs, axis),
        *operands,
        gradient=lambda dy, y, *xs: np.split(dy, sizes, axis),
    )


def pad(x: Operand, widths: Sequence[tuple[int, int]], mode: str, value: Any = 0) -> Operand:
    """Return an array with margins; negative ones cut.  `mode` is one of NumPy's."""
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

    return computed("pad", function, x, gradient=gradient)


def expand(x: Operand, shape: Sequence[int]) -> Operand:
    """Return an array repeated along axes, by NumPy's rules of broadcasting."""
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
    """Return an array in another type of number."""
    dtype = np.dtype(dtype)
    if x.dtype == dtype:
        return x
    return computed(
        "cast", lambda x: x.astype(dtype), x, gradient=lambda dy, y, x: (dy.astype(x.dtype),)
    )


def where(condition: Operand, a: Operand, b: Operand) -> Operand:
    """Return `a` where a condition holds, else `b`."""
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
    """Return the items at indices along an axis; negative ones count from the end."""

    def gradient(dy: np.ndarray, y: np.ndarray, x: np.ndarray, i: np.ndarray) -> Sequence[Any]:
        dx = np.zeros(x.shape, x.dtype)
        moved = np.moveaxis(dx, axis, 0)
        at = tuple(range(axis, axis + i.ndim))
        np.add.at(moved, i, np.moveaxis(dy, at, range(i.ndim)))
        return dx, None

    return computed("gather", lambda x, i: np.take(x, i, axis), x, indices, gradient=gradient)


# --- sums and products ---

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
    """Return sums, means, products or extremes over axes, over all of them where None."""
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
    """Return exponentials over their sum along an axis, or the logarithm of that."""

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
    """Exponentials over their sum along an axis, or the logarithm of that."""

    axis: int
    log: bool


def matmul(a: Operand, b: Operand) -> Operand:
    """Return the matrix product, of stacks of matrices by NumPy's rules."""

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


# --- layers on values or arrays ---


def scaled(x: Operand, factor: float) -> Operand:
    """Return a multiple."""
    return arithmetic("mul", x, np.asarray(factor, x.dtype)) if factor != 1 else x


def constant(array: np.ndarray, like: Value) -> Value:
    """Return an array as a value, where all results of a module must be values."""
    return Computed("constant", lambda x: array, lambda dy, y, x: (None,))(like)


def apply(layer: Any, x: Operand) -> Operand:
    """Return what a layer without parameters makes of a value or an array."""
    return _evaluated(layer, x) if isinstance(x, np.ndarray) else layer(x)


def prelu(x: Operand, slope: Operand) -> Operand:
    """Return ``x`` where it is positive, else times a slope, which is broadcast."""

    def gradient(dy: np.ndarray, y: np.ndarray, x: np.ndarray, s: np.ndarray) -> Sequence[Any]:
        below = x < 0
        return np.where(below, dy * s, dy), summed_to(np.where(below, dy * x, 0), s.shape)

    if isinstance(slope, np.ndarray) and slope.size == 1:
        return pointwise(x, "leaky_relu", float(slope.reshape(())))
    if isinstance(x, Value) and x.dtype in COMPILED and slope.dtype == x.dtype:
        if isinstance(slope, Value):
            return Arithmetic("prelu")(x, slope)
        return Arithmetic("prelu", slope)(x)
    return computed("prelu", lambda x, s: np.where(x < 0, x * s, x), x, slope, gradient=gradient)


def normalize(x: Operand, axes: Sequence[int], epsilon: float) -> Operand:
    """Return items less their mean over axes, over their standard deviation."""
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


def pool(x: Operand, operation: str, *geometry: Any) -> Operand:
    """Return windows' largest items, means or sums; see `lowerconv.nn.windows.pool_array`."""
    from lowerconv.nn.windows import pool_array, pool_gradient

    return computed(
        f"{operation} of windows",
        lambda x: pool_array(x, operation, *geometry),
        x,
        gradient=lambda dy, y, x: (pool_gradient(dy, y, x, operation, *geometry),),
    )


def convolution(x: Operand, w: Operand, bias: Operand | None, **geometry: Any) -> Operand:
    """Return the convolution with filters that are no parameters; see `lowerconv.nn.convolution`.

    `geometry` is `strides`, `pads`, `dilations` and `groups`.
    """
    from lowerconv.nn.convolution import Geometry, convolve, convolve_gradients

    kept = Geometry(
        *(tuple(geometry["strides"]), tuple(map(tuple, geometry["pads"]))),
        *(tuple(geometry["dilations"]), geometry["groups"]),
    )

    def function(x: np.ndarray, w: np.ndarray, *bias: np.ndarray) -> np.ndarray:
        return convolve(
            np.ascontiguousarray(x), np.ascontiguousarray(w), bias[0] if bias else None, kept
        )

    def gradient(dy: np.ndarray, y: np.ndarray, x: np.ndarray, w: np.ndarray, *b: Any) -> Any:
        over = (0, *range(2, dy.ndim))
        return (*convolve_gradients(dy, x, w, kept), *(dy.sum(axis=over) for _ in b))

    operands = (x, w) if bias is None else (x, w, bias)
    return computed("convolution", function, *operands, gradient=gradient)


def transposed_convolution(
    x: Operand, w: Operand, bias: Operand | None, **geometry: Any
) -> Operand:
    """Return the transposed convolution with filters that are no parameters.

    `geometry` is `strides`, `pads`, `dilations` and `groups`; padding after that is negative adds
    to the result.
    """
    from lowerconv.nn.convolution import Geometry, transposed, transposed_gradients

    kept = Geometry(
        *(tuple(geometry["strides"]), tuple(map(tuple, geometry["pads"]))),
        *(tuple(geometry["dilations"]), geometry["groups"]),
    )

    def function(x: np.ndarray, w: np.ndarray, *bias: np.ndarray) -> np.ndarray:
        y = transposed(np.ascontiguousarray(x), np.ascontiguousarray(w), kept)
        return y + bias[0].reshape(-1, *(1,) * (y.ndim - 2)) if bias else y

    def gradient(dy: np.ndarray, y: np.ndarray, x: np.ndarray, w: np.ndarray, *b: Any) -> Any:
        over = (0, *range(2, dy.ndim))
        return (*transposed_gradients(dy, x, w, kept), *(dy.sum(axis=over) for _ in b))

    operands = (x, w) if bias is None else (x, w, bias)
    return computed("transposed convolution", function, *operands, gradient=gradient)
