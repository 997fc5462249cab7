"""Operators of 8-bit integers: codes of one scale as layers, others by NumPy or the reference.

What QuantizeLinear and DequantizeLinear stand around becomes integer layers when a network that
learns nothing is planned: see `lowerconv.quant.to_integers`.  Sums of integers are made in float64,
which holds them exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv.nn import functional as F
from lowerconv.nn.convolve_nd import WindowArguments, convolve
from lowerconv.nn.graph import Value
from lowerconv.onnx.operators.reference import by_reference
from lowerconv.onnx.operators.windows import explicit_pads, per_axis
from lowerconv.onnx.registry import Node, operator
from lowerconv.quant.params import QuantParams
from lowerconv.quant.qdq import DequantizeLinear, QuantizeLinear

CODES = (np.dtype(np.uint8), np.dtype(np.int8))
_WHOLE = (*CODES, np.dtype(np.int16), np.dtype(np.uint16), np.dtype(np.int32))


def params_of(scale: Any, zero: Any, dtype: np.dtype) -> QuantParams | None:
    """Return what 8-bit codes stand for, None where that is not one scale, known in advance."""
    known = isinstance(scale, np.ndarray) and (zero is None or isinstance(zero, np.ndarray))
    if not known or scale.size != 1 or scale.dtype != np.float32 or dtype not in CODES:
        return None
    if not (scale.reshape(-1)[0] > 0 and np.isfinite(scale.reshape(-1)[0])):
        return None
    point = 0 if zero is None else int(zero.reshape(-1)[0])
    return QuantParams.of(float(scale.reshape(-1)[0]), point, dtype == np.int8)


@operator("QuantizeLinear", how="NumPy")
def quantize_linear(node: Node, x: Any, scale: Any, zero: Any = None) -> Any:
    """Import QuantizeLinear."""
    dtype = np.dtype(np.uint8) if zero is None else zero.dtype
    if node.get("output_dtype", 0) or not _is_plain(node, x, scale, dtype):
        return by_reference(node, x, scale, *(() if zero is None else (zero,)))
    params = params_of(scale, zero, dtype) if isinstance(x, Value) else None
    if params is not None:
        return QuantizeLinear(params)(x)
    axis, info = node.get("axis", 1), np.iinfo(dtype)

    def function(x: np.ndarray, scale: np.ndarray, *zero: np.ndarray) -> np.ndarray:
        shape = along(scale, x.ndim, axis)
        codes = np.rint(x / scale.reshape(shape))
        if zero:
            codes = codes + zero[0].astype(np.float32).reshape(along(zero[0], x.ndim, axis))
        return np.clip(codes, info.min, info.max).astype(dtype)

    return F.computed("QuantizeLinear", function, x, scale, *(() if zero is None else (zero,)))


@operator("DequantizeLinear", how="NumPy")
def dequantize_linear(node: Node, x: Any, scale: Any, zero: Any = None) -> Any:
    """Import DequantizeLinear."""
    params = params_of(scale, zero, x.dtype) if isinstance(x, Value) else None
    if params is not None:
        return DequantizeLinear(params)(x)
    if not _is_plain(node, scale, scale, x.dtype):
        return by_reference(node, x, scale, *(() if zero is None else (zero,)))
    axis = node.get("axis", 1)

    def function(x: np.ndarray, scale: np.ndarray, *zero: np.ndarray) -> np.ndarray:
        wide = x.astype(np.int64)
        if zero:
            wide = wide - zero[0].astype(np.int64).reshape(along(zero[0], x.ndim, axis))
        return wide.astype(np.float32) * scale.reshape(along(scale, x.ndim, axis))

    return F.computed("DequantizeLinear", function, x, scale, *(() if zero is None else (zero,)))


def _is_plain(node: Node, numbers: Any, scale: Any, codes: np.dtype) -> bool:
    """Return whether codes are whole numbers of some bytes, with scales of float32 in a row."""
    kinds = numbers.dtype == scale.dtype == np.float32 and codes in _WHOLE
    return kinds and len(scale.shape) < 2 and not node.get("block_size", 0)


def along(scale: np.ndarray, axes: int, axis: int) -> tuple[int, ...]:
    """Return the shape of scales, one or one for each item of an axis, to multiply with."""
    if scale.size == 1:
        return (1,) * axes
    shape = [1] * axes
    shape[axis] = scale.size
    return tuple(shape)


def _less_zero(x: np.ndarray, zero: np.ndarray | None, axis: int) -> np.ndarray:
    """Return codes less their zero point, float64."""
    wide = x.astype(np.float64)
    if zero is None:
        return wide
    shape = along(zero, x.ndim, axis) if x.ndim and zero.ndim < 2 else zero.shape
    return wide - zero.astype(np.float64).reshape(shape)


@operator("ConvInteger", how="NumPy")
def conv_integer(node: Node, x: Any, w: Any, x_zero: Any = None, w_zero: Any = None) -> Any:
    """Import ConvInteger: exact sums."""
    axes = len(x.shape) - 2
    extents = tuple(node.get("kernel_shape") or w.shape[2:])
    pads = explicit_pads(node, x, extents)
    geometry = WindowArguments(
        per_axis(node, "strides", axes),
        tuple(pads),
        per_axis(node, "dilations", axes),
        node.get("group", 1),
    )
    zeros = [(x_zero, 1), (w_zero, 0)]
    given = [zero for zero, _ in zeros if zero is not None]

    def function(x: np.ndarray, w: np.ndarray, *left: np.ndarray) -> np.ndarray:
        rest = list(left)
        x, w = (
            _less_zero(array, None if zero is None else rest.pop(0), axis)
            for array, (zero, axis) in zip((x, w), zeros, strict=True)
        )
        return convolve(x, w, None, geometry).astype(np.int32)

    return F.computed("ConvInteger", function, x, w, *given)


@operator("MatMulInteger", how="NumPy")
def matmul_integer(node: Node, a: Any, b: Any, a_zero: Any = None, b_zero: Any = None) -> Any:
    """Import MatMulInteger: exact sums."""
    zeros = [(a_zero, -2), (b_zero, -1)]
    given = [zero for zero, _ in zeros if zero is not None]

    def function(a: np.ndarray, b: np.ndarray, *left: np.ndarray) -> np.ndarray:
        rest = list(left)
        a, b = (
            _less_zero(array, None if zero is None else rest.pop(0), axis)
            for array, (zero, axis) in zip((a, b), zeros, strict=True)
        )
        return (a @ b).astype(np.int32)

    return F.computed("MatMulInteger", function, a, b, *given)


@operator("DynamicQuantizeLinear", how="NumPy")
def dynamic_quantize_linear(node: Node, x: Any) -> Any:
    """Import DynamicQuantizeLinear: codes, scale and zero point of the numbers that there are."""

    def scale(x: np.ndarray) -> np.ndarray:
        high, low = max(np.float32(0), x.max(initial=0)), min(np.float32(0), x.min(initial=0))
        return np.float32((high - low) / np.float32(255))

    def zero(x: np.ndarray) -> np.ndarray:
        low, step = min(np.float32(0), x.min(initial=0)), scale(x)
        return np.uint8(np.clip(np.rint(-low / step) if step else 0, 0, 255))

    def codes(x: np.ndarray) -> np.ndarray:
        step = scale(x)
        rounded = np.rint(x / step) if step else np.zeros_like(x)
        return np.clip(rounded + zero(x), 0, 255).astype(np.uint8)

    return tuple(F.computed(f"quantize {f.__name__}", f, x) for f in (codes, scale, zero))
