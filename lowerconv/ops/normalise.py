"""Layer, group and instance norm, with scale and shift, and their gradients.

Arrays are (outer, middle, inner) here, and normalised along the middle::

    y = (x - mean) / sqrt(variance + eps) * weight + bias

Where inner is 1, a row lies in one piece, and loops go along it.  Else (the channels of images in
NCHW) they go along the inner axis, over COLUMNS of it at a time, whose sums are side by side.

Scale and shift have an item for `run` neighbours of a row, and begin anew every `period` rows:
1 and 1 for layer norm; pixels and groups for group norm (Ba et al. 2016; Wu, He 2018).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lowerconv.codegen.compiled import internal
from lowerconv.codegen.masked import bare
from lowerconv.codegen.ranges import share
from lowerconv.runtime.launch import parallel

COLUMNS = 128


class Affine(NamedTuple):
    """Scale and shift, both of the dtype; both empty where there are none."""

    weight: np.ndarray
    bias: np.ndarray
    period: int
    run: int


@internal
def columns_of(task, sizes):
    """Return the first item of a task's columns, how many they are, and the number of the first."""
    _, middle, inner = sizes
    chunks = (inner + COLUMNS - 1) // COLUMNS
    o, begin = task // chunks, task % chunks * COLUMNS
    return o * middle * inner + begin, min(COLUMNS, inner - begin), o * inner + begin


