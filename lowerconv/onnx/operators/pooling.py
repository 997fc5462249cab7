"""Pooling over windows and over whole images."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv.nn import functional as F
from lowerconv.nn.pooling import AvgPool2d, MaxPool2d
from lowerconv.nn.windows import Windows, max_indices
from lowerconv.onnx.operators.windows import explicit_pads, per_axis, planar
from lowerconv.onnx.registry import Node, operator


@operator("MaxPool", "AveragePool")
def pool(node: Node, x: Any) -> Any:
    """Import MaxPool and AveragePool."""
    largest = node.operator == "MaxPool"
    extents = tuple(node.attributes["kernel_shape"])
    axes = len(extents)
    strides, dilations = per_axis(node, "strides", axes), per_axis(node, "dilations", axes)
    pads = explicit_pads(node, x, extents)
    ceil, include = bool(node.get("ceil_mode", 0)), bool(node.get("count_include_pad", 0))
    even = all(before == after for before, after in pads)
    windows = Windows(extents, strides, pads, dilations, ceil)
    small = all(2 * before <= extent for (before, _), extent in zip(pads, extents, strict=True))
    if len(node.outputs) > 1 and node.outputs[1]:
        columns = bool(node.get("storage_order", 0))
        indices = F.computed("max indices", lambda x: max_indices(x, windows, columns), x)
        return F.pool(x, "max", windows, include), indices
    if not even and (largest or not include):  # as if it were, where that gives no other windows
        alike = [(before, before) for before, _ in pads]
        reached = all(
            n + 2 * before >= r
            for n, (before, _), r in zip(x.shape[2:], alike, extents, strict=True)
        )
        for rounded in (False, True) if reached and set(dilations) == {1} else ():
            symmetric = windows._replace(pads=alike, ceil=rounded)
            if symmetric.counts(x.shape[2:]) == windows.counts(x.shape[2:]):
                even, ceil, pads = True, rounded, alike
                break
    plain = axes <= 2 and even and small and set(dilations) == {1} and x.dtype.kind == "f"
    if not plain:
        return F.pool(x, "max" if largest else "mean", windows, include)
    size, stride = planar(extents, 1), planar(strides, 1)
    padding = planar([before for before, _ in pads], 0)
    layer = (
        MaxPool2d(size, stride, padding, ceil)
        if largest
        else AvgPool2d(size, stride, padding, ceil, include)
    )
    if axes == 1:
        y = F.apply(layer, F.reshape(x, (*x.shape[:2], 1, x.shape[2])))
        return F.reshape(y, (*y.shape[:2], y.shape[3]))
    return F.apply(layer, x)


@operator("LpPool", how="NumPy")
def lp_pool(node: Node, x: Any) -> Any:
    """Import LpPool."""
    extents, order = tuple(node.attributes["kernel_shape"]), node.get("p", 2)
    axes = len(extents)
    strides, dilations = per_axis(node, "strides", axes), per_axis(node, "dilations", axes)
    pads = explicit_pads(node, x, extents)
    powers = F.computed("power", lambda v: np.abs(v) ** order, x)
    ceil = bool(node.get("ceil_mode", 0))
    sums = F.pool(powers, "sum", Windows(extents, strides, pads, dilations, ceil))
    return F.computed("root", lambda v: v ** v.dtype.type(1 / order), sums)


@operator("GlobalAveragePool")
def global_average(node: Node, x: Any) -> Any:
    """Import GlobalAveragePool."""
    return F.reduce("mean", x, range(2, x.ndim), True)


@operator("GlobalMaxPool", how="NumPy")
def global_max(node: Node, x: Any) -> Any:
    """Import GlobalMaxPool."""
    return F.reduce("max", x, range(2, x.ndim), True)


@operator("GlobalLpPool", how="NumPy")
def global_lp(node: Node, x: Any) -> Any:
    """Import GlobalLpPool."""
    order, over = node.get("p", 2), tuple(range(2, len(x.shape)))

    def function(x: np.ndarray) -> np.ndarray:
        total = (np.abs(x) ** order).sum(axis=over, keepdims=True)
        return (total ** (1 / order)).astype(x.dtype)

    return F.computed("lp_pool", function, x)
