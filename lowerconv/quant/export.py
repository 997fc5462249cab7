"""Integer layers in ONNX files: QuantizeLinear and DequantizeLinear around float32 operators.

So other libraries find what is to be computed with integers.  Codes are tensors of bytes, (N, C, H,
W) as words are; a bias is int32, in steps of the sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lowerconv.nn.codes import WeightCodes
from lowerconv.nn.export import Writer, form, write_node
from lowerconv.nn.graph import Node
from lowerconv.quant.params import QuantParams

_FEATURES, _IMAGES = (0, -1), (0, -1, 1, 1)  # shapes of rows, and of images of one pixel


def _numbers(out: Writer, codes: str, params: QuantParams) -> str:
    """Add what makes numbers of codes, and return its output."""
    scale = out.constant(params.scale, np.float32)
    zero = out.constant(params.zero_point, params.dtype)
    return out.add("DequantizeLinear", [codes, scale, zero], out.between())


def _codes(out: Writer, numbers: str, params: QuantParams, y: str) -> None:
    """Add what makes codes of numbers."""
    scale = out.constant(params.scale, np.float32)
    zero = out.constant(params.zero_point, params.dtype)
    out.add("QuantizeLinear", [numbers, scale, zero], y)


def _reshaped(out: Writer, x: str, shape: tuple[int, ...], y: str | None = None) -> str:
    return out.add("Reshape", [x, out.constant(shape, np.int64)], y or out.between())


def _clipped(out: Writer, x: str, params: QuantParams, low: int, high: int) -> str:
    """Add a ReLU or a clip, where codes do not go as far as their type does."""
    least, most = np.iinfo(params.dtype).min, np.iinfo(params.dtype).max
    if low == params.zero_point and high == most:
        return out.add("Relu", [x], out.between())
    if (low, high) == (least, most):
        return x
    scale = np.float32(params.scale)
    ends = [np.float32(end - params.zero_point) * scale for end in (low, high)]
    return _clip(out, x, ends, out.between())


def _clip(out: Writer, x: str, ends: Sequence[float], y: str) -> str:
    return out.add("Clip", [x, *(out.constant(end, np.float32) for end in ends)], y)


@form("Quantize")
def _quantize(out: Writer, node: Node, layer: Any, xs: list[str], y: str) -> None:
    x, params = xs[0], layer.params
    if len(node.operands[0].shape) != 4:
        x = _reshaped(out, x, _IMAGES)
    limits = np.iinfo(params.dtype)
    if (params.low, params.high) != (limits.min, limits.max):
        x = _clipped(out, x, params, params.low, params.high)
    _codes(out, x, params, y)


@form("Dequantize")
def _dequantize(out: Writer, node: Node, layer: Any, xs: list[str], y: str) -> None:
    numbers = _numbers(out, xs[0], layer.params)
    if layer.features:
        _reshaped(out, numbers, _FEATURES, y)
    else:
        out.add("Identity", [numbers], y)


@form("Pack")
def _pack(out: Writer, node: Node, layer: Any, xs: list[str], y: str) -> None:
    _reshaped(out, xs[0], _IMAGES if len(node.operands[0].shape) == 2 else (0, 0, 0, 0), y)


@form("Unpack")
def _unpack(out: Writer, node: Node, layer: Any, xs: list[str], y: str) -> None:
    _reshaped(out, xs[0], _FEATURES if layer.features else (0, 0, 0, 0), y)


@form("IntegerConv2d")
def _conv(out: Writer, node: Node, layer: Any, xs: list[str], y: str) -> None:
    filters, epilogue, p = layer.filters, layer.epilogue, layer.problem(node.operands[0].shape)
    codes, scale = WeightCodes(filters.unpacked, filters.scale).finer()
    if (scale < 0).any():  # as batch norm may make them; ONNX has positive ones
        if codes[scale < 0].min(initial=0) == -128:
            raise ValueError("codes: got -128 with a negative scale, which has no form in ONNX")
        codes = np.where((scale < 0)[:, None, None, None], -codes, codes)
        scale = np.abs(scale)
    zeros = np.zeros(len(scale), np.int8)
    given = [out.constant(array) for array in (codes, scale, zeros)]
    weight = out.add("DequantizeLinear", given, out.between(), axis=0)
    step = (scale.astype(np.float64) * layer.x.scale).astype(np.float32)
    bias = np.rint(filters.bias / step.astype(np.float64)).clip(-(2**31), 2**31 - 1)
    given = [out.constant(bias, np.int32), out.constant(step)]
    added = out.add("DequantizeLinear", given, out.between(), axis=0)
    (top, bottom), (left, right) = p.padding
    geometry = {"strides": list(p.stride), "dilations": list(p.dilation), "group": p.groups}
    operands = [_numbers(out, xs[0], layer.x), weight, added]
    whole = epilogue.y is None and layer.range is None and not layer.features
    made = y if whole else out.between()
    out.add("Conv", operands, made, pads=[top, left, bottom, right], **geometry)
    if epilogue.y is None:
        _numbers_of(out, layer, made, y)
        return
    if epilogue.residual is not None:
        made = out.add("Add", [made, _numbers(out, xs[1], epilogue.residual)], out.between())
    made = _clipped(out, made, epilogue.y, epilogue.low, epilogue.high)
    _codes(out, made, epilogue.y, y)


def _numbers_of(out: Writer, layer: Any, made: str, y: str) -> None:
    """Add what makes the float32 result of a convolution of its sums, where they differ."""
    between = out.between() if layer.features else y
    if layer.range == (0, np.inf):
        made = out.add("Relu", [made], between)
    elif layer.range is not None:
        made = _clip(out, made, layer.range, between)
    if layer.features:
        _reshaped(out, made, _FEATURES, y)


@form("IntegerAdd")
def _add(out: Writer, node: Node, layer: Any, xs: list[str], y: str) -> None:
    both = [_numbers(out, x, p) for x, p in zip(xs, (layer.a, layer.b), strict=True)]
    made = out.add("Add", both, out.between())
    _codes(out, _clipped(out, made, layer.y, layer.low, layer.high), layer.y, y)


@form("Lookup")
def _lookup(out: Writer, node: Node, layer: Any, xs: list[str], y: str) -> None:
    made = numbers = _numbers(out, xs[0], layer.x)
    if layer.function is not None:
        made = f"{y}_numbers"
        write_node(out, node, layer.function, [numbers], made)
    _codes(out, made, layer.y, y)


@form("IntegerMaxPool2d")
def _max_pool(out: Writer, node: Node, layer: Any, xs: list[str], y: str) -> None:
    made = f"{y}_numbers"
    write_node(out, node, layer.pool, [_numbers(out, xs[0], layer.x)], made)
    _codes(out, made, layer.x, y)


@form("IntegerAvgPool2d")
def _avg_pool(out: Writer, node: Node, layer: Any, xs: list[str], y: str) -> None:
    made = f"{y}_numbers"
    write_node(out, node, layer.pool, [_numbers(out, xs[0], layer.x)], made)
    _codes(out, _clipped(out, made, layer.y, layer.low, layer.high), layer.y, y)


@form("IntegerResponseNorm")
def _response_norm(out: Writer, node: Node, layer: Any, xs: list[str], y: str) -> None:
    made = f"{y}_numbers"
    write_node(out, node, layer.norm, [_numbers(out, xs[0], layer.x)], made)
    _codes(out, _clipped(out, made, layer.y, layer.low, layer.high), layer.y, y)


@form("IntegerConcat")
def _concat(out: Writer, node: Node, layer: Any, xs: list[str], y: str) -> None:
    numbers = [_numbers(out, x, layer.y) for x in xs]
    _codes(out, out.add("Concat", numbers, out.between(), axis=1), layer.y, y)


@form("Reshaped")
def _reshape(out: Writer, node: Node, layer: Any, xs: list[str], y: str) -> None:
    _reshaped(out, xs[0], layer.pattern, y)
