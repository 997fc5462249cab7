"""Layers that do the same to each item: ReLU, addition, copies, dropout, and the bias' gradient.

An image tensor is a flat array that begins at its first item, and a step from one image to the
next.  Work is cut into pieces of an image, and each is a loop over slices counted from 0, which
numba makes vector code.  Where the result may lie on an operand, that case has a loop of its own:
vector code is for arrays that are one or apart, and the compiler cannot know which.
"""

import numpy as np

from lowerconv.codegen.compiled import njit
from lowerconv.codegen.masked import bare
from lowerconv.codegen.ranges import share
from lowerconv.ops.blocks import BLOCK, block_of, cut, gather, scatter
from lowerconv.runtime.launch import spread

PIECE = 16384  # items: enough for a loop to run at speed, and many pieces for each thread
SUMMED = 1024  # items added up in the dtype before the sum goes on in float64


@njit(cache=True, nogil=True)
def piece_of(task, pieces, items):
    """Return the image of a task, and the part of it."""
    size = (items + pieces - 1) // pieces
    first = task % pieces * size
    return task // pieces, min(first, items), min(first + size, items)


@njit(cache=True, nogil=True, fastmath={"reassoc"})
def _sum(values):
    total = values.dtype.type(0)
    for i in range(values.size):
        total += values[i]
    return total


@njit(cache=True, nogil=True)
def row_sum(values):
    """Return the sum of a flat array in float64: of sums of short ranges in its own dtype."""
    total = 0.0
    for i in range(0, values.size, SUMMED):
        total += _sum(values[i : i + SUMMED])
    return total


