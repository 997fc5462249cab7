"""Max pooling, and the gradient that goes back to the pixel that won.

The maximum over a window is taken along the rows and then along the columns, R + S comparisons
instead of R * S.  Who wins is the number of the tap, ``r * S + s``: the first in row order of equal
pixels, the last of several NaNs, as in PyTorch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lowerconv.codegen.compiled import internal
from lowerconv.codegen.half_arrays import is_half, numbers
from lowerconv.codegen.masked import bare
from lowerconv.codegen.ranges import share
from lowerconv.ops.images import bare_images, plane
from lowerconv.ops.windows import (
    copy_rows,
    fill,
    group_of,
    lower_group,
    plane_start,
    windows_layout,
)
from lowerconv.runtime.launch import parallel


class Taps(NamedTuple):
    """The taps of one axis: tap t is of phase ``t % phases``, at place ``t // phases`` there."""

    size: int
    phases: int
    ld_phase: int  # items from one phase to the next
    ld_tap: int  # items from one tap of a phase to the next
    number: int  # by which the numbers of neighbours differ


@internal
def _keep(pixels, best):
    """``best[i] = max(best[i], pixels[i])``; NaN wins."""
    for i in range(best.size):
        pixel = pixels[i]
        wins = (pixel > best[i]) | (pixel != pixel)
        best[i] = pixel if wins else best[i]


@internal
def _keep_winner(pixels, numbers, more, best, winner):
    """As `_keep`; the winner is ``numbers[i] + more`` where the pixel wins."""
    for i in range(best.size):
        pixel = pixels[i]
        wins = (pixel > best[i]) | (pixel != pixel)
        best[i] = pixel if wins else best[i]
        winner[i] = numbers[i] + more if wins else winner[i]


@internal
def _three(a, b, c, best):
    """``best[i] = max(a[i], b[i], c[i])``."""
    for i in range(best.size):
        first, second, third = a[i], b[i], c[i]
        first = second if (second > first) | (second != second) else first
        best[i] = third if (third > first) | (third != third) else first


@internal
def _three_winner(taps, best, winner):
    """As `_three`, with the winners' numbers, of (pixels, numbers, what is added to these)."""
    (a, at_a, _), (b, at_b, more_b), (c, at_c, more_c) = taps
    for i in range(best.size):
        first, second, third = a[i], b[i], c[i]
        wins = (second > first) | (second != second)
        first = second if wins else first
        number = at_b[i] + more_b if wins else at_a[i]
        wins = (third > first) | (third != third)
        best[i] = third if wins else first
        winner[i] = at_c[i] + more_c if wins else number


@internal
def _tap(source, numbers, taps, t, count, kind):
    """Return the pixels under a tap, the numbers of those that have won so far, and its number."""
    at = t % taps.phases * taps.ld_phase + t // taps.phases * taps.ld_tap
    return source[at : at + count], numbers[at : at + count], kind(t * taps.number)


@internal
def along(source, numbers, taps, best, winner):
    """Take the maximum over the taps of one axis; the winner's number is added to `numbers`."""
    count, size, kind = best.size, taps.size, winner.dtype.type
    recorded = winner.size > 0
    a = _tap(source, numbers, taps, 0, count, kind)
    b = _tap(source, numbers, taps, min(1, size - 1), count, kind)  # a tap twice changes nothing
    c = _tap(source, numbers, taps, min(2, size - 1), count, kind)
    if recorded:
        _three_winner((a, b, c), best, winner)
    else:
        _three(a[0], b[0], c[0], best)
    for t in range(3, size):
        pixels, before, more = _tap(source, numbers, taps, t, count, kind)
        if recorded:
            _keep_winner(pixels, before, more, best, winner)
        else:
            _keep(pixels, best)


