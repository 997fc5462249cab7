r"""Planes cut into phases, so that the pixels under one tap of all windows are one flat range.

A window of pooling reads pixel ``p * stride + r - pad`` along an axis.  Pixels are copied to a
scratch buffer by their *phase*, the remainder of ``r`` by the stride, the padding written out::

    row, pad 1, stride 2:      . x0 x1 x2 x3 x4 .          (a point is padding)
    phase 0 (taps 0 and 2):    .  x1 x3 .                  tap 0 at q, tap 2 at q + 1
    phase 1 (tap 1):           x0 x2 x4                    tap 1 at q

The rows of all phases have one pitch, and so tap (r, s) of window ``i = p * pitch + q`` is at ``i``
plus a constant: one loop over all windows of a plane, or of several small planes stacked, is vector
code however short their rows are.  The few places between the rows are computed and not used.

The gradients go the other way: the windows are written out with zeros around them, and what each
phase of the image gets is a sum of shifted flat ranges of them.

An image tensor is a flat array that begins at its first item, and a step from one image to the
next: a slice of the channels of a larger tensor is one too.
"""

import numpy as np

from lowerconv.codegen.compiled import njit
from lowerconv.codegen.masked import LANES, put, put_pairs, read, read_pairs
from lowerconv.codegen.ranges import inside

SCRATCH = 6144  # items of a group of windows: what is read and written again stays in the L1 cache


@njit(cache=True, nogil=True)
def plane_at(image, step, plane, channels, pixels):
    """Return plane number `plane` of an image tensor, flat."""
    at = plane // channels * step + plane % channels * pixels
    return image[at : at + pixels]


