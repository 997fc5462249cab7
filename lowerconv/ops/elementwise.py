"""Layers that do the same to each item: ReLU, addition, copies, dropout, and the bias' gradient.

A worker's task is a piece of an image, a loop over slices counted from 0, which numba makes vector
code.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lowerconv.codegen.compiled import internal, njit
from lowerconv.codegen.ranges import share
from lowerconv.ops.blocks import BLOCK, block_of, cut, gathers, load, scatter
from lowerconv.ops.images import bare_images, piece, piece_bounds, pieces_of, same_memory
from lowerconv.runtime.launch import parallel, run_on_team

SUMMED = 1024  # items added up in the dtype before the sum goes on in float64


@internal(fastmath={"reassoc"})
def sum_in_any_order(values):
    """Return the sum of a short flat array in its own dtype: always the same of the same items."""
    total = values.dtype.type(0)
    for i in range(values.size):
        total += values[i]
    return total


@njit(cache=True, nogil=True)
def row_sum(values):
    """Return the sum of a flat array in float64: of sums of short ranges in its own dtype."""
    total = 0.0
    for i in range(0, values.size, SUMMED):
        total += sum_in_any_order(values[i : i + SUMMED])
    return total


@internal
def _positive(x, y):
    zero = x.dtype.type(0)
    if same_memory(x, y):
        for i in range(y.size):
            y[i] = zero if y[i] < 0 else y[i]  # so written, NaN stays NaN
    else:
        for i in range(y.size):
            y[i] = zero if x[i] < 0 else x[i]


@internal
def mask(dy, y, dx):
    """Write `dy` where ``y > 0``, and zero elsewhere, to `dx`, which may be `dy`."""
    zero = dy.dtype.type(0)
    if same_memory(dx, dy):
        for i in range(dx.size):
            part = dx[i]  # read in any case, so that the loop is vector code
            dx[i] = part if y[i] > 0 else zero
    else:
        for i in range(dx.size):
            part = dy[i]
            dx[i] = part if y[i] > 0 else zero


@parallel
def relu(worker, workers, x, y):
    """Write ``max(x, 0)`` to `y`, which may be `x`.

    Parameters
    ----------
    x, y : Images
    """
    x, y = bare_images(x), bare_images(y)
    pieces = pieces_of(x)
    first, last = share(x.N * pieces, worker, workers)
    for task in range(first, last):
        _positive(piece(x, task, pieces), piece(y, task, pieces))


@parallel
def relu_grad(worker, workers, y, dy, dx, add):
    """Write `dy` where ``y > 0``, and zero elsewhere, to `dx`, or add it there.

    `dx` may be `dy`, and is not added to then.  Parameters as of :func:`relu`.
    """
    y, dy, dx = bare_images(y), bare_images(dy), bare_images(dx)
    zero = dy.flat.dtype.type(0)
    pieces = pieces_of(y)
    first, last = share(y.N * pieces, worker, workers)
    for task in range(first, last):
        result, source = piece(y, task, pieces), piece(dy, task, pieces)
        target = piece(dx, task, pieces)
        if add:
            for i in range(target.size):
                part = source[i]
                target[i] += part if result[i] > 0 else zero
        else:
            mask(source, result, target)


@internal
def _bias_relu_grad(worker, workers, dy, y, sums, relu):
    parts = cut(dy)
    buffer, other = np.empty(BLOCK, dy.flat.dtype), np.empty(BLOCK, dy.flat.dtype)
    first, last = share(dy.C * parts.groups, worker, workers)
    for task in range(first, last):
        k = task // parts.groups
        total = 0.0
        begin, end = share(parts.blocks, task % parts.groups, parts.groups)
        for number in range(begin, end):
            block = block_of(number, dy, parts)
            gradient = load(dy, k, block, buffer)
            if relu:
                mask(gradient, load(y, k, block, other), gradient)
                if gathers(dy, block):
                    scatter(gradient, dy, k, block, False)
            total += sum_in_any_order(gradient)
        sums[task] = total


@njit(cache=True, nogil=True)
def bias_relu_grad(team, dy, y, db, relu):
    """Mask `dy` in place by ``y > 0``, and add it up over images and pixels: one pass over it.

    Parameters
    ----------
    dy, y : Images
        `y` is not read unless `relu` is set.
    db : ndarray, (K,)
        Gets the sums, which are float64 until then; empty where they are not wanted.
    relu : bool
        Whether `dy` is masked.
    """
    dy, y = bare_images(dy), bare_images(y)
    if db.size == 0:
        if relu:
            relu_grad(team, y, dy, dy, False)
        return
    groups = cut(dy).groups
    sums = np.zeros(dy.C * groups)
    run_on_team(team, _bias_relu_grad, (dy, y, sums, relu))
    for k in range(dy.C):
        total = 0.0
        for group in range(groups):
            total += sums[k * groups + group]
        db[k] = total


@parallel
def add(worker, workers, a, b, y, relu):
    """Write ``a + b`` to `y`, which may be one of them; its positive part where `relu` is set.

    Parameters as of :func:`relu`.
    """
    a, b, y = bare_images(a), bare_images(b), bare_images(y)
    zero = y.flat.dtype.type(0)
    pieces = pieces_of(y)
    on_a, on_b = same_memory(y.flat, a.flat), same_memory(y.flat, b.flat)
    first, last = share(y.N * pieces, worker, workers)
    for task in range(first, last):
        one, two, target = piece(a, task, pieces), piece(b, task, pieces), piece(y, task, pieces)
        if on_a:
            for i in range(target.size):
                target[i] += two[i]
        elif on_b:
            for i in range(target.size):
                target[i] += one[i]
        elif relu:
            for i in range(target.size):
                total = one[i] + two[i]
                target[i] = zero if total < 0 else total
        else:
            for i in range(target.size):
                target[i] = one[i] + two[i]
        if relu and (on_a or on_b):
            _positive(target, target)


@parallel
def copy(worker, workers, x, y, add):
    """Copy `x` to `y`, which has as many items an image, or add it there.

    Parameters as of :func:`relu`.
    """
    x, y = bare_images(x), bare_images(y)
    pieces = pieces_of(x)
    first, last = share(x.N * pieces, worker, workers)
    for task in range(first, last):
        source, target = piece(x, task, pieces), piece(y, task, pieces)
        if add:
            for i in range(target.size):
                target[i] += source[i]
        else:
            for i in range(target.size):
                target[i] = source[i]


class BatchPart(NamedTuple):
    """Which items of a global batch the images here are: any samples, and any parts of each.

    Attributes
    ----------
    samples : ndarray, (N,), int64
        Place of each image in the global batch.
    segments : ndarray, (segments, 3), int64
        For each run of items: where it begins in the images here, where in full ones, its length.
    full : int
        Items of a full image.
    """

    samples: np.ndarray
    segments: np.ndarray
    full: int


class Draw(NamedTuple):
    """What dropout draws, and what becomes of the items that it keeps.

    Attributes
    ----------
    key : uint64
        Different for each layer and step.
    threshold : uint64
        The fraction dropped, times 2^64.
    scale : of the images' dtype
        One over the fraction kept.
    """

    key: np.uint64
    threshold: np.uint64
    scale: np.floating


GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # from one state of SplitMix64 to the next


@internal
def mix(z):
    """Scramble 64 bits: the output function of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@parallel
