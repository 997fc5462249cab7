"""Images with other numbers of pixels."""

from __future__ import annotations

from math import floor
from typing import Any

import numpy as np

from lowerconv.nn import functional as F
from lowerconv.nn.resize import Resize, taps
from lowerconv.torch.registry import operator, operators

Taps = tuple[np.ndarray, np.ndarray]


def sizes_of(x: Any, sizes: Any, scales: Any) -> tuple[list[int], list[float | None]]:
    """Return the pixels of the result along each axis, and the scales that were given."""
    pixels = x.shape[2:]
    if scales is None:
        return list(sizes), [None] * len(pixels)
    return [floor(n * s) for n, s in zip(pixels, scales, strict=True)], list(scales)


def nearest(n: int, m: int, scale: float | None, exact: bool) -> Taps:
    """Return which pixel each pixel of the result is; in float32, as PyTorch reckons."""
    step = np.float32(1 / scale) if scale else np.float32(n) / np.float32(m)
    at = np.arange(m, dtype=np.float32)
    at = (at + np.float32(0.5)) * step if exact else at * step
    return np.clip(np.floor(at).astype(np.int64), 0, n - 1)[:, None], np.ones((m, 1))


def resized(x: Any, each: list[Taps]) -> Any:
    """Record `x` with pixels along each axis made of others."""
    axes = len(each)
    if axes < 3 and x.dtype.kind == "f":
        one: Taps = (np.zeros((1, 1), np.int64), np.ones((1, 1)))
        wide = x if axes == 2 else F.reshape(x, (*x.shape[:2], 1, x.shape[2]))
        y = F.apply(Resize(*(each if axes == 2 else [one, *each])), wide)
        return y if axes == 2 else F.reshape(y, (*y.shape[:2], y.shape[3]))

    def shaped(weights: np.ndarray, rank: int, axis: int) -> np.ndarray:
        wide = [1] * rank
        wide[axis] = -1
        return weights.reshape(wide)

    def function(x: np.ndarray) -> np.ndarray:
        kind = x.dtype
        for axis, (index, weights) in enumerate(each, 2):
            x = sum(
                np.take(x, index[:, t], axis) * shaped(weights[:, t], x.ndim, axis)
                for t in range(index.shape[1])
            )
        return x.astype(kind)

    def gradient(dy: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray]:
        for axis, (index, weights) in reversed(list(enumerate(each, 2))):
            whole = np.zeros((*dy.shape[:axis], x.shape[axis], *dy.shape[axis + 1 :]), dy.dtype)
            moved = np.moveaxis(whole, axis, 0)
            for t in range(index.shape[1]):
                part = dy * shaped(weights[:, t], dy.ndim, axis)
                np.add.at(moved, index[:, t], np.moveaxis(part, axis, 0))
            dy = whole
        return (dy.astype(x.dtype),)

    return F.computed("resize", function, x, gradient=gradient)


@operator("upsample_nearest1d.vec", "upsample_nearest2d.vec", "upsample_nearest3d.vec")
def upsample_nearest(net: Any, x: Any, sizes: Any, scales: Any):
    """Record resizing by nearest pixels."""
    sizes, scales = sizes_of(x, sizes, scales)
    rows = zip(x.shape[2:], sizes, scales, strict=True)
    return resized(x, [nearest(*row, False) for row in rows])


@operator(
    *("_upsample_nearest_exact1d.vec", "_upsample_nearest_exact2d.vec"),
    "_upsample_nearest_exact3d.vec",
)
def upsample_nearest_exact(net: Any, x: Any, sizes: Any, scales: Any):
    """Record resizing by nearest pixels, by their centres."""
    sizes, scales = sizes_of(x, sizes, scales)
    rows = zip(x.shape[2:], sizes, scales, strict=True)
    return resized(x, [nearest(*row, True) for row in rows])


def _smooth(x: Any, sizes: Any, align: bool, scales: Any, mode: str) -> Any:
    sizes, scales = sizes_of(x, sizes, scales)
    coordinates = "align_corners" if align else "half_pixel"
    return resized(
        x,
        [
            taps(n, m, s or m / n, mode, coordinates)
            for n, m, s in zip(x.shape[2:], sizes, scales, strict=True)
        ],
    )


operators(
    {
        "upsample_linear1d.vec upsample_bilinear2d.vec upsample_trilinear3d.vec": (
            lambda net, x, sizes, align, scales: _smooth(x, sizes, align, scales, "linear")
        ),
        "upsample_bicubic2d.vec": lambda net, x, sizes, align, scales: _smooth(
            x, sizes, align, scales, "cubic"
        ),
    }
)


@operator("pixel_shuffle")
def pixel_shuffle(net: Any, x: Any, r: int):
    """Record channels moved into pixels."""
    *before, C, H, W = x.shape
    n = len(before)
    y = F.reshape(x, (*before, C // (r * r), r, r, H, W))
    y = F.transpose(y, (*range(n), n, n + 3, n + 1, n + 4, n + 2))
    return F.reshape(y, (*before, C // (r * r), H * r, W * r))


@operator("pixel_unshuffle")
def pixel_unshuffle(net: Any, x: Any, r: int):
    """Record pixels moved into channels."""
    *before, C, H, W = x.shape
    n = len(before)
    y = F.reshape(x, (*before, C, H // r, r, W // r, r))
    y = F.transpose(y, (*range(n), n, n + 2, n + 4, n + 1, n + 3))
    return F.reshape(y, (*before, C * r * r, H // r, W // r))


@operator("channel_shuffle")
def channel_shuffle(net: Any, x: Any, groups: int):
    """Record channels of groups taken in turns."""
    N, C, *pixels = x.shape
    y = F.reshape(x, (N, groups, C // groups, *pixels))
    y = F.transpose(y, (0, 2, 1, *range(3, len(y.shape))))
    return F.reshape(y, x.shape)
