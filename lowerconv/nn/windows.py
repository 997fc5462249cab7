"""Pooling of arrays by NumPy: any number of axes, dilations, and padding that is uneven."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
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


def _reach(
    shape: Sequence[int],
    extents: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilations: Sequence[int],
    ceil: bool,
) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the windows along each axis, and by how much arrays are padded to have them all."""
    counts = [
        windows_along(n, r, s, p, d, ceil)
        for n, r, s, p, d in zip(shape[2:], extents, strides, pads, dilations, strict=True)
    ]
    reach = [
        (c - 1) * s + d * (r - 1) + 1
        for c, s, d, r in zip(counts, strides, dilations, extents, strict=True)
    ]
    widths = [
        (before, max(0, r - n - before))
        for (before, _), r, n in zip(pads, reach, shape[2:], strict=True)
    ]
    return counts, widths


def _taps(
    extents: Sequence[int], counts: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Iterator[tuple[slice, ...]]:
    """Yield where each item of all windows lies in a padded array."""
    for tap in product(*map(range, extents)):
        yield (
            *(slice(None), slice(None)),
            *(
                slice(t * d, t * d + (c - 1) * s + 1, s)
                for t, d, c, s in zip(tap, dilations, counts, strides, strict=True)
            ),
        )


def max_indices(
    x: np.ndarray,
    extents: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilations: Sequence[int],
    ceil: bool,
    column_major: bool = False,
) -> np.ndarray:
    """Return the number in `x` of the largest item of each window, the first of several.

    Parameters
    ----------
    x, extents, strides, pads, dilations, ceil
        As of `pool_array`.
    column_major : bool
        Whether the items of an image are counted with the first axis of pixels the fastest.
    """
    counts, widths = _reach(x.shape, extents, strides, pads, dilations, ceil)
    pixels = np.arange(prod(x.shape[2:])).reshape(x.shape[2:], order="F" if column_major else "C")
    images = np.arange(prod(x.shape[:2])).reshape(*x.shape[:2], *(1,) * len(extents))
    margins = [(0, 0), (0, 0), *widths]
    numbers = np.pad(images * pixels.size + pixels, margins)
    lowest: Any = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    full = np.pad(x, margins, constant_values=lowest)
    best, found = None, None
    for at in _taps(extents, counts, strides, dilations):
        if best is None or found is None:
            best, found = full[at], numbers[at]
            continue
        larger = full[at] > best
        best, found = np.where(larger, full[at], best), np.where(larger, numbers[at], found)
    assert found is not None
    return found.astype(np.int64)


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
    counts, widths = _reach(x.shape, extents, strides, pads, dilations, ceil)
    lowest: Any = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    fill = lowest if operation == "max" else 0
    full = np.pad(x, [(0, 0), (0, 0), *widths], constant_values=fill)
    result = np.full((*x.shape[:2], *counts), fill, x.dtype)
    for at in _taps(extents, counts, strides, dilations):
        part = full[at]
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
    """Return the gradient of `x` of `pool_array`: a maximum's goes to the first of equal items."""
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
    whole = slice(None)
    part: np.ndarray = dx[(whole, whole) + inner]
    return part
