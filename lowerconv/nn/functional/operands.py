"""What operations take: values of a graph, or arrays, and functions of either."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from lowerconv.nn.combine import View
from lowerconv.nn.computed import Computed
from lowerconv.nn.graph import Value

Operand: TypeAlias = "Value | np.ndarray"


def layer_of(value: Operand, kind: type) -> Any:
    """Return the layer that makes a value, if it is of a kind.

    Parameters
    ----------
    value : Value or ndarray
    kind : type
        Of layers.

    Returns
    -------
    Layer or None
        None for arrays, inputs, and values of other layers.
    """
    if isinstance(value, Value) and value.node is not None and isinstance(value.node.layer, kind):
        return value.node.layer
    return None


def viewed(x: Value) -> Value:
    """Return the value whose items a value has in another shape; itself where it is no view.

    Parameters
    ----------
    x : Value

    Returns
    -------
    Value
    """
    is_view = layer_of(x, View) is not None
    return x.node.operands[0] if is_view and x.node is not None else x


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


def evaluated(function: Callable[[Value], Operand], x: np.ndarray) -> np.ndarray:
    """Return what a module with a given `forward` makes of an array.

    Parameters
    ----------
    function : callable
        Given a value, returns a value of the same shape.
    x : ndarray

    Returns
    -------
    ndarray
        Of the shape and dtype of `x`.
    """
    from lowerconv.nn.module import Module

    class Single(Module):
        def forward(self, *values: Any, **_: Any) -> Any:
            return function(values[0])

    kind = x.dtype if x.dtype in (np.float32, np.float64) else np.dtype(np.float64)
    shaped = np.ascontiguousarray(np.atleast_1d(x), kind)
    return Single()(shaped).reshape(x.shape).astype(x.dtype)


def constant(array: np.ndarray, like: Value) -> Value:
    """Return an array as a value, for a module all of whose results must be values.

    Parameters
    ----------
    array : ndarray
    like : Value
        Any value of the same network.

    Returns
    -------
    Value
    """
    return Computed("constant", lambda x: array, lambda dy, y, x: (None,))(like)


def apply(layer: Any, x: Operand) -> Operand:
    """Return what a layer without parameters makes of a value or an array.

    Parameters
    ----------
    layer : Layer
        Whose result has the shape of the operand.
    x : Value or ndarray

    Returns
    -------
    Value or ndarray
    """
    return evaluated(layer, x) if isinstance(x, np.ndarray) else layer(x)