@parallel
def max_pool(worker, workers, x, y, winner, windows):
    """Write the maximum of each window of `x` to `y`.

    Parameters
    ----------
    x, y : Images
    winner : ndarray, 1-D, integer
        Gets the number of the tap that has won, ``r * S + s``, for all windows: an unsigned byte
        is enough for 256 taps.  Empty where no gradient will be asked for.
    windows : Windows
    """
    x, y, winner = bare_images(x), bare_images(y), bare(winner)
    (R, S), stride, pad = windows
    P, Q = y.H, y.W
    kind = x.flat.dtype.type
    recorded = winner.size > 0
    layout, row_phases, column_phases = windows_layout(y, windows, workers)
    pitch, ld = layout.pitch, layout.ld
    step = row_phases * ld
    lowered = np.empty(column_phases * step + pitch - Q, x.flat.dtype)
    across = np.empty(step, x.flat.dtype)  # the maxima along the rows
    best = np.empty(ld, x.flat.dtype)
    if recorded:
        zeros = np.zeros(lowered.size, winner.dtype)
        across_winner = np.empty(step, winner.dtype)
        best_winner = np.empty(best.size, winner.dtype)
    else:
        zeros = across_winner = best_winner = winner
    fill(lowered, column_phases * step, pitch - Q, kind(0))
    columns, rows = Taps(S, stride[1], step, 1, 1), Taps(R, stride[0], ld, pitch, S)

    begin, end = share(layout.groups * layout.pieces, worker, workers)
    for task in range(begin, end):
        group = group_of(task, layout, P, y.N * y.C)
        within = lower_group(x, group, windows, layout, kind(-np.inf), lowered)
        count = step - ld + within
        along(lowered, zeros, columns, across[:count], across_winner[:count])
        if recorded:  # where all pixels are -inf, the first of them and not the padding
            for q in range(min(pad[1], Q)):
                inside_from = pad[1] - q * stride[1]
                for row in range(count // pitch):
                    at = row * pitch + q
                    across_winner[at] = max(across_winner[at], inside_from)
        count = plane_start(layout, group.planes - 1) + group.rows * pitch
        along(across, across_winner, rows, best[:count], best_winner[:count])
        for i in range(group.planes):
            at = plane_start(layout, i)
            place, size = group.row * Q, group.rows * Q
            copy_rows(best, at, pitch, plane(y, group.plane + i)[place : place + size], Q)
            if recorded:
                place += (group.plane + i) * P * Q
                copy_rows(best_winner, at, pitch, winner[place : place + size], Q)
                for p in range(min(group.rows, pad[0])):
                    outside = (pad[0] - (group.row + p) * stride[0]) * S
                    if outside > 0:
                        for q in range(place + p * Q, place + (p + 1) * Q):
                            if winner[q] < outside:
                                winner[q] = winner[q] + outside


@parallel
def max_pool_grad(worker, workers, dy, winner, dx, windows, add):
    """Write the gradient of :func:`max_pool` with respect to `x` to `dx`, or add it there.

    Each window gives its gradient to its winner.  That is faster than to ask for each pixel which
    windows it has won, though that would be vector code.  Parameters are those of :func:`max_pool`.
    """
    dy, winner, dx = bare_images(dy), bare(winner), bare_images(dx)
    (R, S), stride, pad = windows
    one = np.uint64(1)
    zero = dy.flat.dtype.type(0)
    sums = np.empty(dx.H * dx.W if is_half(dx.flat) else 0, dy.flat.dtype)
    places = np.empty(R * S, np.int64)  # of the taps in the plane, so that nothing is divided
    for tap in range(R * S):
        places[tap] = tap // S * dx.W + tap % S
    begin, end = share(dx.N * dx.C, worker, workers)
    for number in range(begin, end):
        pixels, source = plane(dx, number), plane(dy, number)
        target = numbers(pixels, sums)  # sums are rounded once
        if is_half(pixels) or not add:
            fill(target, 0, target.size, zero)
        # Unsigned: for a signed index numba tests whether it counts from the end.
        window, at = np.uint64(0), np.uint64(number * dy.H * dy.W)
        for p in range(dy.H):
            first = (p * stride[0] - pad[0]) * dx.W - pad[1]
            for q in range(dy.W):
                place = np.uint64(first + q * stride[1] + places[np.uint64(winner[at])])
                target[place] += source[window]
                window += one
                at += one
        if is_half(pixels):
            for i in range(pixels.size):
                pixels[i] = pixels[i] + target[i] if add else target[i]
