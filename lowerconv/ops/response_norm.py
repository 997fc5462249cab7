"""Local response normalisation over channels, and its gradient.

Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks"
(NIPS 2012), section 3.3, with the sum divided by the window as in Caffe and PyTorch::

    y[c] = x[c] * scale[c] ** -beta,    scale[c] = k + alpha / size * sum(x[j] ** 2)

over the `size` channels j about c.  The gradient goes through the other channels' scales, too::

    dx[c] = dy[c] * scale[c] ** -beta - 2 * alpha * beta / size * x[c] * sum(t[j])
    t[j] = dy[j] * x[j] * scale[j] ** (-beta - 1)

over the channels j whose window has c in it.  Nothing is kept for the way back: the scales are
computed once more, which costs less than to read them.  Work is a block of pixels, all channels of
them, so that the rows of a window stay in the L1 cache.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lowerconv.codegen.compiled import internal, njit
from lowerconv.codegen.half_arrays import like
from lowerconv.codegen.masked import bare
from lowerconv.codegen.ranges import share
from lowerconv.ops.images import bare_images
from lowerconv.runtime.launch import run_on_team

BLOCK = 512  # pixels
FLOOR = 1e-6  # of float32 whose powers are computed without roots
LEAST = 64  # pixels that are worth a block of their own, where there are threads for more


class Window(NamedTuple):
    """The channels that a scale is computed from, and how."""

    size: int  # ``size // 2`` channels before and ``(size - 1) // 2`` after its own
    alpha: float
    beta: float
    k: float


class Rows(NamedTuple):
    """A block of pixels: a row for each channel."""

    flat: np.ndarray
    at: int  # of the first row
    step: int  # from one row to the next
    kept: int  # rows that there is memory for: later ones take the places of earlier ones
    zeros: np.ndarray  # a row of them


@internal
def blocks_of(N, pixels, workers):
    """Return how many blocks the pixels of an image are cut into."""
    wanted = (4 * workers + N - 1) // max(1, N)
    return max((pixels + BLOCK - 1) // BLOCK, min(wanted, (pixels + LEAST - 1) // LEAST), 1)


@internal(fastmath={"contract"})
def _add_squares(rows, k, slope, first, total):
    """Add ``slope`` times the sum of squares to the total, which begins at `k`."""
    a, b, c, d, e = rows
    if first:
        for i in range(total.size):
            squares = a[i] * a[i] + b[i] * b[i] + c[i] * c[i] + d[i] * d[i] + e[i] * e[i]
            total[i] = k + slope * squares
    else:
        for i in range(total.size):
            squares = a[i] * a[i] + b[i] * b[i] + c[i] * c[i] + d[i] * d[i] + e[i] * e[i]
            total[i] += slope * squares


@internal
def _add_rows(rows, first, total):
    a, b, c, d, e = rows
    if first:
        for i in range(total.size):
            total[i] = a[i] + b[i] + c[i] + d[i] + e[i]
    else:
        for i in range(total.size):
            total[i] += a[i] + b[i] + c[i] + d[i] + e[i]


@internal
def row_of(rows, c):
    """Return the row of a channel."""
    at = rows.at + c % rows.kept * rows.step
    return rows.flat[at : at + rows.zeros.size]


@internal
def _five(rows, c, last):
    """Return the rows of a channel and of the four after it, zeros from channel `last` on."""
    return (
        row_of(rows, c),
        row_of(rows, c + 1) if c + 1 < last else rows.zeros,
        row_of(rows, c + 2) if c + 2 < last else rows.zeros,
        row_of(rows, c + 3) if c + 3 < last else rows.zeros,
        row_of(rows, c + 4) if c + 4 < last else rows.zeros,
    )


@internal
def window_scale(x, c, C, window, total):
    """Compute ``k + alpha / size * sum(x ** 2)`` over the window of a channel, five at a time."""
    size, alpha, _, k = window
    kind = total.dtype.type
    first, last = max(0, c - size // 2), min(C, c + (size - 1) // 2 + 1)
    for j in range(first, last, 5):
        _add_squares(_five(x, j, last), kind(k), kind(alpha / size), j == first, total)


@internal
def _fourth_root_guess(t):
    """Return ``t ** -0.25`` within 3.2%: a quarter of a float's bits is of its logarithm."""
    bits = np.float32(t).view(np.int32)
    guess = np.int32(np.int32(1331193446) - (bits >> np.int32(2)))
    return guess.view(np.float32)


@internal(fastmath={"contract"})
def _three_quarters(scale, power):
    """``power = scale ** -0.75`` of float32 from `FLOOR` on, to 2e-7, faster than by roots.

    From a guess of ``scale ** -0.25`` by a step of Newton's kind with four terms, and one with two
    of its cube.
    """
    f = np.float32
    for i in range(scale.size):
        t = f(scale[i])
        y = _fourth_root_guess(t)
        square = y * y
        h = f(1) - t * square * square
        y += y * h * (f(1 / 4) + h * (f(5 / 32) + h * f(15 / 128)))
        square = y * y
        h = f(1) - t * square * square
        cube = y * square
        cube += cube * h * f(3 / 4)
        power[i] = f(0) if t > f(1e38) else cube  # as of infinity, of which bits tell nothing


