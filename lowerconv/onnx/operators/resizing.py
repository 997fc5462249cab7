"""Resize and Upsample."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import floor
from typing import Any

import numpy as np

from lowerconv.nn import functional as F
from lowerconv.nn.resize import COORDINATES, Resize, taps
from lowerconv.onnx.operators.shapes import numbers
from lowerconv.onnx.operators.windows import room, seen
from lowerconv.onnx.registry import Node, operator


@operator("Upsample", since=7)
def upsample_by_attribute(node: Node, x: Any) -> Any:
    """Import Upsample, whose scales are an attribute before version 9."""
    return _resized(node, x, [float(s) for s in node.attributes["scales"]], None)


@operator("Upsample", since=9, contents=(1,))
def upsample(node: Node, x: Any, scales: Any) -> Any:
    """Import Upsample."""
    return _resized(node, x, [float(s) for s in scales], None)


@operator("Resize", since=10, contents=(1,))
def resize_by_scales(node: Node, x: Any, scales: Any) -> Any:
    """Import Resize as in version 10, which is what Upsample was."""
    return _resized(node, x, [float(s) for s in scales], None)


@operator("Resize", since=11, contents=(1, 2, 3))
def resize(node: Node, x: Any, roi: Any = None, scales: Any = None, sizes: Any = None) -> Any:
    """Import Resize."""
    if not isinstance(scales, (np.ndarray, type(None))):
        raise ValueError("scales: depend on the contents of the input, expected constants")
    rank = x.ndim
    axes = [a % rank for a in node.get("axes") or range(rank)]
    wanted = None if sizes is None or not np.size(sizes) else numbers(sizes, "sizes")
    ratio = [1.0] * rank
    if wanted is not None:
        each = [n / x.shape[a] for a, n in zip(axes, wanted, strict=True)]
        policy = node.get("keep_aspect_ratio_policy", "stretch")
        full = list(x.shape)
        if policy == "stretch":
            for axis, n in zip(axes, wanted, strict=True):
                full[axis] = n
        else:
            common = min(each) if policy == "not_larger" else max(each)
            each = [common] * len(each)
            for axis in axes:
                full[axis] = floor(common * x.shape[axis] + 0.5)
        for axis, value in zip(axes, each, strict=True):
            ratio[axis] = value
        return _resized(node, x, ratio, full, roi)
    for axis, value in zip(axes, [] if scales is None else map(float, scales), strict=True):
        ratio[axis] = value
    return _resized(node, x, ratio, None, roi)


def _resized(
    node: Node, x: Any, scales: list[float], sizes: list[int] | None, roi: Any = None
) -> Any:
    """Return `x` resized along every axis whose scale is not 1."""
    mode = node.get("mode", "nearest")
    coordinates = node.get(
        "coordinate_transformation_mode", "half_pixel" if node.version > 10 else "asymmetric"
    )
    if coordinates not in COORDINATES and coordinates != "tf_crop_and_resize":
        raise ValueError(f"coordinate_transformation_mode: got {coordinates!r}")
    by_scales = sizes is None and coordinates != "tf_crop_and_resize"
    extents = seen(x) if by_scales else x.shape
    shape = _floored(extents, scales) if sizes is None else sizes
    room(shape, x.dtype, "the result")
    options = (
        *(node.get("nearest_mode", "round_prefer_floor" if node.version > 10 else "floor"),),
        *(node.get("cubic_coeff_a", -0.75), bool(node.get("exclude_outside", 0))),
        bool(node.get("antialias", 0)),
    )
    rank = len(shape)
    changed = [i for i in range(rank) if (shape[i], scales[i]) != (extents[i], 1.0)]
    places: dict[int, Any] = dict.fromkeys(range(rank), coordinates)
    if coordinates == "align_corners":
        places = dict.fromkeys(range(rank), _aligned)
    if coordinates == "tf_crop_and_resize":
        if not isinstance(roi, np.ndarray):
            raise ValueError("roi: depends on the contents of the input, expected constants")
        axes = [a % rank for a in node.get("axes") or range(rank)]
        region = roi.astype(np.float64).reshape(2, len(axes))
        places |= {a: _cropped(*region[:, i]) for i, a in enumerate(axes)}
        changed = sorted({*changed, *axes})
    if not changed:
        return x

    def found(n: tuple[int, ...], m: Sequence[int]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        return {i: taps(n[i], m[i], scales[i], mode, places[i], *options) for i in changed}

    if rank == 4 and set(changed) <= {2, 3} and x.dtype.kind == "f":

        def fit(n: tuple[int, ...]) -> Resize:
            return _layer(n, found(n, _floored(n, scales) if sizes is None else sizes))

        layer = fit(extents)
        if by_scales:
            layer.fit = lru_cache(maxsize=1)(fit)
        y = F.apply(layer, x)
    else:
        y = _applied(x, found(x.shape, shape))
    if coordinates != "tf_crop_and_resize":
        return y
    inside = np.ones(shape, bool)
    for axis in axes:
        at = places[axis](np.arange(shape[axis]), scales[axis], x.shape[axis], shape[axis])
        fits = (at >= 0) & (at <= x.shape[axis] - 1)
        inside &= fits.reshape([-1 if i == axis else 1 for i in range(rank)])
    return F.where(inside, y, np.asarray(node.get("extrapolation_value", 0.0), y.dtype))


def _aligned(i: np.ndarray, scale: float, n: int, m: int) -> np.ndarray:
    """Return where pixels lie if corners are aligned, by the length that scales say, unrounded."""
    return i * (n - 1) / (n * scale - 1) if n * scale != 1 else 0 * i


def _cropped(first: float, last: float) -> Any:
    """Return the function that tells where pixels of a region lie in the image."""

    def place(i: np.ndarray, scale: float, n: int, m: int) -> np.ndarray:
        if m > 1:
            return first * (n - 1) + i * (last - first) * (n - 1) / (m - 1)
        return 0.5 * (first + last) * (n - 1) + 0 * i

    return place


def _floored(extents: Sequence[int], scales: list[float]) -> list[int]:
    """Return extents times scales."""
    return [floor(n * s) for n, s in zip(extents, scales, strict=True)]


def _layer(extents: Sequence[int], found: dict[int, tuple[np.ndarray, np.ndarray]]) -> Resize:
    """Return the layer that resizes images (N, C, H, W) as is told of the axes that change."""
    same = [(np.arange(n)[:, None], np.ones((n, 1))) for n in extents]
    return Resize(found.get(2, same[2]), found.get(3, same[3]))


def _applied(x: Any, found: dict[int, tuple[np.ndarray, np.ndarray]]) -> Any:
    """Return `x` with each pixel along axes made of those that are told."""
    rank = len(x.shape)

    def function(x: np.ndarray) -> np.ndarray:
        for axis, (index, weights) in found.items():
            wide = [1] * rank
            wide[axis] = -1
            parts = [
                np.take(x, index[:, t], axis) * weights[:, t].reshape(wide)
                for t in range(index.shape[1])
            ]
            x = sum(parts[1:], parts[0])
        return x

    kind = x.dtype
    return F.computed("resize", lambda x: function(x).astype(kind), x)
