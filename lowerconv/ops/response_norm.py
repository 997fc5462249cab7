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

import numpy as np

from lowerconv.codegen.compiled import njit
from lowerconv.codegen.masked import bare
from lowerconv.codegen.ranges import share
from lowerconv.runtime.launch import spread

BLOCK = 512  # pixels
LEAST = 64  # pixels that are worth a block of their own, where there are threads for more


@njit(cache=True, nogil=True)
def _pieces(N, pixels, workers):
    """Return how many blocks the pixels of an image are cut into."""
    wanted = (4 * workers + N - 1) // max(1, N)
    return max((pixels + BLOCK - 1) // BLOCK, min(wanted, (pixels + LEAST - 1) // LEAST), 1)


@njit(cache=True, nogil=True, fastmath={"contract"})
def _squares(a, b, c, d, e, first, k, slope, total):
    """Add ``slope`` times the sum of squares to the total, which begins at `k`."""
    if first:
        for i in range(total.size):
            squares = a[i] * a[i] + b[i] * b[i] + c[i] * c[i] + d[i] * d[i] + e[i] * e[i]
            total[i] = k + slope * squares
    else:
        for i in range(total.size):
            squares = a[i] * a[i] + b[i] * b[i] + c[i] * c[i] + d[i] * d[i] + e[i] * e[i]
            total[i] += slope * squares


@njit(cache=True, nogil=True)
def _add_rows(a, b, c, d, e, first, total):
    if first:
        for i in range(total.size):
            total[i] = a[i] + b[i] + c[i] + d[i] + e[i]
    else:
        for i in range(total.size):
            total[i] += a[i] + b[i] + c[i] + d[i] + e[i]


@njit(cache=True, nogil=True)
def _row(x, at, pixels, c, last, count, zeros):
    """Return the block's pixels of a channel, zeros from channel `last` on."""
    return x[at + c * pixels : at + c * pixels + count] if c < last else zeros[:count]


@njit(cache=True, nogil=True)
def _scale(x, at, pixels, c, C, size, slope, k, zeros, total):
    """Compute ``k + slope * sum(x ** 2)`` over the window of channel `c`, five channels a time."""
    count = total.size
    first, last = max(0, c - size // 2), min(C, c + (size - 1) // 2 + 1)
    for j in range(first, last, 5):
        _squares(
            _row(x, at, pixels, j, last, count, zeros),
            _row(x, at, pixels, j + 1, last, count, zeros),
            _row(x, at, pixels, j + 2, last, count, zeros),
            _row(x, at, pixels, j + 3, last, count, zeros),
            _row(x, at, pixels, j + 4, last, count, zeros),
            j == first, k, slope, total,
        )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def _inverse_power(scale, beta, power):
    """``power = scale ** -beta``: by square roots, which are vector code, where that can be."""
    one = scale.dtype.type(1)
    if beta == 0.75:
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


@njit(cache=True, nogil=True)
def _multiply(x, power, y):
    for i in range(y.size):
        y[i] = x[i] * power[i]


@njit(cache=True, nogil=True)
def _response_norm_share(
    worker, workers, zeros, scratch, x, x_step, y, y_step, N, C, pixels, size, alpha, beta, k
):
    x, y = bare(x), bare(y)
    kind = x.dtype.type
    slope, least = kind(alpha / size), kind(k)
    zeros, mine = bare(zeros), bare(scratch)[2 * BLOCK * worker :]
    scales, powers = mine[:BLOCK], mine[BLOCK : 2 * BLOCK]
    pieces = _pieces(N, pixels, workers)
    begin, end = share(N * pieces, worker, workers)
    for task in range(begin, end):
        n = task // pieces
        first, last = share(pixels, task % pieces, pieces)
        count = last - first
        at, to = n * x_step + first, n * y_step + first
        scale, power = scales[:count], powers[:count]
        for c in range(C):
            _scale(x, at, pixels, c, C, size, slope, least, zeros, scale)
            _inverse_power(scale, beta, power)
            _multiply(
                _row(x, at, pixels, c, C, count, zeros), power,
                y[to + c * pixels : to + c * pixels + count],
            )  # fmt: skip


@njit(cache=True, nogil=True)
def response_norm(team, x, x_step, y, y_step, N, C, pixels, size, alpha, beta, k):
    """Write ``x / (k + alpha / size * sum(x ** 2)) ** beta`` to `y`.

    Parameters
    ----------
    team : Handle
        From `threads.parallel_region`.
    x, y : ndarray, 1-D
        (N, C, pixels) each, from its first item on; not the same memory.
    x_step, y_step : int
        Items from one image to the next.
    size : int
        Channels of a window: ``size // 2`` before and ``(size - 1) // 2`` after its own.
    alpha, beta, k : float
    """
    zeros = np.zeros(BLOCK, x.dtype)
    scratch = np.empty(2 * BLOCK * team.threads, x.dtype)
    spread(
        team, _response_norm_share,
        (zeros, scratch, x, x_step, y, y_step, N, C, pixels, size, alpha, beta, k),
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def _terms(dy, x, scale, power, direct, terms):
    """``direct = dy * scale ** -beta`` and ``terms = direct * x / scale``."""
    for i in range(dy.size):
        direct[i] = dy[i] * power[i]
        terms[i] = direct[i] * x[i] / scale[i]


@njit(cache=True, nogil=True)
def _finish(direct, x, total, slope, dx, add):
    if add:
        for i in range(dx.size):
            dx[i] += direct[i] - slope * x[i] * total[i]
    else:
        for i in range(dx.size):
            dx[i] = direct[i] - slope * x[i] * total[i]


@njit(cache=True, nogil=True)
def _response_norm_grad_share(
    worker, workers, zeros, scratch, dy, dy_step, x, x_step, dx, dx_step, N, C, pixels, size,
    alpha, beta, k, add,
):  # fmt: skip
    dy, x, dx = bare(dy), bare(x), bare(dx)
    kind = x.dtype.type
    slope, least = kind(alpha / size), kind(k)
    before, after = size // 2, (size - 1) // 2
    zeros, mine = bare(zeros), bare(scratch)[(3 + 2 * size) * BLOCK * worker :]
    scales, powers, totals = mine[:BLOCK], mine[BLOCK : 2 * BLOCK], mine[2 * BLOCK : 3 * BLOCK]
    # Rows of the last `size` channels, each in place of the one that is needed no longer.
    direct = mine[3 * BLOCK : (3 + size) * BLOCK]
    terms = mine[(3 + size) * BLOCK : (3 + 2 * size) * BLOCK]
    pieces = _pieces(N, pixels, workers)
    begin, end = share(N * pieces, worker, workers)
    for task in range(begin, end):
        n = task // pieces
        first, last = share(pixels, task % pieces, pieces)
        count = last - first
        at, at_dy, to = n * x_step + first, n * dy_step + first, n * dx_step + first
        scale, power, total = scales[:count], powers[:count], totals[:count]
        for j in range(C + before):  # the channel whose term is computed
            if j < C:
                slot = j % size * BLOCK
                _scale(x, at, pixels, j, C, size, slope, least, zeros, scale)
                _inverse_power(scale, beta, power)
                _terms(
                    _row(dy, at_dy, pixels, j, C, count, zeros),
                    _row(x, at, pixels, j, C, count, zeros),
                    scale, power, direct[slot : slot + count], terms[slot : slot + count],
                )  # fmt: skip
            c = j - before  # the channel that has all of its terms now
            if c < 0:
                continue
            rows, earliest = min(C, j + 1), max(0, c - after)
            for other in range(earliest, rows, 5):
                _add_rows(
                    _slot(terms, other, rows, size, count, zeros),
                    _slot(terms, other + 1, rows, size, count, zeros),
                    _slot(terms, other + 2, rows, size, count, zeros),
                    _slot(terms, other + 3, rows, size, count, zeros),
                    _slot(terms, other + 4, rows, size, count, zeros),
                    other == earliest, total,
                )  # fmt: skip
            _finish(
                _slot(direct, c, C, size, count, zeros),
                _row(x, at, pixels, c, C, count, zeros),
                total, kind(2 * beta) * slope, dx[to + c * pixels : to + c * pixels + count], add,
            )  # fmt: skip


@njit(cache=True, nogil=True)
def _slot(rows, c, last, size, count, zeros):
    """Return the row kept of a channel, zeros from channel `last` on."""
    at = c % size * BLOCK
    return rows[at : at + count] if c < last else zeros[:count]


@njit(cache=True, nogil=True)
def response_norm_grad(
    team, dy, dy_step, x, x_step, dx, dx_step, N, C, pixels, size, alpha, beta, k, add
):
    """Write the gradient of :func:`response_norm` with respect to `x` to `dx`, or add it there.

    `dx` may be `dy`, but not `x`.  Parameters are those of :func:`response_norm`.
    """
    zeros = np.zeros(BLOCK, x.dtype)
    scratch = np.empty((3 + 2 * size) * BLOCK * team.threads, x.dtype)
    spread(
        team, _response_norm_grad_share,
        (
            zeros, scratch, dy, dy_step, x, x_step, dx, dx_step, N, C, pixels, size, alpha, beta,
            k, add,
        ),
    )  # fmt: skip
