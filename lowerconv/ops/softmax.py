"""Softmax along an axis, its logarithm, and their gradients; arrays as in `normalise`."""

from __future__ import annotations

import numpy as np

from lowerconv.codegen.compiled import internal
from lowerconv.codegen.masked import bare
from lowerconv.codegen.ranges import share
from lowerconv.ops.normalise import COLUMNS, columns_of, put_item, tasks_of
from lowerconv.ops.pointwise import CHUNK, EXP, apply_function, exponentials
from lowerconv.ops.reduce import sum_of
from lowerconv.runtime.launch import parallel

LANES = 16  # numbers that are compared at a time
SHORT = 64  # numbers of a row that is not worth vector code of its own


@internal(fastmath={"reassoc"})
def _exponentials(v, greatest):
    """Replace a chunk by exponentials of what it is less than the greatest; return their sum."""
    for i in range(v.size):
        v[i] -= greatest
    exponentials(v)
    total = 0.0
    for i in range(v.size):
        total += np.float64(v[i])
    return total


@internal
def _greatest_of_few(row):
    """Return the greatest number of a row: four comparisons do not wait for each other."""
    least = row.dtype.type(-np.inf)
    a, b, c, d = least, least, least, least
    for i in range(0, row.size - 3, 4):
        a = row[i] if row[i] > a else a
        b = row[i + 1] if row[i + 1] > b else b
        c = row[i + 2] if row[i + 2] > c else c
        d = row[i + 3] if row[i + 3] > d else d
    for i in range(row.size - row.size % 4, row.size):
        a = row[i] if row[i] > a else a
    a, c = b if b > a else a, d if d > c else c
    return c if c > a else a


@internal
def _greatest(row, lanes):
    """Return the greatest number of a row; of a long one lane by lane, which is vector code."""
    if row.size < 4 * LANES:
        return _greatest_of_few(row)
    lanes[:] = -np.inf
    for begin in range(0, row.size - LANES + 1, LANES):
        part = row[begin : begin + LANES]
        for i in range(LANES):
            lanes[i] = part[i] if part[i] > lanes[i] else lanes[i]
    for i in range(row.size - row.size % LANES, row.size):
        lanes[0] = row[i] if row[i] > lanes[0] else lanes[0]
    return lanes.max()