@internal(error_model="numpy")
def inverse_power(scale, window, power):
    """``power = scale ** -beta``: by vector code, where that can be."""
    one, beta = scale.dtype.type(1), window.beta
    if beta == 0.75 and scale.itemsize == 4 and window.k >= FLOOR and window.alpha >= 0:
        _three_quarters(scale, power)
    elif beta == 0.75:
        for i in range(scale.size):
            root = np.sqrt(scale[i])
            power[i] = one / (root * np.sqrt(root))
    elif beta == 0.5:
        for i in range(scale.size):
            power[i] = one / np.sqrt(scale[i])
    elif beta == 1:
        for i in range(scale.size):
            power[i] = one / scale[i]
    else:
        exponent = scale.dtype.type(-beta)
        for i in range(scale.size):
            power[i] = np.exp(exponent * np.log(scale[i]))


@internal
def multiply(x, power, y):
    """``y = x * power``."""
    for i in range(y.size):
        y[i] = x[i] * power[i]


@internal
def _response_norm(worker, workers, zeros, scratch, x, y, window):
    pixels = x.H * x.W
    zeros, mine = like(bare(zeros), x.flat), bare(scratch)[2 * BLOCK * worker :]
    pieces = blocks_of(x.N, pixels, workers)
    begin, end = share(x.N * pieces, worker, workers)
    for task in range(begin, end):
        n = task // pieces
        first, last = share(pixels, task % pieces, pieces)
        count = last - first
        source = Rows(x.flat, n * x.step + first, pixels, x.C, zeros[:count])
        target = Rows(y.flat, n * y.step + first, pixels, x.C, zeros[:count])
        scale, power = mine[:count], mine[BLOCK : BLOCK + count]
        for c in range(x.C):
            window_scale(source, c, x.C, window, scale)
            inverse_power(scale, window, power)
            multiply(row_of(source, c), power, row_of(target, c))


@njit(cache=True, nogil=True)
def response_norm(team, x, y, window):
    """Write ``x / (k + alpha / size * sum(x ** 2)) ** beta`` to `y`.

    Parameters
    ----------
    x, y : Images
        Not the same memory.
    window : Window
    """
    x, y, window = bare_images(x), bare_images(y), Window(*window)
    zeros = np.zeros(BLOCK, x.flat.dtype)
    scratch = np.empty(2 * BLOCK * team.threads, x.flat.dtype)
    run_on_team(team, _response_norm, (zeros, scratch, x, y, window))


@internal(error_model="numpy")
def _terms(dy, x, scale, power, direct, terms):
    """``direct = dy * scale ** -beta`` and ``terms = direct * x / scale``."""
    for i in range(dy.size):
        direct[i] = dy[i] * power[i]
        terms[i] = direct[i] * x[i] / scale[i]


@internal
def _finish(direct, x, total, slope, dx, add):
    if add:
        for i in range(dx.size):
            dx[i] += direct[i] - slope * x[i] * total[i]
    else:
        for i in range(dx.size):
            dx[i] = direct[i] - slope * x[i] * total[i]


@internal
def _response_norm_grad(worker, workers, zeros, scratch, operands, window, add):
    dy, x, dx = operands
    size, alpha, beta, _ = window
    kind = x.flat.dtype.type
    slope = kind(2 * beta) * kind(alpha / size)
    before, after = size // 2, (size - 1) // 2
    C, pixels = x.C, x.H * x.W
    zeros, mine = bare(zeros), bare(scratch)[(3 + 2 * size) * BLOCK * worker :]
    pieces = blocks_of(x.N, pixels, workers)
    begin, end = share(x.N * pieces, worker, workers)
    for task in range(begin, end):
        n = task // pieces
        first, last = share(pixels, task % pieces, pieces)
        count = last - first
        zero = zeros[:count]
        source = Rows(x.flat, n * x.step + first, pixels, C, like(zero, x.flat))
        given = Rows(dy.flat, n * dy.step + first, pixels, C, like(zero, dy.flat))
        target = Rows(dx.flat, n * dx.step + first, pixels, C, like(zero, dx.flat))
        scale, power = mine[:count], mine[BLOCK : BLOCK + count]
        total = mine[2 * BLOCK : 2 * BLOCK + count]
        # Rows of the last `size` channels, each in place of the one that is needed no longer.
        direct = Rows(mine, 3 * BLOCK, BLOCK, size, zero)
        terms = Rows(mine, (3 + size) * BLOCK, BLOCK, size, zero)
        for j in range(C + before):  # the channel whose term is computed
            if j < C:
                window_scale(source, j, C, window, scale)
                inverse_power(scale, window, power)
                _terms(
                    row_of(given, j),
                    row_of(source, j),
                    scale,
                    power,
                    row_of(direct, j),
                    row_of(terms, j),
                )
            c = j - before  # the channel that has all of its terms now
            if c < 0:
                continue
            rows, earliest = min(C, j + 1), max(0, c - after)
            for other in range(earliest, rows, 5):
                _add_rows(_five(terms, other, rows), other == earliest, total)
            _finish(row_of(direct, c), row_of(source, c), total, slope, row_of(target, c), add)


@njit(cache=True, nogil=True)
def response_norm_grad(team, dy, x, dx, window, add):
    """Write the gradient of :func:`response_norm` with respect to `x` to `dx`, or add it there.

    `dx` may be `dy`, but not `x`.  Parameters are those of :func:`response_norm`.
    """
    dy, x, dx = bare_images(dy), bare_images(x), bare_images(dx)
    window = Window(*window)
    zeros = np.zeros(BLOCK, x.flat.dtype)
    scratch = np.empty((3 + 2 * window.size) * BLOCK * team.threads, x.flat.dtype)
    run_on_team(team, _response_norm_grad, (zeros, scratch, (dy, x, dx), window, add))
