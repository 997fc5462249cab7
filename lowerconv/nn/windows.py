"""Pooling of arrays by NumPy: any number of axes, dilations, and padding that is uneven."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np


def windows_along(
    extent: int, size: int, stride: int, pads: tuple[int, int], dilation: int, ceil: bool
) -> int:
    """Return the number of windows along an axis; one that begins in the padding after is none."""
    room = extent + sum(pads) - dilation * (size - 1) - 1
    count = (-(-room // stride) if ceil else room // stride) + 1
    if ceil and (count - 1) * stride >= extent + pads[0]:
        count -= 1
    if count < 1:
        raise ValueError(f"x: got {extent} pixels along an axis, expected enough for a window")
    return count


def pool_array(
    x: np.ndarray,
    operation: str,
    extents: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilations: Sequence[int],
    ceil: bool,
    include_pad: bool,
) -> np.ndarray:
    """Return the largest item, the mean or the sum of each window.

    Parameters
    ----------
    x : ndarray, (N, C, ...)
    operation : str
        "max", "mean" or "sum".
    extents, strides, pads, dilations
        For each axis of pixels; `pads` before and after.
    ceil : bool
        Whether a last window that is not full counts.
    include_pad : bool
        Whether a mean counts the padding; never what lies beyond it.
    """
    axes = len(extents)
    counts = [
        windows_along(n, *rest, ceil)
        for n, *rest in zip(x.shape[2:], extents, strides, pads, dilations, strict=True)
    ]
    reach = [
        (c - 1) * s + d * (r - 1) + 1
        for c, s, d, r in zip(counts, strides, dilations, extents, strict=True)
    ]
    widths = [
        (before, max(0, r - n - before))
        for (before, _), r, n in zip(pads, reach, x.shape[2:], strict=True)
    ]
    lowest: Any = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    fill = lowest if operation == "max" else 0
    full = np.pad(x, [(0, 0), (0, 0), *widths], constant_values=fill)
    result = np.full((*x.shape[:2], *counts), fill, x.dtype)
    for tap in product(*map(range, extents)):
        at = tuple(
            slice(t * d, t * d + (c - 1) * s + 1, s)
            for t, d, c, s in zip(tap, dilations, counts, strides, strict=True)
        )
        part = full[(slice(None), slice(None), *at)]
        result = np.maximum(result, part) if operation == "max" else result + part
    if operation != "mean":
        return result
    shape = [1] * axes
    for i in range(axes):
        before, after = pads[i]
        first = np.arange(counts[i])[:, None] * strides[i] + np.arange(extents[i]) * dilations[i]
        low, high = (
            (0, before + x.shape[2 + i] + after)
            if include_pad
            else (before, before + x.shape[2 + i])
        )
        inside = ((first >= low) & (first < high)).sum(axis=1)
        wide = shape.copy()
        wide[i] = counts[i]
        result = result / inside.reshape(wide).astype(x.dtype)
    return result


def pool_gradient(
    dy: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    operation: str,
    extents: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilations: Sequence[int],
    ceil: bool,
    include_pad: bool,
) -> np.ndarray:
    """Return the gradient of `x` of `pool_array`: of equal items the first has that of a maximum."""
    axes, counts = len(extents), y.shape[2:]
    if operation == "mean":
        ones = np.broadcast_to(np.ones((), x.dtype), (1, 1, *x.shape[2:]))
        geometry = (extents, strides, pads, dilations, ceil)
        # A mean of ones is the share of items that are no padding; the sum is how many these are.
        mean = pool_array(ones, "mean", *geometry, include_pad)
        total = pool_array(ones, "sum", *geometry, include_pad)
        dy = dy * np.divide(mean, total, out=np.zeros_like(mean), where=total > 0)
    reach = [
        (c - 1) * s + d * (r - 1) + 1
        for c, s, d, r in zip(counts, strides, dilations, extents, strict=True)
    ]
    widths = [
        (before, max(0, r - n - before))
        for (before, _), r, n in zip(pads, reach, x.shape[2:], strict=True)
    ]
    full = np.pad(x, [(0, 0), (0, 0), *widths], constant_values=-np.inf)
    dx = np.zeros_like(full)
    left = np.ones(y.shape, bool)
    for tap in product(*map(range, extents)):
        at = (slice(None), slice(None)) + tuple(
            slice(t * d, t * d + (c - 1) * s + 1, s)
            for t, d, c, s in zip(tap, dilations, counts, strides, strict=True)
        )
        if operation == "max":
            wins = left & ((full[at] == y) | np.isnan(full[at]))
            left &= ~wins
            dx[at] += np.where(wins, dy, 0)
        else:
            dx[at] += dy
    inner = tuple(
        slice(before, before + n) for (before, _), n in zip(widths, x.shape[2:], strict=True)
    )
    assert len(inner) == axes
    return dx[(slice(None), slice(None), *inner)]
