"""Operations that do the same to each item, of one operand or of two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lowerconv.nn.arithmetic import _NUMPY, Arithmetic
from lowerconv.nn.combine import Add, View
from lowerconv.nn.computed import summed_to
from lowerconv.nn.functional.operands import Operand, computed, evaluated, layer_of, viewed
from lowerconv.nn.functional.shapes import reshape
from lowerconv.nn.functional.standardized import standardized
from lowerconv.nn.graph import Value
from lowerconv.nn.moving import COMPILED
from lowerconv.nn.pointwise import Pointwise, constants


def pointwise(x: Operand, function: str, a: float | None = None, b: float | None = None) -> Operand:
    """Return a function of every item.

    Parameters
    ----------
    x : Value or ndarray
    function : str
        One of `lowerconv.ops.pointwise.FUNCTIONS`, where the formulas are.
    a, b : float, optional
        Its constants; by default those of PyTorch's function of that name.

    Returns
    -------
    Value or ndarray
        Of the shape of `x`.

    Raises
    ------
    ValueError
        There is no such function.
    """
    if isinstance(x, np.ndarray):
        return evaluated(lambda v: pointwise(v, function, a, b), x)
    source = viewed(x)
    if source is not x:  # the shape last, so that what makes the items can do this, too
        return reshape(pointwise(source, function, a, b), x.shape)
    if function == "affine":
        before = layer_of(x, Pointwise)
        if before is not None and before.function == "affine" and x.node is not None:
            own_a, own_b = constants(function, a, b)
            return affine(x.node.operands[0], own_a * before.a, own_a * before.b + own_b)
    if function == "clip" and constants(function, a, b) == (0, np.inf):
        from lowerconv.nn.activation import relu

        return relu(x)
    return Pointwise(function, a, b)(x)


def affine(x: Operand, a: float, b: float) -> Operand:
    """Return ``a * x + b``.

    Parameters
    ----------
    x : Value or ndarray
    a, b : float

    Returns
    -------
    Value or ndarray
    """
    if abs(a - 1) < 1e-7 and b == 0:
        return x
    return pointwise(x, "affine", a, b)


def arithmetic(operation: str, a: Operand, b: Operand) -> Operand:
    """Return ``a + b`` or another operation on two operands.

    Parameters
    ----------
    operation : str
        "add", "sub", "mul", "div", "pow", "min" or "max". Quotients of integers are rounded towards
        zero, as in C.
    a, b : Value or ndarray
        Broadcast to each other, by NumPy's rules.

    Returns
    -------
    Value or ndarray
    """
    if not isinstance(a, Value) and not isinstance(b, Value):
        with np.errstate(all="ignore"):
            if operation == "div" and np.result_type(a, b).kind in "iu":
                return _truncated(a, b)
            return np.asarray(_NUMPY[operation](a, b))
    viewed_apart = _under_views(operation, a, b)
    if viewed_apart is not None:
        return viewed_apart
    if isinstance(a, Value) and isinstance(b, Value):
        normal = standardized(operation, a, b)
        if normal is not None:
            return normal
        found = _gated(a, b) or _gated(b, a) if operation == "mul" else None
        if found is not None:
            return found
        alike = operation == "add" and a is not b and a.dtype == b.dtype and a.dtype in COMPILED
        if alike and a.has_shape_of(b):
            return Add()(a, b)
        if operation == "div" and np.result_type(a.dtype, b.dtype).kind in "iu":
            return computed("div", _truncated, a, b)
        return Arithmetic(operation)(a, b)
    value, constant, first = (b, a, True) if isinstance(b, Value) else (a, b, False)
    assert isinstance(value, Value) and isinstance(constant, np.ndarray)
    constant = constant.astype(value.dtype, copy=False)
    if operation == "div" and value.dtype.kind in "iu":
        return computed("div", _truncated, *((constant, value) if first else (value, constant)))
    if constant.size == 1 and constant.ndim <= value.ndim and value.dtype.kind == "f":
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


def _under_views(operation: str, a: Operand, b: Operand) -> Operand | None:
    """Return an operation on what is in another shape, which comes last; None where it cannot.

    So neighbours find each other: a bias behind the reshape that follows a product is its bias.
    """
    if isinstance(a, Value) and isinstance(b, Value):
        under, other = viewed(a), viewed(b)
        if (under is a and other is b) or not a.has_shape_of(b):
            return None
        if under.shape == other.shape:
            return reshape(arithmetic(operation, under, other), a.shape)
        if operation != "add" or a is b or a.dtype != b.dtype or a.dtype not in COMPILED:
            return None
        if under is a:
            under, other = other, under
        sum_of = under, View(under.shape)(other)
        return reshape(Add()(*sum_of), a.shape)
    value, constant = (a, b) if isinstance(a, Value) else (b, a)
    assert isinstance(value, Value) and isinstance(constant, np.ndarray)
    under, items = viewed(value), constant.size
    if under is value or items == 1 or constant.ndim > value.ndim:
        return None
    if not constant.shape[-1] == value.shape[-1] == under.shape[-1] == items:
        return None
    row = constant.reshape(-1)
    pair = (under, row) if value is a else (row, under)
    return reshape(arithmetic(operation, *pair), value.shape)


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
    source: Any = gate.node.operands[0]
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
    if (layer.function, layer.a, layer.b) == ("clip", 0.0, 6.0):
        (root, a, b), (other, c, d) = _linear(x), _linear(source)
        if root is other and a == c and _near(d - b, 3.0):
            return affine(pointwise(x, "hard_swish"), 6.0, 0.0)
    return None


def _linear(x: Value) -> tuple[Value, float, float]:
    """Return a value as another one times a factor, and a summand: those of a linear function."""
    layer = layer_of(x, Pointwise)
    if layer is None or layer.function != "affine" or x.node is None:
        return x, 1.0, 0.0
    return x.node.operands[0], layer.a, layer.b


def _near(a: float, b: float) -> bool:
    return abs(a - b) < 1e-6


def scaled(x: Operand, factor: float) -> Operand:
    """Return ``factor * x``.

    Parameters
    ----------
    x : Value or ndarray
    factor : float

    Returns
    -------
    Value or ndarray
    """
    return arithmetic("mul", x, np.asarray(factor, x.dtype)) if factor != 1 else x


def prelu(x: Operand, slope: Operand) -> Operand:
    """Return `x` where it is not negative, else ``slope * x``.

    He, Zhang, Ren, Sun, "Delving deep into rectifiers" (2015), section 2.1.

    Parameters
    ----------
    x : Value or ndarray
    slope : Value or ndarray
        Broadcast to `x`.

    Returns
    -------
    Value or ndarray
    """

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