@njit(cache=True, nogil=True)
def _relu_share(worker, workers, x, x_step, y, y_step, N, items):
    x, y = bare(x), bare(y)
    zero = x.dtype.type(0)
    pieces = max(1, (items + PIECE - 1) // PIECE)
    in_place = x.ctypes.data == y.ctypes.data
    first, last = share(N * pieces, worker, workers)
    for task in range(first, last):
        n, begin, end = piece_of(task, pieces, items)
        target = y[n * y_step + begin : n * y_step + end]
        if in_place:
            for i in range(target.size):
                target[i] = zero if target[i] < 0 else target[i]  # so written, NaN stays NaN
        else:
            source = x[n * x_step + begin : n * x_step + end]
            for i in range(target.size):
                target[i] = zero if source[i] < 0 else source[i]


@njit(cache=True, nogil=True)
def relu(team, x, x_step, y, y_step, N, items):
    """Write ``max(x, 0)`` to `y`, which may be `x`: N images of so many items.

    Parameters
    ----------
    team : Handle
        From `threads.parallel_region`.
    x, y : ndarray, 1-D
        Each begins at the first item of its tensor.
    x_step, y_step : int
        Items from one image to the next.
    N, items : int
        Images, and items of each.
    """
    spread(team, _relu_share, (x, x_step, y, y_step, N, items))


@njit(cache=True, nogil=True)
def _relu_grad_share(worker, workers, y, y_step, dy, dy_step, dx, dx_step, N, items, add):
    y, dy, dx = bare(y), bare(dy), bare(dx)
    zero = dy.dtype.type(0)
    pieces = max(1, (items + PIECE - 1) // PIECE)
    in_place = dx.ctypes.data == dy.ctypes.data
    first, last = share(N * pieces, worker, workers)
    for task in range(first, last):
        n, begin, end = piece_of(task, pieces, items)
        result = y[n * y_step + begin : n * y_step + end]
        target = dx[n * dx_step + begin : n * dx_step + end]
        source = dy[n * dy_step + begin : n * dy_step + end]
        if in_place:
            for i in range(target.size):
                part = target[i]  # read in any case, so that a vector is
                target[i] = part if result[i] > 0 else zero
        elif add:
            for i in range(target.size):
                part = source[i]
                target[i] += part if result[i] > 0 else zero
        else:
            for i in range(target.size):
                part = source[i]
                target[i] = part if result[i] > 0 else zero


@njit(cache=True, nogil=True)
def relu_grad(team, y, y_step, dy, dy_step, dx, dx_step, N, items, add):
    """Write `dy` where ``y > 0``, and zero elsewhere, to `dx`, or add it there.

    `dx` may be `dy`, and is not added to then.  Parameters as of :func:`relu`.
    """
    spread(team, _relu_grad_share, (y, y_step, dy, dy_step, dx, dx_step, N, items, add))


@njit(cache=True, nogil=True)
def _mask(dy, y):
    zero = dy.dtype.type(0)
    for i in range(dy.size):
        dy[i] = dy[i] if y[i] > 0 else zero


@njit(cache=True, nogil=True)
def _bias_relu_grad_share(worker, workers, dy, dy_step, y, y_step, sums, N, K, pixels, masked):
    dy, y = bare(dy), bare(y)
    together, pieces, blocks, groups = cut(N, K, pixels)
    gradient, result = np.empty(BLOCK, dy.dtype), np.empty(BLOCK, dy.dtype)
    first, last = share(K * groups, worker, workers)
    for task in range(first, last):
        k = task // groups
        total = 0.0
        begin, end = share(blocks, task % groups, groups)
        for block in range(begin, end):
            n, images, start, stop = block_of(block, N, pixels, together, pieces)
            at, at_y = n * dy_step + k * pixels, n * y_step + k * pixels
            if images == 1:
                part = dy[at + start : at + stop]
                if masked:
                    _mask(part, y[at_y + start : at_y + stop])
                total += _sum(part)
            else:
                size = images * pixels
                gather(dy, at, dy_step, images, pixels, gradient)
                if masked:
                    gather(y, at_y, y_step, images, pixels, result)
                    _mask(gradient[:size], result[:size])
                    scatter(gradient, dy, at, dy_step, images, pixels, False)
                total += _sum(gradient[:size])
        sums[task] = total


@njit(cache=True, nogil=True)
def bias_relu_grad(team, dy, dy_step, y, y_step, db, N, K, pixels, relu):
    """Mask `dy` in place by ``y > 0``, and add it up over images and pixels: one pass over it.

    Parameters
    ----------
    team : Handle
        From `threads.parallel_region`.
    dy, y : ndarray, 1-D
        (N, K, pixels) each, from its first item on.  `y` is not read unless `relu` is set.
    dy_step, y_step : int
        Items from one image to the next.
    db : ndarray, (K,)
        Gets the sums, which are float64 until then; empty where they are not wanted.
    relu : bool
        Whether `dy` is masked.
    """
    if db.size == 0:
        if relu:
            spread(
                team, _relu_grad_share,
                (y, y_step, dy, dy_step, dy, dy_step, N, K * pixels, False),
            )  # fmt: skip
        return
    _, _, _, groups = cut(N, K, pixels)
    sums = np.zeros(K * groups)
    spread(team, _bias_relu_grad_share, (dy, dy_step, y, y_step, sums, N, K, pixels, relu))
    for k in range(K):
        total = 0.0
        for group in range(groups):
            total += sums[k * groups + group]
        db[k] = total


@njit(cache=True, nogil=True)
def _add_share(worker, workers, a, a_step, b, b_step, y, y_step, N, items, positive):
    a, b, y = bare(a), bare(b), bare(y)
    zero = y.dtype.type(0)
    pieces = max(1, (items + PIECE - 1) // PIECE)
    on_a, on_b = y.ctypes.data == a.ctypes.data, y.ctypes.data == b.ctypes.data
    first, last = share(N * pieces, worker, workers)
    for task in range(first, last):
        n, begin, end = piece_of(task, pieces, items)
        one = a[n * a_step + begin : n * a_step + end]
        two = b[n * b_step + begin : n * b_step + end]
        target = y[n * y_step + begin : n * y_step + end]
        if on_a:
            for i in range(target.size):
                target[i] += two[i]
        elif on_b:
            for i in range(target.size):
                target[i] += one[i]
        elif positive:
            for i in range(target.size):
                total = one[i] + two[i]
                target[i] = zero if total < 0 else total
        else:
            for i in range(target.size):
                target[i] = one[i] + two[i]
        if positive and (on_a or on_b):
            for i in range(target.size):
                target[i] = zero if target[i] < 0 else target[i]


@njit(cache=True, nogil=True)
def add(team, a, a_step, b, b_step, y, y_step, N, items, relu):
    """Write ``a + b`` to `y`, which may be one of them; its positive part where `relu` is set.

    Parameters as of :func:`relu`.
    """
    spread(team, _add_share, (a, a_step, b, b_step, y, y_step, N, items, relu))


@njit(cache=True, nogil=True)
def _copy_share(worker, workers, x, x_step, y, y_step, N, items, add):
    x, y = bare(x), bare(y)
    pieces = max(1, (items + PIECE - 1) // PIECE)
    first, last = share(N * pieces, worker, workers)
    for task in range(first, last):
        n, begin, end = piece_of(task, pieces, items)
        source = x[n * x_step + begin : n * x_step + end]
        target = y[n * y_step + begin : n * y_step + end]
        if add:
            for i in range(target.size):
                target[i] += source[i]
        else:
            for i in range(target.size):
                target[i] = source[i]


@njit(cache=True, nogil=True)
def copy(team, x, x_step, y, y_step, N, items, add):
    """Copy `x` to `y`, or add it there.  Parameters as of :func:`relu`."""
    spread(team, _copy_share, (x, x_step, y, y_step, N, items, add))


@njit(cache=True, nogil=True)
def _mix(z):
    """Scramble 64 bits: the output function of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(cache=True, nogil=True)
def _dropout_share(
    worker, workers, x, x_step, y, y_step, items, samples, segments, full, key, threshold, scale,
    add,
):  # fmt: skip
    x, y = bare(x), bare(y)
    zero = x.dtype.type(0)
    pieces = max(1, (items + PIECE - 1) // PIECE)
    in_place = x.ctypes.data == y.ctypes.data
    first, last = share(samples.size * pieces, worker, workers)
    for task in range(first, last):
        n, begin, end = piece_of(task, pieces, items)
        for s in range(len(segments)):
            here, there = segments[s, 0], segments[s, 1]
            start, stop = max(begin, here), min(end, here + segments[s, 2])
            if start >= stop:
                continue
            source = x[n * x_step + start : n * x_step + stop]
            target = y[n * y_step + start : n * y_step + stop]
            at = np.uint64(samples[n] * full + there + start - here)
            if in_place:
                for i in range(target.size):
                    draw = _mix(key + (at + np.uint64(i)) * np.uint64(0x9E3779B97F4A7C15))
                    target[i] = target[i] * scale if draw >= threshold else zero
            else:
                for i in range(target.size):
                    draw = _mix(key + (at + np.uint64(i)) * np.uint64(0x9E3779B97F4A7C15))
                    kept = source[i] * scale if draw >= threshold else zero
                    target[i] = target[i] + kept if add else kept


@njit(cache=True, nogil=True)
def dropout(
    team, x, x_step, y, y_step, items, samples, segments, full, key, threshold, scale, add
):  # fmt: skip
    """Write ``x * scale`` to `y` where an item draws at least `threshold`, and zero elsewhere.

    Each item draws out of 2^64 by its place in the global batch and the key alone: forward and
    backward, and on any number of threads and ranks, the same.  Of a batch split over ranks `x` has
    any samples, and any parts of each.

    Parameters
    ----------
    team : Handle
        From `threads.parallel_region`.
    x, y : ndarray, 1-D
        Each begins at the first item of its tensor.
    x_step, y_step : int
        Items from one image to the next.
    items : int
        Of each image here.
    samples : ndarray, (N,), int64
        Place of each image in the global batch.
    segments : ndarray, (segments, 3), int64
        Which items of a full image the ones here are: where each run of them begins here, where in
        the full image, and how many they are.
    full : int
        Items of a full image.
    key, threshold : uint64
        What tells layers and steps apart; the fraction dropped, times 2^64.
    scale : of the dtype
        One over the fraction kept.
    add : bool
        Whether `y` is added to; not where it is `x`.
    """
    spread(
        team,
        _dropout_share,
        (x, x_step, y, y_step, items, samples, segments, full, key, threshold, scale, add),
    )
