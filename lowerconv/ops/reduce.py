"""Sums and extremes along neighbouring axes; arrays as in `normalise`: (outer, middle, inner).

Sums are of float64 where a row lies in one piece, whatever the array is of.
"""

from __future__ import annotations

import numpy as np

from lowerconv.codegen.compiled import internal
from lowerconv.codegen.masked import bare
from lowerconv.codegen.ranges import share
from lowerconv.runtime.launch import parallel

SUM, MAX, MIN = range(3)
COLUMNS = 1024  # of an inner axis that are done together, and stay in L1
LANES = 8  #      extremes that are kept side by side: none waits for the one before


@internal(fastmath={"reassoc"})
def sum_of(row):
    """Return the sum of a row in float64, in an order that a compiler may choose."""
    total = 0.0
    for i in range(row.size):
        total += np.float64(row[i])
    return total


@internal
def _wins(a, b, kind):
    """Return whether `a` is taken instead of `b`: NaN always is."""
    return (a > b if kind == MAX else a < b) or a != a


@internal
def _extreme(row, kind):
    if row.size < 4 * LANES:
        best = row[0]
        for i in range(1, row.size):
            best = row[i] if _wins(row[i], best, kind) else best
        return best
    lanes = row[:LANES].copy()
    for begin in range(LANES, row.size - LANES + 1, LANES):
        part = row[begin : begin + LANES]
        for i in range(LANES):
            lanes[i] = part[i] if _wins(part[i], lanes[i], kind) else lanes[i]
    best = lanes[0]
    for i in range(1, LANES):
        best = lanes[i] if _wins(lanes[i], best, kind) else best
    for i in range(row.size - row.size % LANES, row.size):
        best = row[i] if _wins(row[i], best, kind) else best
    return best


@internal
def _columns(x, at, inner, middle, target, kind):
    """Reduce some neighbours of the inner axis, row by row."""
    target[:] = x[at : at + target.size]
    for m in range(1, middle):
        line = x[at + m * inner : at + m * inner + target.size]
        if kind == SUM:
            for i in range(target.size):
                target[i] += line[i]
        else:
            for i in range(target.size):
                target[i] = line[i] if _wins(line[i], target[i], kind) else target[i]


@parallel
def reduce(worker, workers, x, y, sizes, kind, factor):
    """Write the sums, or extremes, of `x` along the middle axis to `y`.

    Parameters
    ----------
    x, y : ndarray, (outer * middle * inner,), (outer * inner,)
        Middle is at least 1.
    sizes : (int, int, int)
    kind : int
        SUM, MAX or MIN.
    factor : float
        What sums are multiplied with: one over their number for means.
    """
    x, y = bare(x), bare(y)
    outer, middle, inner = sizes
    number = x.dtype.type
    if inner == 1:
        first, last = share(outer, worker, workers)
        if kind == SUM and middle == 2:  # a loop that becomes vector code
            for o in range(first, last):
                y[o] = number((np.float64(x[2 * o]) + np.float64(x[2 * o + 1])) * factor)
            return
        for o in range(first, last):
            row = x[o * middle : (o + 1) * middle]
            y[o] = number(sum_of(row) * factor) if kind == SUM else _extreme(row, kind)
        return
    blocks = (inner + COLUMNS - 1) // COLUMNS
    first, last = share(outer * blocks, worker, workers)
    for task in range(first, last):
        o, begin = task // blocks, task % blocks * COLUMNS
        end = min(begin + COLUMNS, inner)
        target = y[o * inner + begin : o * inner + end]
        _columns(x, o * middle * inner + begin, inner, middle, target, kind)
        if kind == SUM:
            for i in range(target.size):
                target[i] = number(target[i] * factor)