@njit(cache=True, nogil=True)
def grouping(rows, items_of_row, extra_rows, planes, workers):
    """Return how many rows of how many planes are done together, and the groups of each kind.

    Rows of one plane where a plane is more than the scratch holds, else some whole planes.
    """
    room = max(1, SCRATCH // max(1, items_of_row) - extra_rows)
    if room < rows:
        pieces = (rows + room - 1) // room
        return (rows + pieces - 1) // pieces, 1, pieces, planes
    fitting = max(1, SCRATCH // max(1, items_of_row * (rows + extra_rows)))
    together = max(1, min(fitting, planes // (4 * workers)))
    return rows, together, 1, (planes + together - 1) // together


@njit(cache=True, nogil=True)
def fill(target, at, count, value):
    """Set ``target[at : at + count]``."""
    target = target[at : at + count]
    for i in range(target.size):
        target[i] = value


@njit(cache=True, nogil=True)
def copy_rows(source, start, pitch, target, at, width, rows):
    """Copy rows of `width` items that begin `pitch` items apart to rows without gaps."""
    nothing = source.dtype.type(0)
    for j in range(0, width, LANES):
        for i in range(rows):
            place = start + i * pitch + j
            read(source, place, 0, LANES, nothing, target, at + i * width + j, width - j)


# One function for each kind of stride: within a loop over rows they would cost each other time.
# The vectors of a column come first, because their masks are the same in all rows.


@njit(cache=True, nogil=True)
def _lower_1(plane, H, W, first, step, rows, pad, pitch, value, out, at):
    for j in range(0, pitch, LANES):
        for i in range(rows):
            h = first + i * step
            last = W + pad - j if 0 <= h < H else 0  # a row outside is all padding
            to = at + i * pitch + j
            read(plane, h * W + j - pad, pad - j, last, value, out, to, pitch - j)


@njit(cache=True, nogil=True)
def _lower_2(plane, H, W, first, step, rows, pad, pitch, value, by, out, at):
    for j in range(0, pitch, LANES):
        for i in range(rows):
            h, w = first + i * step, 2 * j - pad
            last = W - w if 0 <= h < H else 0
            to = at + i * pitch + j
            read_pairs(plane, h * W + w, -w, last, value, out, to, to + by, pitch - j)


@njit(cache=True, nogil=True)
def _lower_any(plane, H, W, first, step, rows, stride, phases, pad, pitch, value, by, out, at):
    for a in range(phases):
        lo, hi = inside(W, a - pad, stride, pitch)
        for i in range(rows):
            h, to = first + i * step, at + a * by + i * pitch
            if 0 <= h < H:
                fill(out, to, lo, value)
                place = np.uint64(h * W + lo * stride + a - pad)
                for j in range(to + lo, to + hi):
                    out[np.uint64(j)] = plane[place]
                    place += np.uint64(stride)
                fill(out, to + hi, pitch - hi, value)
            else:
                fill(out, to, pitch, value)


@njit(cache=True, nogil=True)
def lower_rows(plane, H, W, first, rows, size, stride, pad, pitch, between, by, value, out, at):
    """Write image rows ``first : first + rows`` to their phases in `out`, `value` as padding.

    Row ``j`` of them, phase ``(b, a)``, goes to
    ``out[at + a * by + (b * between + j // stride) * pitch:]`` where ``b = j % stride``.
    """
    phases = min(size[1], stride[1])
    for b in range(min(size[0], stride[0])):
        to = at + b * between * pitch
        h, count = first + b, rows
        if stride[0] > 1:
            count = (rows - b + stride[0] - 1) // stride[0]
        if stride[1] == 1:
            _lower_1(plane, H, W, h, stride[0], count, pad, pitch, value, out, to)
        elif stride[1] == 2 and phases == 2:
            _lower_2(plane, H, W, h, stride[0], count, pad, pitch, value, by, out, to)
        else:
            _lower_any(
                plane, H, W, h, stride[0], count, stride[1], phases, pad, pitch, value, by, out, to
            )


@njit(cache=True, nogil=True)
def _raise_1(source, at, pitch, plane, H, W, first, step, rows, pad, add):
    for j in range(0, W + pad, LANES):
        for i in range(rows):
            h, w = first + i * step, j - pad
            if 0 <= h < H:
                put(source, at + i * pitch + j, plane, h * W + w, -w, W - w, add)


@njit(cache=True, nogil=True)
def _raise_2(source, at, by, pitch, plane, H, W, first, step, rows, pad, add):
    for j in range(0, (W + pad + 1) >> 1, LANES):
        for i in range(rows):
            h, w = first + i * step, 2 * j - pad
            if 0 <= h < H:
                place = at + i * pitch + j
                put_pairs(source, place, place + by, plane, h * W + w, -w, W - w, add)


@njit(cache=True, nogil=True)
def _raise_any(source, at, by, phases, pitch, plane, H, W, first, step, rows, stride, pad, add):
    for a in range(stride):
        lo, hi = inside(W, a - pad, stride, pitch)
        for i in range(rows):
            h = first + i * step
            if 0 <= h < H:
                place = np.uint64(h * W + lo * stride + a - pad)
                row = at + a * by + i * pitch
                for j in range(row + lo, row + hi):
                    part = source[np.uint64(j)] if a < phases else plane.dtype.type(0)
                    plane[place] = plane[place] + part if add else part
                    place += np.uint64(stride)


@njit(cache=True, nogil=True)
def raise_rows(source, at, by, phases, pitch, plane, H, W, first, rows, stride, pad, add):
    """Write image rows `first` and every `stride`-th after it, `rows` in all, from their phases.

    Phase ``a`` of row ``i`` begins at ``source[at + a * by + i * pitch]``; those from `phases` on
    are zero.  They are added to what is in `plane` where so said.  Rows outside are left out.
    """
    step = stride[0]
    if stride[1] == 1 and phases == 1:
        _raise_1(source, at, pitch, plane, H, W, first, step, rows, pad, add)
    elif stride[1] == 2 and phases == 2:
        _raise_2(source, at, by, pitch, plane, H, W, first, step, rows, pad, add)
    else:
        _raise_any(
            source, at, by, phases, pitch, plane, H, W, first, step, rows, stride[1], pad, add
        )
