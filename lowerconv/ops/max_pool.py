"""Max pooling, and the gradient that goes back to the pixel that won.

The maximum over a window is taken along the rows and then along the columns, R + S comparisons
instead of R * S.  Who wins is the number of the tap, ``r * S + s``: the first in row order of equal
pixels, the last of several NaNs, as in PyTorch.
"""

import numpy as np

from lowerconv.codegen.compiled import njit
from lowerconv.codegen.masked import bare
from lowerconv.codegen.ranges import share
from lowerconv.ops.windows import (
    copy_rows,
    fill,
    grouping,
    lower_rows,
    plane_at,
)
from lowerconv.runtime.launch import spread


@njit(cache=True, nogil=True)
def _keep(pixels, best):
    """``best[i] = max(best[i], pixels[i])``; NaN wins."""
    for i in range(best.size):
        pixel = pixels[i]
        wins = (pixel > best[i]) | (pixel != pixel)
        best[i] = pixel if wins else best[i]


@njit(cache=True, nogil=True)
def _keep_winner(pixels, numbers, more, best, winner):
    """As `_keep`; the winner is ``numbers[i] + more`` where the pixel wins."""
    for i in range(best.size):
        pixel = pixels[i]
        wins = (pixel > best[i]) | (pixel != pixel)
        best[i] = pixel if wins else best[i]
        winner[i] = numbers[i] + more if wins else winner[i]


@njit(cache=True, nogil=True)
def _three(a, b, c, best):
    """``best[i] = max(a[i], b[i], c[i])``."""
    for i in range(best.size):
        first, second, third = a[i], b[i], c[i]
        first = second if (second > first) | (second != second) else first
        best[i] = third if (third > first) | (third != third) else first


@njit(cache=True, nogil=True)
def _three_winner(a, b, c, at_a, at_b, at_c, more_b, more_c, best, winner):
    """As `_three`, with the winners' numbers."""
    for i in range(best.size):
        first, second, third = a[i], b[i], c[i]
        wins = (second > first) | (second != second)
        first = second if wins else first
        number = at_b[i] + more_b if wins else at_a[i]
        wins = (third > first) | (third != third)
        best[i] = third if wins else first
        winner[i] = at_c[i] + more_c if wins else number


@njit(cache=True, nogil=True)
def _along(source, numbers, phases, size, phase_step, tap_step, scale, best, winner):
    """Take the maximum over the taps of one axis.

    Tap ``t`` of window ``i`` is ``source[t % phases * phase_step + t // phases * tap_step + i]``,
    its number that at the same place of `numbers` and ``t * scale``.
    """
    count = best.size
    recorded = winner.size > 0
    one, two = min(1, size - 1), min(2, size - 1)  # a tap twice changes nothing
    at_b = one % phases * phase_step + one // phases * tap_step
    at_c = two % phases * phase_step + two // phases * tap_step
    a, b, c = source[:count], source[at_b : at_b + count], source[at_c : at_c + count]
    if recorded:
        kind = winner.dtype.type
        _three_winner(
            a, b, c,
            numbers[:count], numbers[at_b : at_b + count], numbers[at_c : at_c + count],
            kind(one * scale), kind(two * scale), best, winner,
        )  # fmt: skip
    else:
        _three(a, b, c, best)
    for t in range(3, size):
        at = t % phases * phase_step + t // phases * tap_step
        if recorded:
            _keep_winner(
                source[at : at + count], numbers[at : at + count], kind(t * scale), best, winner
            )
        else:
            _keep(source[at : at + count], best)


