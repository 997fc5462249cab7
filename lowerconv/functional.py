"""The convolution and its two gradients as functions: check, plan, run."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv.checks import plain_array, shape
from lowerconv.conv.plan_cache import cached_plan
from lowerconv.conv.problem import EXPECTED, has_dtype


def _check_array(array: Any, name: str, dtype: np.dtype | None = None) -> None:
    plain_array(array, name)
    if dtype is not None and array.dtype != dtype:
        raise TypeError(f"{name}: got dtype {array.dtype}, expected {dtype} like the first array")
    if not has_dtype(array.dtype):
        raise TypeError(f"{name}: got dtype {array.dtype}, expected {EXPECTED}")


def _check_rank(array: np.ndarray, name: str, meaning: str) -> None:
    if array.ndim not in (3, 4):
        raise ValueError(f"{name}: got shape {array.shape}, expected (N, {meaning}) or ({meaning})")


def conv2d(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    algorithm: str = "auto",
    activation: str | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Convolve a batch of images with filters (cross-correlation, as in PyTorch).

    ``y[n,k,p,q] = bias[k] + sum_crs w[k,c,r,s] x[n,c,h,w]`` with ``h = p * stride - padding + r *
    dilation`` and likewise ``w``; pixels outside the image count as zero.

    Parameters
    ----------
    x : ndarray, (N, C, H, W) or (C, H, W), float32, float64, float16 or bfloat16
        Images, in any memory layout.
    w : ndarray, (K, C/groups, R, S), dtype of `x`
        Filters.
    bias : ndarray, (K,), optional
        Added to every pixel of its output channel.
    stride : int or (rows, columns)
        In pixels.
    padding : int, (rows, columns), ((top, bottom), (left, right)), "same" or "valid"
        Zeros around the image, in pixels.  "same" (stride 1 only) keeps H and W.
    dilation : int or (rows, columns)
        In pixels.
    groups : int
        Channels and filters are cut into that many blocks, each convolved on its own.
    algorithm : str
        "auto" or one of :func:`lowerconv.algorithms`.
    activation : {None, "relu"}
        Applied last.
    out : ndarray, optional
        Where to put the result; it shares no memory with the inputs.

    Returns
    -------
    ndarray, (N, K, P, Q) or (K, P, Q)
        `out` where it is given.

    Raises
    ------
    TypeError, ValueError
        An argument that does not fit; the message names it, and nothing has been written.
    MemoryError
        The result or the workspace could not exist on this machine.

    Examples
    --------
    >>> import numpy as np, lowerconv as lc
    >>> x = np.ones((1, 3, 5, 5), np.float32)
    >>> w = np.ones((2, 3, 3, 3), np.float32)
    >>> lc.conv2d(x, w, padding=1)[0, 0]
    array([[12., 18., 18., 18., 12.],
           [18., 27., 27., 27., 18.],
           [18., 27., 27., 27., 18.],
           [18., 27., 27., 27., 18.],
           [12., 18., 18., 18., 12.]], dtype=float32)
    """
    _check_array(x, "x")
    _check_array(w, "w", x.dtype)
    _check_rank(x, "x", "C, H, W")
    arguments = (stride, padding, dilation, groups)
    with_bias = bias is not None
    plan = cached_plan(
        "forward", x.dtype, x.shape, w.shape, arguments, algorithm, with_bias, activation
    )
    return plan(x, w, out=out) if bias is None else plan(x, w, bias, out=out)


def conv2d_input_grad(
    dy: np.ndarray,
    w: np.ndarray,
    x_shape: tuple[int, ...],
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    algorithm: str = "auto",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Return the gradient of a convolution with respect to its images.

    Parameters
    ----------
    dy : ndarray, (N, K, P, Q) or (K, P, Q), float32, float64, float16 or bfloat16
        Gradient with respect to the result of :func:`conv2d`.
    w : ndarray, (K, C/groups, R, S), dtype of `dy`
        Filters.
    x_shape : tuple of int
        Shape of the images, (N, C, H, W) or (C, H, W).
    stride, padding, dilation, groups, algorithm, out : optional
        As for :func:`conv2d`.

    Returns
    -------
    ndarray of shape `x_shape`
        `out` where it is given.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As for :func:`conv2d`.
    """
    _check_array(dy, "dy")
    _check_array(w, "w", dy.dtype)
    _check_rank(dy, "dy", "K, P, Q")
    arguments = (stride, padding, dilation, groups)
    plan = cached_plan(
        "input_grad", dy.dtype, shape(x_shape, "x_shape"), w.shape, arguments, algorithm
    )
    return plan(dy, w, out=out)


def conv2d_weight_grad(
    dy: np.ndarray,
    x: np.ndarray,
    w_shape: tuple[int, int, int, int],
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    algorithm: str = "auto",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Return the gradient of a convolution with respect to its filters.

    Parameters
    ----------
    dy : ndarray, (N, K, P, Q) or (K, P, Q), float32, float64, float16 or bfloat16
        Gradient with respect to the result of :func:`conv2d`.
    x : ndarray, (N, C, H, W) or (C, H, W), dtype of `dy`
        Images.
    w_shape : tuple of int
        Shape of the filters, (K, C/groups, R, S).
    stride, padding, dilation, groups, algorithm, out : optional
        As for :func:`conv2d`.

    Returns
    -------
    ndarray of shape `w_shape`
        Summed over the batch; `out` where it is given.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As for :func:`conv2d`.
    """
    _check_array(dy, "dy")
    _check_array(x, "x", dy.dtype)
    _check_rank(dy, "dy", "K, P, Q")
    _check_rank(x, "x", "C, H, W")
    arguments = (stride, padding, dilation, groups)
    filters = shape(w_shape, "w_shape")
    plan = cached_plan("weight_grad", dy.dtype, x.shape, filters, arguments, algorithm)
    return plan(dy, x, out=out)
