"""Axes in another order: rows of the result, gathered from the source."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from lowerconv.codegen.masked import bare
from lowerconv.codegen.ranges import share
from lowerconv.runtime.launch import parallel

AXES = 4  # of what `merged` returns; more are left to NumPy


class Gather(NamedTuple):
    """Extents of the result, and the items from one to the next along each in the source."""

    extents: tuple[int, ...]
    steps: tuple[int, ...]


def merged(shape: tuple[int, ...], axes: tuple[int, ...]) -> Gather | None:
    """Return how a transposed array is gathered, with as few axes as possible.

    Parameters
    ----------
    shape : tuple of int
        Of the source.
    axes : tuple of int
        The axis of the source that becomes each axis of the result.

    Returns
    -------
    Gather or None
        Of `AXES` axes, the first of which may be of extent 1; None where that is too few.
    """
    kept: list[tuple[int, int]] = []  # extent and step, axes that stay neighbours as one
    for axis in axes:
        extent, step = shape[axis], prod(shape[axis + 1 :])
        if extent == 1:
            continue
        if kept and kept[-1][1] == extent * step:
            kept[-1] = (kept[-1][0] * extent, step)
        else:
            kept.append((extent, step))
    if len(kept) > AXES or 0 in shape:
        return None
    kept = [(1, 0)] * (AXES - len(kept)) + kept
    return Gather(*(tuple(part) for part in zip(*kept, strict=True)))


@parallel
def transpose(worker, workers, x, y, gather):
    """Write the items of `x`, gathered, to `y`.

    Parameters
    ----------
    team : TeamHandle
        From `threads.parallel_region`.
    x, y : ndarray
        Flat, of the same number of items.
    gather : Gather
    """
    x, y = bare(x), bare(y)
    (outer, middle, rows, items), (outer_step, middle_step, row_step, step) = gather
    first, last = share(outer * middle * rows, worker, workers)
    for row in range(first, last):
        begin = row // (middle * rows) * outer_step + row // rows % middle * middle_step
        begin += row % rows * row_step
        for i in range(items):
            y[row * items + i] = x[begin + i * step]
