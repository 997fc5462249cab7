"""Windows as ONNX describes them: strides, dilations and padding, and rules that fix padding."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from lowerconv.nn.graph import Value
from lowerconv.onnx.registry import Node
from lowerconv.runtime.workspace import check_bytes

Pads = list[tuple[int, int]]


def per_axis(node: Node, name: str, axes: int) -> tuple[int, ...]:
    """Return an attribute that has a number for each axis."""
    value = tuple(node.get(name) or (1,) * axes)
    if len(value) != axes or any(n < 1 for n in value):
        raise ValueError(f"{name}: got {list(value)}, expected {axes} positive numbers")
    return value


def room(shape: Sequence[int], dtype: Any, what: str) -> None:
    """Raise MemoryError if an array of a shape cannot exist on this machine."""
    check_bytes(prod(shape) * np.dtype(dtype).itemsize, what)


def seen(x: Any) -> tuple[int, ...]:
    """Return the extents of a value or an array, for checks that decide nothing else."""
    return x.extents if isinstance(x, Value) else x.shape


def explicit_pads(node: Node, x: Any, extents: Sequence[int]) -> Pads:
    """Return the padding before and after each axis.

    Parameters
    ----------
    node : Node
    x : Value or ndarray
        The input, whose extents matter where padding is to make up for them.
    extents : sequence of int
        Of the window.
    """
    axes, mode = x.ndim - 2, node.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        flat = node.get("pads") or [0] * 2 * axes
        if len(flat) != 2 * axes:
            raise ValueError(f"pads: got {flat}, expected {2 * axes} numbers")
        pixels = seen(x)[2:]
        room([n + flat[i] + flat[axes + i] for i, n in enumerate(pixels)], np.float32, "pads")
        return [(flat[i], flat[axes + i]) for i in range(axes)]
    if mode == "VALID":
        return [(0, 0)] * axes
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise ValueError(f"auto_pad: got {mode!r}, expected SAME_UPPER, SAME_LOWER or VALID")
    strides = per_axis(node, "strides", axes)
    dilations = per_axis(node, "dilations", axes)
    pads = []
    for n, extent, s, d in zip(x.shape[2:], extents, strides, dilations, strict=True):
        windows = -(-n // s)
        total = max(0, (windows - 1) * s + d * (extent - 1) + 1 - n)
        small, large = total // 2, total - total // 2
        pads.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return pads


def planar(values: Sequence[Any], missing: Any) -> tuple[Any, Any]:
    """Return values for rows and columns: of one axis, images are one row high."""
    return tuple(values) if len(values) == 2 else (missing, *values)


def planar_weight(weight: np.ndarray) -> np.ndarray:
    """Return filters of one or two axes as (K, C, R, S)."""
    return weight if weight.ndim == 4 else weight[:, :, None, :]