@njit(cache=True, nogil=True)
def _max_pool_share(
    worker, workers, x, x_step, y, y_step, winner, N, C, H, W, P, Q, size, stride, pad
):
    x, y, winner = bare(x), bare(y), bare(winner)
    R, S = size
    kind = x.dtype.type
    recorded = winner.size > 0
    beside, below = (S - 1) // stride[1], (R - 1) // stride[0]
    column_phases, row_phases = min(S, stride[1]), min(R, stride[0])
    pitch = Q + beside
    band, together, pieces, groups = grouping(
        P, pitch * ((column_phases + 1) * row_phases + 1), below, N * C, workers
    )
    between = (band + below) * together  # rows of one phase: those of all planes of a group
    step = row_phases * between * pitch
    lowered = np.empty(column_phases * step + beside, x.dtype)
    across = np.empty(step, x.dtype)  # the maxima along the rows
    best = np.empty(between * pitch, x.dtype)
    if recorded:
        zeros = np.zeros(lowered.size, winner.dtype)
        across_winner = np.empty(step, winner.dtype)
        best_winner = np.empty(best.size, winner.dtype)
    else:
        zeros = across_winner = best_winner = winner
    fill(lowered, column_phases * step, beside, kind(0))

    begin, end = share(groups * pieces, worker, workers)
    for task in range(begin, end):
        plane0, p0 = task // pieces * together, task % pieces * band
        planes, rows = min(together, N * C - plane0), min(band, P - p0)
        for i in range(planes):
            lower_rows(
                plane_at(x, x_step, plane0 + i, C, H * W), H, W,
                p0 * stride[0] - pad[0], (rows - 1) * stride[0] + R,
                size, stride, pad[1], pitch, between, step, kind(-np.inf),
                lowered, i * (band + below) * pitch,
            )  # fmt: skip
        count = (row_phases - 1) * between * pitch + planes * (band + below) * pitch
        _along(lowered, zeros, stride[1], S, step, 1, 1, across[:count], across_winner[:count])
        if recorded:  # where all pixels are -inf, the first of them and not the padding
            for q in range(min(pad[1], Q)):
                inside_from = pad[1] - q * stride[1]
                for row in range(count // pitch):
                    at = row * pitch + q
                    across_winner[at] = max(across_winner[at], inside_from)
        count = ((planes - 1) * (band + below) + rows) * pitch
        _along(
            across, across_winner, stride[0], R, between * pitch, pitch, S,
            best[:count], best_winner[:count],
        )  # fmt: skip
        for i in range(planes):
            plane = plane0 + i
            to = plane // C * y_step + plane % C * P * Q + p0 * Q
            source = i * (band + below) * pitch
            copy_rows(best, source, pitch, y, to, Q, rows)
            if recorded:
                first = (plane * P + p0) * Q
                copy_rows(best_winner, source, pitch, winner, first, Q, rows)
                for p in range(min(rows, pad[0])):
                    outside = (pad[0] - (p0 + p) * stride[0]) * S
                    if outside > 0:
                        for q in range(Q):
                            number = winner[first + p * Q + q]
                            if number < outside:
                                winner[first + p * Q + q] = number + outside


@njit(cache=True, nogil=True)
def max_pool(team, x, x_step, y, y_step, winner, N, C, H, W, P, Q, size, stride, pad):
    """Write the maximum of each window of `x` (N, C, H, W) to `y` (N, C, P, Q).

    Parameters
    ----------
    team : Handle
        From `threads.parallel_region`.
    x, y : ndarray, 1-D
        Each begins at the first item of its tensor.
    x_step, y_step : int
        Items from one image to the next.
    winner : ndarray, 1-D, integer
        Gets the number of the tap that has won, ``r * S + s``, for all N * C * P * Q windows: an
        unsigned byte is enough for 256 taps.  Empty where no gradient will be asked for.
    size, stride, pad : (int, int)
        Of the windows, rows first.  Each window has a pixel inside the image.
    """
    spread(
        team,
        _max_pool_share,
        (x, x_step, y, y_step, winner, N, C, H, W, P, Q, size, stride, pad),
    )


@njit(cache=True, nogil=True)
def _max_pool_grad_share(
    worker, workers, dy, dy_step, winner, dx, dx_step, N, C, H, W, P, Q, size, stride, pad, add
):
    """Give the gradient of each window to its winner.

    Faster than to ask for each pixel which windows it has won, though that would be vector code.
    """
    dy, winner, dx = bare(dy), bare(winner), bare(dx)
    R, S = size
    one = np.uint64(1)
    places = np.empty(R * S, np.int64)  # of the taps in the plane, so that nothing is divided
    for tap in range(R * S):
        places[tap] = tap // S * W + tap % S
    begin, end = share(N * C, worker, workers)
    for plane in range(begin, end):
        n, c = plane // C, plane % C
        at = n * dx_step + c * H * W
        if not add:
            fill(dx, at, H * W, dy.dtype.type(0))
        # Unsigned: for a signed index numba tests whether it counts from the end.
        number, source = np.uint64(plane * P * Q), np.uint64(n * dy_step + c * P * Q)
        for p in range(P):
            first = at + (p * stride[0] - pad[0]) * W - pad[1]
            for q in range(Q):
                place = np.uint64(first + q * stride[1] + places[np.uint64(winner[number])])
                dx[place] += dy[source]
                number += one
                source += one


@njit(cache=True, nogil=True)
def max_pool_grad(team, dy, dy_step, winner, dx, dx_step, N, C, H, W, P, Q, size, stride, pad, add):
    """Write what :func:`max_pool` gives back to its pixels from `dy` (N, C, P, Q) to `dx`.

    Parameters are those of :func:`max_pool`; where `add` is set, `dx` (N, C, H, W) is added to.
    """
    spread(
        team, _max_pool_grad_share,
        (dy, dy_step, winner, dx, dx_step, N, C, H, W, P, Q, size, stride, pad, add),
    )  # fmt: skip