@internal
def _less_greatest(x, v, size):
    """Write numbers less the greatest of their row; rows are of `size` numbers."""
    if size == 2:  # a loop that becomes vector code
        for r in range(v.size // 2):
            a, b = x[2 * r], x[2 * r + 1]
            greatest = a if a > b else b
            v[2 * r], v[2 * r + 1] = a - greatest, b - greatest
        return
    for begin in range(0, v.size, size):
        row, target = x[begin : begin + size], v[begin : begin + size]
        greatest = _greatest_of_few(row)
        for i in range(size):
            target[i] = row[i] - greatest


@internal(error_model="numpy")
def _short_rows(x, v, size):
    """Compute rows that are too short for vector code of their own: exponentials of all at once."""
    kind = x.dtype.type
    _less_greatest(x, v, size)
    exponentials(v)
    if size == 2:
        for r in range(v.size // 2):
            total = np.float64(v[2 * r]) + np.float64(v[2 * r + 1])
            factor = kind(1 / total) if total > 0 else kind(np.nan)
            v[2 * r] *= factor
            v[2 * r + 1] *= factor
        return
    for begin in range(0, v.size, size):
        row = v[begin : begin + size]
        total = sum_of(row)
        factor = kind(1 / total) if total > 0 else kind(np.nan)
        for i in range(size):
            row[i] *= factor


@internal
def _softmax_row(row, target, log, buffer):
    kind = row.dtype.type
    greatest = _greatest(row, buffer[:LANES])
    total = 0.0
    for begin in range(0, row.size, CHUNK):
        source = row[begin : begin + CHUNK]
        v = buffer[: source.size] if log else target[begin : begin + CHUNK]
        v[:] = source
        total += _exponentials(v, greatest)
    if log:
        less = np.log(total)
        for i in range(row.size):
            target[i] = kind(row[i] - greatest - less)
    else:
        factor = kind(1 / total) if total > 0 else kind(np.nan)
        for i in range(row.size):
            target[i] *= factor


@internal
def _softmax_columns(x, y, places, log, sums, greatest, buffer):
    (at, inner, middle), kind, count = places, x.dtype.type, sums.size
    sums[:] = 0
    greatest[:] = kind(-np.inf)
    for m in range(middle):
        line = x[at + m * inner : at + m * inner + count]
        for i in range(count):
            greatest[i] = line[i] if line[i] > greatest[i] else greatest[i]
    for m in range(middle):
        line, out = x[at + m * inner :], y[at + m * inner : at + m * inner + count]
        v = buffer[:count] if log else out
        for i in range(count):
            v[i] = line[i] - greatest[i]
        _exponentials(v, kind(0))
        for i in range(count):
            sums[i] += v[i]
    for m in range(middle):
        line, out = x[at + m * inner :], y[at + m * inner : at + m * inner + count]
        for i in range(count):
            if log:
                out[i] = kind(line[i] - greatest[i] - np.log(sums[i]))
            else:
                out[i] = kind(out[i] / sums[i])


@parallel(error_model="numpy")
def softmax(worker, workers, x, y, sizes, log):
    """Write exponentials over their sum along the middle axis to `y`, or the logarithm of that."""
    x, y = bare(x), bare(y)
    outer, middle, inner = sizes
    if inner == 1 and 0 < middle < SHORT and not log:
        rows = CHUNK // middle
        begin, end = share((outer + rows - 1) // rows, worker, workers)
        for task in range(begin, end):
            a, b = task * rows * middle, min(outer, (task + 1) * rows) * middle
            _short_rows(x[a:b], y[a:b], middle)
        return
    buffer = np.empty(CHUNK, x.dtype)
    greatest, sums = np.empty(COLUMNS, x.dtype), np.empty(COLUMNS)
    begin, end = share(tasks_of(sizes), worker, workers)
    for task in range(begin, end):
        if inner == 1:
            a, b = task * middle, (task + 1) * middle
            _softmax_row(x[a:b], y[a:b], log, buffer)
        else:
            at, count, _ = columns_of(task, sizes)
            places = (at, inner, middle)
            _softmax_columns(x, y, places, log, sums[:count], greatest[:count], buffer)


@internal(fastmath={"reassoc", "contract"})
def _row_gradient(row, dy, dx, log, add, buffer):
    kind, zero, total = row.dtype.type, row.dtype.type(0), 0.0
    for i in range(row.size):
        total += np.float64(dy[i]) if log else np.float64(dy[i]) * row[i]
    for begin in range(0, row.size, CHUNK):
        part = row[begin : begin + CHUNK]
        v = buffer[: part.size]
        v[:] = part
        if log:
            apply_function(EXP, v, zero, zero)
        for i in range(part.size):
            g = np.float64(dy[begin + i])
            value = g - v[i] * total if log else v[i] * (g - total)
            put_item(dx, begin + i, kind(value), add)


@parallel
def softmax_grad(worker, workers, y, dy, dx, sizes, log, add):
    """Write the gradient of :func:`softmax` to `dx`, or add it; `y` is the result."""
    y, dy, dx = bare(y), bare(dy), bare(dx)
    _, middle, inner = sizes
    kind, zero = y.dtype.type, y.dtype.type(0)
    buffer, sums = np.empty(CHUNK, y.dtype), np.empty(COLUMNS)
    begin, end = share(tasks_of(sizes), worker, workers)
    for task in range(begin, end):
        if inner == 1:
            a, b = task * middle, (task + 1) * middle
            _row_gradient(y[a:b], dy[a:b], dx[a:b], log, add, buffer)
            continue
        at, count, _ = columns_of(task, sizes)
        sums[:count] = 0
        for m in range(middle):
            line, dline = y[at + m * inner :], dy[at + m * inner :]
            for i in range(count):
                sums[i] += np.float64(dline[i]) * (1.0 if log else np.float64(line[i]))
        for m in range(middle):
            line, dline, target = y[at + m * inner :], dy[at + m * inner :], dx[at + m * inner :]
            v = buffer[:count]
            for i in range(count):
                v[i] = line[i]
            if log:
                apply_function(EXP, v, zero, zero)
                for i in range(count):
                    put_item(target, i, kind(dline[i] - v[i] * sums[i]), add)
            else:
                for i in range(count):
                    put_item(target, i, kind(v[i] * (dline[i] - sums[i])), add)