@internal
def tasks_of(sizes):
    """Return how many rows, or blocks of columns, there are."""
    outer, _, inner = sizes
    return outer * ((inner + COLUMNS - 1) // COLUMNS)


@internal(fastmath={"reassoc", "contract"})
def _row_statistics(row, eps):
    total = 0.0
    for i in range(row.size):
        total += np.float64(row[i])
    mean = total / max(1, row.size)
    squares = 0.0
    for i in range(row.size):
        deviation = np.float64(row[i]) - mean
        squares += deviation * deviation
    return mean, 1 / np.sqrt(squares / max(1, row.size) + eps)


@internal
def _column_statistics(x, at, inner, middle, mean, inv_std, eps):
    mean[:], inv_std[:] = 0, 0
    for m in range(middle):
        line = x[at + m * inner : at + m * inner + mean.size]
        for i in range(mean.size):
            mean[i] += line[i]
    for i in range(mean.size):
        mean[i] /= max(1, middle)
    for m in range(middle):
        line = x[at + m * inner : at + m * inner + mean.size]
        for i in range(mean.size):
            deviation = line[i] - mean[i]
            inv_std[i] += deviation * deviation
    for i in range(mean.size):
        inv_std[i] = 1 / np.sqrt(inv_std[i] / max(1, middle) + eps)


@internal
def _scale(affine, at):
    """Return scale and shift at a place."""
    if not affine.weight.size:
        return 1.0, 0.0
    return np.float64(affine.weight[at]), np.float64(affine.bias[at])


@internal
def _normalise_row(row, target, mean, inv_std, affine, first):
    kind = row.dtype.type
    if affine.run == 1 and affine.weight.size:
        weight = affine.weight[first : first + row.size]
        bias = affine.bias[first : first + row.size]
        for i in range(row.size):
            target[i] = kind((row[i] - mean) * inv_std) * weight[i] + bias[i]
        return
    for c in range((row.size + affine.run - 1) // affine.run):
        weight, bias = _scale(affine, first + c)
        factor = inv_std * weight
        for i in range(c * affine.run, min(row.size, (c + 1) * affine.run)):
            target[i] = kind((row[i] - mean) * factor + bias)


@parallel
def normalise(worker, workers, x, y, sizes, statistics, affine, eps):
    """Write `x` normalised along the middle axis to `y`, and the statistics.

    Parameters
    ----------
    x, y : ndarray, (outer * middle * inner,)
    sizes : (int, int, int)
    statistics : (ndarray, ndarray), (outer * inner,), float64
        Written: means, and 1 / sqrt(variance + eps).
    affine : Affine, as a tuple
    eps : float
    """
    x, y = bare(x), bare(y)
    means, inverses = bare(statistics[0]), bare(statistics[1])
    weight, bias, period, run = affine
    affine = Affine(bare(weight), bare(bias), period, run)
    outer, middle, inner = sizes
    kind = x.dtype.type
    begin, end = share(tasks_of(sizes), worker, workers)
    for task in range(begin, end):
        if inner == 1:
            row = x[task * middle : (task + 1) * middle]
            target = y[task * middle : (task + 1) * middle]
            means[task], inverses[task] = _row_statistics(row, eps)
            first = task % period * (middle // run)
            _normalise_row(row, target, means[task], inverses[task], affine, first)
            continue
        at, count, number = columns_of(task, sizes)
        mean, inv_std = means[number : number + count], inverses[number : number + count]
        _column_statistics(x, at, inner, middle, mean, inv_std, eps)
        first = task // (tasks_of(sizes) // outer) % period * (middle // run)
        for m in range(middle):
            scale, shift = _scale(affine, first + m // run)
            line = x[at + m * inner : at + m * inner + count]
            target = y[at + m * inner : at + m * inner + count]
            for i in range(count):
                target[i] = kind((line[i] - mean[i]) * (inv_std[i] * scale) + shift)


@internal(fastmath={"reassoc", "contract"})
def _row_sums(row, dy, mean, inv_std, scale):
    """Return the sums of scaled gradients, and of these times normalised items."""
    total = products = 0.0
    for i in range(row.size):
        g = np.float64(dy[i])
        total += g
        products += g * (row[i] - mean)
    return total * scale, products * inv_std * scale, total, products * inv_std


@internal
def put_item(target, i, value, add):
    """Write an item, or add it."""
    target[i] = target[i] + value if add else value


@internal
def _row_gradient(arrays, statistics, affine, first, sums, options):
    """Add a row's part to the sums of scale and shift, and write its gradient."""
    row, dy, dx = arrays
    mean, inv_std = statistics
    write, add = options
    kind, run = row.dtype.type, affine.run
    total = products = 0.0
    if run == 1 and affine.weight.size:
        for i in range(row.size):
            normal, g = (row[i] - mean) * inv_std, np.float64(dy[i])
            sums[0, first + i] += g * normal
            sums[1, first + i] += g
            g *= affine.weight[first + i]
            total += g
            products += g * normal
    else:
        for c in range((row.size + run - 1) // run):
            a, b = c * run, min(row.size, (c + 1) * run)
            scale, _ = _scale(affine, first + c)
            part = _row_sums(row[a:b], dy[a:b], mean, inv_std, scale)
            total += part[0]
            products += part[1]
            if sums.shape[1]:
                sums[0, first + c] += part[3]
                sums[1, first + c] += part[2]
    if not write:
        return
    total /= max(1, row.size)
    products *= inv_std / max(1, row.size)
    if run == 1 and affine.weight.size:
        weight = affine.weight[first : first + row.size]
        for i in range(row.size):
            value = (dy[i] * np.float64(weight[i]) - total - (row[i] - mean) * products) * inv_std
            put_item(dx, i, kind(value), add)
        return
    for c in range((row.size + run - 1) // run):
        scale, _ = _scale(affine, first + c)
        for i in range(c * run, min(row.size, (c + 1) * run)):
            value = (dy[i] * scale - total - (row[i] - mean) * products) * inv_std
            put_item(dx, i, kind(value), add)


@internal
def _column_gradient(arrays, places, statistics, affine, first, sums, options):
    """Do the same for a block of columns."""
    x, dy, dx = arrays
    at, inner, middle, count = places
    mean, inv_std, total, products = statistics
    write, add = options
    kind = x.dtype.type
    total[:], products[:] = 0, 0
    for m in range(middle):
        scale, _ = _scale(affine, first + m // affine.run)
        line, dline = x[at + m * inner :], dy[at + m * inner :]
        a = b = 0.0
        for i in range(count):
            g, normal = np.float64(dline[i]), (line[i] - mean[i]) * inv_std[i]
            a += g * normal
            b += g
            total[i] += g * scale
            products[i] += g * scale * normal
        if sums.shape[1]:
            sums[0, first + m // affine.run] += a
            sums[1, first + m // affine.run] += b
    if not write:
        return
    for m in range(middle):
        scale, _ = _scale(affine, first + m // affine.run)
        line, dline, target = x[at + m * inner :], dy[at + m * inner :], dx[at + m * inner :]
        for i in range(count):
            normal = (line[i] - mean[i]) * inv_std[i]
            value = dline[i] * scale - (total[i] + normal * products[i]) / middle
            put_item(target, i, kind(value * inv_std[i]), add)


@parallel
def normalise_grad(worker, workers, arrays, sizes, statistics, affine, sums, options):
    """Compute the gradient of :func:`normalise`.

    Parameters
    ----------
    arrays : (ndarray, ndarray, ndarray)
        `x`, `dy`, and `dx`, which shares no memory with these.
    sizes, statistics, affine
        As there; statistics are read.
    sums : ndarray, (parts, 2, items of scale or shift), float64
        Zeros; written: parts of the gradients of scale and shift, whose sum does not depend on the
        number of threads.
    options : (bool, bool)
        Whether to write `dx`, and whether to add to it.
    """
    x, dy, dx = bare(arrays[0]), bare(arrays[1]), bare(arrays[2])
    means, inverses = bare(statistics[0]), bare(statistics[1])
    weight, bias, period, run = affine
    affine = Affine(bare(weight), bare(bias), period, run)
    outer, middle, inner = sizes
    tasks, parts = tasks_of(sizes), sums.shape[0]
    total, products = np.empty(COLUMNS), np.empty(COLUMNS)
    begin, end = share(parts, worker, workers)
    for part in range(begin, end):
        start, stop = share(tasks, part, parts)
        for task in range(start, stop):
            if inner == 1:
                a, b = task * middle, (task + 1) * middle
                first = task % period * (middle // run)
                rows = (x[a:b], dy[a:b], dx[a:b] if options[0] else dx)
                row_statistics = (means[task], inverses[task])
                _row_gradient(rows, row_statistics, affine, first, sums[part], options)
                continue
            at, count, number = columns_of(task, sizes)
            first = task // (tasks // outer) % period * (middle // run)
            columns = (
                *(means[number : number + count], inverses[number : number + count]),
                *(total[:count], products[:count]),
            )
            places = (at, inner, middle, count)
            _column_gradient((x, dy, dx), places, columns, affine, first, sums[part], options)
