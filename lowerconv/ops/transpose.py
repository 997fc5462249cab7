"""Axes in another order: rows of the result, gathered from the source."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from lowerconv.codegen.compiled import internal
from lowerconv.codegen.masked import bare
from lowerconv.codegen.ranges import share
from lowerconv.runtime.launch import parallel

SHORT = 16  # items of a row of the result that is not worth a loop
BLOCK = 1024  # rows that are written together, and stay in L1
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
    x, y : ndarray
        Flat, of the same number of items.
    gather : Gather
    """
    x, y = bare(x), bare(y)
    (outer, middle, rows, items), (outer_step, middle_step, row_step, step) = gather
    if items < SHORT and row_step == 1:  # go along the source, whose items lie together
        blocks = (rows + BLOCK - 1) // BLOCK
        first, last = share(outer * middle * blocks, worker, workers)
        for task in range(first, last):
            plane, row = task // blocks, task % blocks * BLOCK
            count = min(BLOCK, rows - row)
            begin = plane // middle * outer_step + plane % middle * middle_step + row
            target = y[(plane * rows + row) * items : (plane * rows + row + count) * items]
            for i in range(items):
                _run_on_team(x[begin + i * step : begin + i * step + count], target, i, items)
        return
    first, last = share(outer * middle * rows, worker, workers)
    if items < SHORT and step == 1:
        _short_rows(x, y, gather, first, last)
        return
    for row in range(first, last):
        begin = row // (middle * rows) * outer_step + row // rows % middle * middle_step
        begin += row % rows * row_step
        target = y[row * items : (row + 1) * items]
        _collect(x[begin : begin + (items - 1) * step + 1], target, step)


@internal
def _short_rows(x, y, gather, first, last):
    """Write rows of few items that lie together, without a slice of the arrays for each."""
    (_, middle, rows, items), (outer_step, middle_step, row_step, _) = gather
    row = first
    while row < last:
        plane, number = row // rows, row % rows
        count = min(rows - number, last - row)
        begin = plane // middle * outer_step + plane % middle * middle_step + number * row_step
        source = x[begin : begin + (count - 1) * row_step + items]
        target = y[row * items : (row + count) * items]
        if items == 2:
            for i in range(count):
                target[2 * i] = source[i * row_step]
                target[2 * i + 1] = source[i * row_step + 1]
        else:
            for i in range(count):
                for j in range(items):
                    target[i * items + j] = source[i * row_step + j]
        row += count


@internal
def _run_on_team(source, target, first, step):
    """Write items `step` apart; a step that is known as the loop is compiled makes vector code."""
    if step == 2:
        for i in range(source.size):
            target[first + 2 * i] = source[i]
    elif step == 3:
        for i in range(source.size):
            target[first + 3 * i] = source[i]
    elif step == 4:
        for i in range(source.size):
            target[first + 4 * i] = source[i]
    else:
        for i in range(source.size):
            target[first + step * i] = source[i]


@internal
def _collect(source, target, step):
    """Read items `step` apart."""
    if step == 1:
        for i in range(target.size):
            target[i] = source[i]
    elif step == 2:
        for i in range(target.size):
            target[i] = source[2 * i]
    elif step == 3:
        for i in range(target.size):
            target[i] = source[3 * i]
    elif step == 4:
        for i in range(target.size):
            target[i] = source[4 * i]
    else:
        for i in range(target.size):
            target[i] = source[step * i]
