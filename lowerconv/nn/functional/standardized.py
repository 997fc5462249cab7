"""Normalisation that a file spells out: means, differences, squares and roots, found again.

    centred = x - mean(x);  centred / sqrt(mean(centred ** 2) + eps)

Exporters write layer norm so, in seven operators or more, for want of one in older versions.
"""

from __future__ import annotations

from lowerconv.nn.arithmetic import Arithmetic
from lowerconv.nn.functional.operands import layer_of
from lowerconv.nn.functional.reductions import Reduction, normalize
from lowerconv.nn.graph import Value
from lowerconv.nn.moving import COMPILED
from lowerconv.nn.pointwise import Pointwise

Axes = tuple[int, ...]


def standardized(operation: str, a: Value, b: Value) -> Value | None:
    """Return items less their mean over their deviation, where a quotient or product is that.

    Parameters
    ----------
    operation : str
        Of `arithmetic`.
    a, b : Value

    Returns
    -------
    Value or None
        None where it is anything else.
    """
    if operation == "div":
        return _over(a, b, "sqrt")
    if operation == "mul":
        return _over(a, _inner(b, "reciprocal"), "sqrt") or _over(
            b, _inner(a, "reciprocal"), "sqrt"
        )
    return None


def _inner(value: Value, function: str) -> Value | None:
    """Return what a function is applied to, None where a value is made in another way."""
    layer = layer_of(value, Pointwise)
    if layer is None or layer.function != function or value.node is None:
        return None
    return value.node.operands[0]


def _over(centred: Value, deviation: Value | None, root: str) -> Value | None:
    """Return the normalised items of `centred` over `deviation`."""
    found = _centred(centred)
    shifted = None if deviation is None else _inner(deviation, root)
    layer = layer_of(shifted, Pointwise) if shifted is not None else None
    if found is None or layer is None or shifted is None or shifted.node is None:
        return None
    if layer.function != "affine" or layer.a != 1.0 or layer.b <= 0.0:
        return None
    x, axes = found
    variance = _mean(shifted.node.operands[0])
    if variance is None or variance[1] != axes or x.dtype not in COMPILED:
        return None
    square = layer_of(variance[0], Arithmetic)
    if square is None or square.operation != "mul" or square.constant is not None:
        return None
    assert variance[0].node is not None
    one, other = variance[0].node.operands
    if one is not other or (one is not centred and _centred(one) != found):
        return None
    result = normalize(x, axes, layer.b)
    return result if isinstance(result, Value) else None


def _mean(value: Value) -> tuple[Value, Axes] | None:
    """Return of what, and over which neighbouring axes, a value is the mean that keeps its axes."""
    layer = layer_of(value, Reduction)
    if layer is None or layer.operation != "mean" or not layer.keepdims or value.node is None:
        return None
    axes = layer.axes
    if axes != tuple(range(axes[0], axes[-1] + 1)):
        return None
    return value.node.operands[0], axes


def _centred(value: Value) -> tuple[Value, Axes] | None:
    """Return what a value is less its mean, and over which axes."""
    layer = layer_of(value, Arithmetic)
    if layer is None or layer.operation != "sub" or layer.constant is not None:
        return None
    assert value.node is not None
    x, mean = value.node.operands
    found = _mean(mean)
    return found if found is not None and found[0] is x else None
