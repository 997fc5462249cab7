"""Pooling of arrays by NumPy: any number of axes, dilations, and padding that is uneven."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from typing import Any, NamedTuple

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


class Windows(NamedTuple):
    """Windows of pixels, for each axis of these.

    Attributes
    ----------
    extents, strides, dilations : sequence of int
    pads : sequence of (int, int)
        Before and after.
    ceil : bool
        Whether a last window that is not full counts.
    """

    extents: Sequence[int]
    strides: Sequence[int]
    pads: Sequence[tuple[int, int]]
    dilations: Sequence[int]
    ceil: bool = False

    def counts(self, pixels: Sequence[int]) -> list[int]:
        """Return the number of windows along each axis of some pixels."""
        axes = zip(
            *(pixels, self.extents, self.strides, self.pads, self.dilations),
            strict=True,
        )
        return [windows_along(*axis, self.ceil) for axis in axes]

    def padded(self, x: np.ndarray, fill: Any) -> np.ndarray:
        """Return an array (N, C, ...) with the padding that its windows reach."""
        counts = self.counts(x.shape[2:])
        axes = zip(
            *(x.shape[2:], counts, self.extents, self.strides, self.pads, self.dilations),
            strict=True,
        )
        widths = [
            (before, max(0, (count - 1) * stride + dilation * (extent - 1) + 1 - n - before))
            for n, count, extent, stride, (before, _), dilation in axes
        ]
        return np.pad(x, [(0, 0), (0, 0), *widths], constant_values=fill)

    def inside(self, padded: np.ndarray, pixels: Sequence[int]) -> np.ndarray:
        """Return a padded array without its padding; `pixels` are the extents without it."""
        axes = zip(self.pads, pixels, strict=True)
        at: tuple[Any, ...] = (..., *(slice(p, p + n) for (p, _), n in axes))
        view: np.ndarray = padded[at]
        return view

    def taps(self, counts: Sequence[int]) -> Iterator[tuple[Any, ...]]:
        """Yield, for each tap, the index of what all windows read there in a padded array."""
        for tap in product(*map(range, self.extents)):
            axes = zip(tap, self.dilations, counts, self.strides, strict=True)
            yield (..., *(slice(t * d, t * d + (c - 1) * s + 1, s) for t, d, c, s in axes))

    def covered(self, axis: int, count: int, low: int, high: int) -> np.ndarray:
        """Return how many items of each window along an axis lie from `low` to before `high`."""
        begins = np.arange(count)[:, None] * self.strides[axis]
        items = begins + np.arange(self.extents[axis]) * self.dilations[axis]
        return ((items >= low) & (items < high)).sum(axis=1)


def _lowest(dtype: np.dtype) -> Any:
    return -np.inf if dtype.kind == "f" else np.iinfo(dtype).min


def max_indices(x: np.ndarray, windows: Windows, column_major: bool = False) -> np.ndarray:
    """Return the number in `x` of the largest item of each window, the first of several.

    Parameters
    ----------
    x : ndarray, (N, C, ...)
    windows : Windows
    column_major : bool
        Whether the items of an image are counted with the first axis of pixels the fastest.

    Returns
    -------
    ndarray of int64
    """
    pixels = np.arange(prod(x.shape[2:])).reshape(x.shape[2:], order="F" if column_major else "C")
    images = np.arange(prod(x.shape[:2])).reshape(*x.shape[:2], *(1,) * len(windows.extents))
    numbers = windows.padded(images * pixels.size + pixels, 0)
    full = windows.padded(x, _lowest(x.dtype))
    best, found = None, None
    for at in windows.taps(windows.counts(x.shape[2:])):
        if best is None or found is None:
            best, found = full[at], numbers[at]
            continue
        larger = full[at] > best
        best, found = np.where(larger, full[at], best), np.where(larger, numbers[at], found)
    assert found is not None
    return found.astype(np.int64)


def pool_array(x: np.ndarray, operation: str, windows: Windows, include_pad: bool) -> np.ndarray:
    """Return the largest item, the mean or the sum of each window.

    Parameters
    ----------
    x : ndarray, (N, C, ...)
    operation : {"max", "mean", "sum"}
    windows : Windows
    include_pad : bool
        Whether a mean counts the padding; never what lies beyond it.

    Returns
    -------
    ndarray, (N, C, ...)
    """
    counts = windows.counts(x.shape[2:])
    fill = _lowest(x.dtype) if operation == "max" else 0
    full = windows.padded(x, fill)
    result = np.full((*x.shape[:2], *counts), fill, x.dtype)
    for at in windows.taps(counts):
        result = np.maximum(result, full[at]) if operation == "max" else result + full[at]
    if operation != "mean":
        return result
    for axis, (before, after) in enumerate(windows.pads):
        n = x.shape[2 + axis]
        borders = (0, before + n + after) if include_pad else (before, before + n)
        covered = windows.covered(axis, counts[axis], *borders).astype(x.dtype)
        result = result / covered.reshape(-1, *(1,) * (len(counts) - 1 - axis))
    return result


def pool_gradient(
    dy: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    operation: str,
    windows: Windows,
    include_pad: bool,
) -> np.ndarray:
    """Return the gradient of `x` of `pool_array`: a maximum's goes to the first of equal items.

    Parameters
    ----------
    dy, y, x : ndarray, (N, C, ...)
        The gradient of the result, the result, and what it was computed from.
    operation, windows, include_pad
        As there.

    Returns
    -------
    ndarray
        Of the shape of `x`.
    """
    counts = y.shape[2:]
    if operation == "mean":
        ones = np.broadcast_to(np.ones((), x.dtype), (1, 1, *x.shape[2:]))
        # A mean of ones is the share of items that are no padding; the sum is how many these are.
        mean = pool_array(ones, "mean", windows, include_pad)
        total = pool_array(ones, "sum", windows, include_pad)
        dy = dy * np.divide(mean, total, out=np.zeros_like(mean), where=total > 0)
    full = windows.padded(x, -np.inf)
    dx = np.zeros_like(full)
    left = np.ones(y.shape, bool)
    for at in windows.taps(counts):
        if operation == "max":
            wins = left & ((full[at] == y) | np.isnan(full[at]))
            left &= ~wins
            dx[at] += np.where(wins, dy, 0)
        else:
            dx[at] += dy
    return windows.inside(dx, x.shape[2:])
