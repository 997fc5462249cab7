"""Operations over windows of pixels: pooling and convolution without parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lowerconv.nn.functional.operands import Operand, computed

if TYPE_CHECKING:
    from lowerconv.nn.windows import Windows


def pool(x: Operand, operation: str, windows: Windows, include_pad: bool = False) -> Operand:
    """Return the largest item, the mean or the sum of each window.

    Parameters
    ----------
    x : Value or ndarray, (N, C, ...)
    operation : {"max", "mean", "sum"}
    windows : lowerconv.nn.windows.Windows
    include_pad : bool
        Whether a mean counts the padding.

    Returns
    -------
    Value or ndarray
    """
    from lowerconv.nn.windows import pool_array, pool_gradient

    return computed(
        f"{operation} of windows",
        lambda x: pool_array(x, operation, windows, include_pad),
        x,
        gradient=lambda dy, y, x: (pool_gradient(dy, y, x, operation, windows, include_pad),),
    )


def convolution(x: Operand, w: Operand, bias: Operand | None, **geometry: Any) -> Operand:
    """Return the convolution with filters that are no parameters, along 1 to 3 axes.

    Parameters
    ----------
    x : Value or ndarray, (N, C, ...)
    w : Value or ndarray, (K, C/groups, ...)
    bias : Value, ndarray or None, (K,)
    **geometry
        ``strides``, ``dilations``: for each axis of pixels; ``pads``: (before, after) for each;
        ``groups``.

    Returns
    -------
    Value or ndarray
        (N, K, ...).
    """
    from lowerconv.nn.convolve_nd import WindowArguments, convolve, convolve_gradients

    kept = WindowArguments.of(**geometry)

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
    """Return the transposed convolution with filters that are no parameters, along 1 to 3 axes.

    Parameters
    ----------
    x : Value or ndarray, (N, C, ...)
    w : Value or ndarray, (C, K/groups, ...)
    bias : Value, ndarray or None, (K,)
    **geometry
        ``strides``, ``dilations``: for each axis of pixels; ``pads``: (before, after) for each;
        ``groups``. Padding cuts the result; where it is negative after an axis, it adds zeros.

    Returns
    -------
    Value or ndarray
        (N, K, ...).
    """
    from lowerconv.nn.convolve_nd import WindowArguments, transposed, transposed_gradients

    kept = WindowArguments.of(**geometry)

    def function(x: np.ndarray, w: np.ndarray, *bias: np.ndarray) -> np.ndarray:
        y = transposed(np.ascontiguousarray(x), np.ascontiguousarray(w), kept)
        return y + bias[0].reshape(-1, *(1,) * (y.ndim - 2)) if bias else y

    def gradient(dy: np.ndarray, y: np.ndarray, x: np.ndarray, w: np.ndarray, *b: Any) -> Any:
        over = (0, *range(2, dy.ndim))
        return (*transposed_gradients(dy, x, w, kept), *(dy.sum(axis=over) for _ in b))

    operands = (x, w) if bias is None else (x, w, bias)
    return computed("transposed convolution", function, *operands, gradient=gradient)
