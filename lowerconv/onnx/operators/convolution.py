"""Convolutions and products with weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv.nn import functional as F
from lowerconv.nn.conv import Conv2d
from lowerconv.nn.conv_transpose import ConvTranspose2d
from lowerconv.nn.graph import Value
from lowerconv.nn.layer import Layer
from lowerconv.nn.linear import Linear
from lowerconv.onnx.operators.windows import explicit_pads, per_axis, planar, planar_weight
from lowerconv.onnx.registry import Node, operator, parameters


def _extents(node: Node, weight: np.ndarray) -> tuple[int, ...]:
    return tuple(node.get("kernel_shape") or weight.shape[2:])


def _check_bias(bias: np.ndarray | None, filters: int) -> None:
    if bias is not None and bias.shape != (filters,):
        raise ValueError(f"B: got shape {bias.shape}, expected ({filters},)")


@parameters("Conv")
def conv_layer(node: Node, known: dict[int, np.ndarray]) -> Layer | None:
    """Return a convolution with constant filters."""
    weight = known.get(1)
    if weight is None or weight.ndim not in (3, 4) or (len(node.inputs) > 2 and 2 not in known):
        return None
    if tuple(node.get("kernel_shape", weight.shape[2:])) != weight.shape[2:]:
        raise ValueError(
            f"kernel_shape: got {node.get('kernel_shape')}, expected that of the filters, "
            f"{list(weight.shape[2:])}"
        )
    _check_bias(known.get(2), len(weight))
    axes = weight.ndim - 2
    strides, dilations = per_axis(node, "strides", axes), per_axis(node, "dilations", axes)
    # Padding may depend on the extents of the input ("SAME_UPPER"): it is set when that is known.
    return Conv2d.of(
        *(planar_weight(weight), known.get(2), planar(strides, 1), 0, planar(dilations, 1)),
        node.get("group", 1),
    )


@operator("Conv")
def conv(node: Node, x: Any, w: Any, b: Any = None) -> Any:
    """Import Conv: 1-D as rows of pixels, 3-D as sums of 2-D."""
    axes = x.ndim - 2
    layer = node.layer
    planes = layer.weight.data.shape[2:] if isinstance(layer, Conv2d) else ()
    extents = planes[2 - axes :] or _extents(node, w)
    x, pads = F.unpadded(x, explicit_pads(node, x, extents))
    if not isinstance(layer, Conv2d):
        return F.convolution(
            x,
            w,
            b,
            strides=per_axis(node, "strides", axes),
            pads=pads,
            dilations=per_axis(node, "dilations", axes),
            groups=node.get("group", 1),
        )
    stride, _, dilation, groups = layer.geometry
    geometry = (stride, planar(pads, (0, 0)), dilation, groups)
    if geometry != layer.geometry:
        layer.geometry = geometry
    if axes == 1:
        y = layer(F.reshape(x, (*x.shape[:2], 1, x.shape[2])))
        return F.reshape(y, (*y.shape[:2], y.shape[3]))
    return layer(x)


@parameters("ConvTranspose")
def conv_transpose_layer(node: Node, known: dict[int, np.ndarray]) -> Layer | None:
    """Return a transposed convolution with constant filters."""
    weight = known.get(1)
    if weight is None or weight.ndim not in (3, 4) or (len(node.inputs) > 2 and 2 not in known):
        return None
    _check_bias(known.get(2), weight.shape[1] * node.get("group", 1))
    axes = weight.ndim - 2
    strides, dilations = per_axis(node, "strides", axes), per_axis(node, "dilations", axes)
    return ConvTranspose2d.of(
        *(planar_weight(weight), known.get(2), planar(strides, 1), 0, 0, planar(dilations, 1)),
        node.get("group", 1),
    )


@operator("ConvTranspose")
def conv_transpose(node: Node, x: Any, w: Any, b: Any = None) -> Any:
    """Import ConvTranspose: the gradient of a convolution with respect to its input."""
    layer = node.layer
    axes = x.ndim - 2
    own = layer if isinstance(layer, ConvTranspose2d) else None
    extents = own.weight.data.shape[4 - axes :] if own else tuple(w.shape[2:])
    strides = per_axis(node, "strides", axes)
    dilations = per_axis(node, "dilations", axes)
    beyond = tuple(node.get("output_padding") or (0,) * axes)
    target = node.get("output_shape")
    mode = node.get("auto_pad", "NOTSET")
    if target is None and mode in ("SAME_UPPER", "SAME_LOWER"):
        target = [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
    if target is not None:
        wide = [
            (n - 1) * s + d * (r - 1) + 1 + o
            for n, s, d, r, o in zip(x.shape[2:], strides, dilations, extents, beyond, strict=True)
        ]
        more = [max(0, n - w) for n, w in zip(target[-axes:], wide, strict=True)]
        pads = []
        for whole, wanted in zip(wide, target[-axes:], strict=True):
            total = max(0, whole - wanted)
            small, large = total // 2, total - total // 2
            pads.append((small, large) if mode == "SAME_UPPER" else (large, small))
    else:
        flat = node.get("pads") or [0] * 2 * axes
        pads = [(flat[i], flat[axes + i]) for i in range(axes)]
        more = [0] * axes
    beyond = tuple(o + m for o, m in zip(beyond, more, strict=True))
    if own is None:
        lost = tuple((before, after - o) for (before, after), o in zip(pads, beyond, strict=True))
        return F.transposed_convolution(
            *(x, w, b), strides=strides, pads=lost, dilations=dilations, groups=node.get("group", 1)
        )
    own.padding, own.output_padding = planar(pads, (0, 0)), planar(beyond, 0)
    if axes == 1:
        y = own(F.reshape(x, (*x.shape[:2], 1, x.shape[2])))
        return F.reshape(y, (*y.shape[:2], y.shape[3]))
    return own(x)


@parameters("Gemm")
def gemm_layer(node: Node, known: dict[int, np.ndarray]) -> Layer | None:
    """Return a fully connected layer with constant weights."""
    weight, bias = known.get(1), known.get(2)
    if weight is None or (len(node.inputs) > 2 and bias is None):
        return None
    if weight.ndim != 2 or node.get("transA", 0) or weight.dtype.kind != "f":
        return None
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    rows = weight if node.get("transB", 0) else weight.T
    rows = np.ascontiguousarray(rows if alpha == 1 else rows * weight.dtype.type(alpha))
    if bias is not None:
        if bias.ndim > 1 and bias.shape[0] != 1:
            return None
        bias = np.broadcast_to(bias, (1, len(rows))).reshape(-1)
        bias = bias.copy() if beta == 1 else bias * bias.dtype.type(beta)
    return Linear.of(rows, bias)


@operator("Gemm")
def gemm(node: Node, a: Any, b: Any, c: Any = None) -> Any:
    """Import Gemm, ``alpha * a b + beta * c``."""
    if node.layer is not None and isinstance(a, Value):
        if len(a.shape) != 2:  # as files before version 7 have it
            a = F.reshape(a, (a.shape[0], -1))
        return node.layer(a)
    if node.get("transA", 0):
        a = F.transpose(a, (1, 0))
    if node.get("transB", 0):
        b = F.transpose(b, (1, 0))
    y = F.scaled(F.matmul(a, b), node.get("alpha", 1.0))
    return y if c is None else F.arithmetic("add", y, F.scaled(c, node.get("beta", 1.0)))


@parameters("MatMul")
def matmul_layer(node: Node, known: dict[int, np.ndarray]) -> Layer | None:
    """Return a fully connected layer with a constant second matrix."""
    weight = known.get(1)
    if weight is None or weight.ndim != 2 or weight.dtype.kind != "f" or 0 in weight.shape:
        return None
    return Linear.of(np.ascontiguousarray(weight.T), None)


@operator("MatMul")
def matmul(node: Node, a: Any, b: Any) -> Any:
    """Import MatMul: of rows with a constant matrix a fully connected layer."""
    if node.layer is None or not isinstance(a, Value) or len(a.shape) < 2:
        if b is None:
            b = np.ascontiguousarray(node.layer.weight.data.T)  # type: ignore[union-attr]
        return F.matmul(a, b)
    y = node.layer(F.reshape(a, (-1, a.shape[-1])))
    return F.reshape(y, (*a.shape[:-1], y.shape[1]))