def dropout(worker, workers, x, y, part, draw, add):
    """Write ``x * scale`` to `y` where an item draws at least `threshold`, and zero elsewhere.

    Each item draws out of 2^64 by its place in the global batch and the key alone: forward and
    backward, and on any number of threads and ranks, the same.

    Parameters
    ----------
    x, y : Images
    part : BatchPart
    draw : Draw
    add : bool
        Whether `y` is added to; not where it is `x`.
    """
    x, y = bare_images(x), bare_images(y)
    samples, segments, full = part
    key, threshold, scale = draw
    zero = x.flat.dtype.type(0)
    pieces = pieces_of(x)
    in_place = same_memory(x.flat, y.flat)
    first, last = share(samples.size * pieces, worker, workers)
    for task in range(first, last):
        n, begin, end = piece_bounds(x, task, pieces)
        for s in range(len(segments)):
            here, there = segments[s, 0], segments[s, 1]
            start, stop = max(begin, here), min(end, here + segments[s, 2])
            if start >= stop:
                continue
            source = x.flat[n * x.step + start : n * x.step + stop]
            target = y.flat[n * y.step + start : n * y.step + stop]
            at = np.uint64(samples[n] * full + there + start - here)
            if in_place:
                for i in range(target.size):
                    drawn = mix(key + (at + np.uint64(i)) * GOLDEN)
                    target[i] = target[i] * scale if drawn >= threshold else zero
            else:
                for i in range(target.size):
                    drawn = mix(key + (at + np.uint64(i)) * GOLDEN)
                    kept = source[i] * scale if drawn >= threshold else zero
                    target[i] = target[i] + kept if add else kept
