"""Rows of items placed in longer rows: what joins arrays along an axis, and pads them."""

from __future__ import annotations

from lowerconv.codegen.compiled import internal
from lowerconv.codegen.masked import bare
from lowerconv.codegen.ranges import share
from lowerconv.runtime.launch import parallel


@internal
def _zero(y):
    for i in range(y.size):
        y[i] = 0


@parallel
def place(worker, workers, x, y, rows, length, offset, total, fills):
    """Write rows of `length` items of `x` into rows of `total` items of `y`.

    Parameters
    ----------
    x, y : ndarray, (rows * length,), (rows * total,)
    rows, length, total : int
        Length is at least 1.
    offset : int
        Where in a row of `y` one of `x` begins.
    fills : bool
        Whether the rest of a row becomes zeros; else it stays.
    """
    x, y = bare(x), bare(y)
    first, last = share(rows, worker, workers)
    if length == 1 and not fills:
        for row in range(first, last):
            y[row * total + offset] = x[row]
        return
    for row in range(first, last):
        source, target = x[row * length : (row + 1) * length], y[row * total : (row + 1) * total]
        if fills:
            _zero(target[:offset])
            _zero(target[offset + length :])
        inside = target[offset : offset + length]
        for i in range(length):
            inside[i] = source[i]
