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
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lowerconv.codegen.compiled import internal
from lowerconv.codegen.masked import LANES, put, put_pairs, read, read_pairs
from lowerconv.codegen.ranges import inside
from lowerconv.ops.images import plane

SCRATCH = 6144  # items of a group of windows: what is read and written again stays in the L1 cache


class Windows(NamedTuple):
    """The windows of pooling, rows first.  Each window has a pixel inside the image."""

    size: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int]


class Rows(NamedTuple):
    """Rows ``first, first + step, ...`` of a plane of H rows; those outside it are padding."""

    plane: np.ndarray  # flat
    H: int
    W: int
    first: int
    step: int
    rows: int


class Phases(NamedTuple):
    """Where phases lie: row i of phase (b, a) at ``at + b * ld_b + a * ld_a + i * pitch``."""

    flat: np.ndarray
    at: int
    pitch: int
    ld_b: int  # from one phase of the rows to the next
    ld_a: int  # from one phase of the columns to the next


class Layout(NamedTuple):
    """How windows are grouped, and how the groups' phases lie in scratch memory."""

    band: int  # rows of windows of a plane that are done together
    together: int  # planes that are
    pieces: int  # bands of a plane
    groups: int  # of planes
    extra: int  # rows of a phase beside those of the band
    pitch: int  # items from one row of a phase to the next
    ld: int  # items of a phase of the rows: those of all planes of a group


class Group(NamedTuple):
    """What is one task: rows ``row : row + rows`` of the windows of some planes."""

    plane: int
    planes: int
    row: int
    rows: int


@internal
def layout_of(rows, planes, pitch, extra, phases, workers):
    """Return the layout for planes of `rows` rows of windows; a row takes `phases` of the scratch.

    A group is rows of one plane where a plane is more than the scratch holds, else whole planes.
    """
    items_of_row = pitch * phases
    room = max(1, SCRATCH // max(1, items_of_row) - extra)
    if room < rows:
        pieces = (rows + room - 1) // room
        band, together, groups = (rows + pieces - 1) // pieces, 1, planes
    else:
        pieces, band = 1, rows
        fitting = max(1, SCRATCH // max(1, items_of_row * (rows + extra)))
        together = max(1, min(fitting, planes // (4 * workers)))
        groups = (planes + together - 1) // together
    ld = (band + extra) * together * pitch
    return Layout(band, together, pieces, groups, extra, pitch, ld)


@internal
def group_of(task, layout, rows, planes):
    """Return the group of a task; the array has `planes` planes of `rows` rows of windows."""
    first, row = task // layout.pieces * layout.together, task % layout.pieces * layout.band
    return Group(first, min(layout.together, planes - first), row, min(layout.band, rows - row))


@internal
def plane_start(layout, i):
    """Return where the rows of a group's plane begin in each phase."""
    return i * (layout.band + layout.extra) * layout.pitch


@internal
def windows_layout(y, windows, workers):
    """Return the layout of the windows whose results are in `y`, and the phases of both axes."""
    size, stride, _ = windows
    b, a = min(size[0], stride[0]), min(size[1], stride[1])
    pitch, extra = y.W + (size[1] - 1) // stride[1], (size[0] - 1) // stride[0]
    return layout_of(y.H, y.N * y.C, pitch, extra, (a + 1) * b + 1, workers), b, a


@internal
def lower_group(x, group, windows, layout, value, lowered):
    """Write the pixels under a group's windows to their phases, `value` as padding.

    Returns
    -------
    within : int
        Items of each phase of the rows that have been written.
    """
    size, stride, pad = windows
    ld_a = min(size[0], stride[0]) * layout.ld
    first, count = group.row * stride[0] - pad[0], (group.rows - 1) * stride[0] + size[0]
    for i in range(group.planes):
        rows = Rows(plane(x, group.plane + i), x.H, x.W, first, 1, count)
        to = Phases(lowered, plane_start(layout, i), layout.pitch, layout.ld, ld_a)
        lower_rows(rows, windows, value, to)
    return plane_start(layout, group.planes)


@internal
def fill(target, at, count, value):
    """Set ``target[at : at + count]``."""
    target = target[at : at + count]
    for i in range(target.size):
        target[i] = value


@internal
def copy_rows(source, start, pitch, target, width):
    """Copy rows of `width` items, `pitch` items apart from `start` on, to `target` without gaps."""
    rows, nothing = target.size // width, source.dtype.type(0)
    for j in range(0, width, LANES):
        for i in range(rows):
            place = start + i * pitch + j
            read(source, place, 0, LANES, nothing, target, i * width + j, width - j)


# One function for each kind of stride: within a loop over rows they would cost each other time.
# The vectors of a column come first, because their masks are the same in all rows.


@internal
def _lower_1(rows, pad, value, to):
    plane, H, W, first, step, count = rows
    for j in range(0, to.pitch, LANES):
        for i in range(count):
            h = first + i * step
            last = W + pad - j if 0 <= h < H else 0  # a row outside is all padding
            at = to.at + i * to.pitch + j
            read(plane, h * W + j - pad, pad - j, last, value, to.flat, at, to.pitch - j)


@internal
def _lower_2(rows, pad, value, to):
    plane, H, W, first, step, count = rows
    for j in range(0, to.pitch, LANES):
        for i in range(count):
            h, w = first + i * step, 2 * j - pad
            last = W - w if 0 <= h < H else 0
            at = to.at + i * to.pitch + j
            read_pairs(plane, h * W + w, -w, last, value, to.flat, at, at + to.ld_a, to.pitch - j)


@internal
def _lower_any(rows, stride, phases, pad, value, to):
    plane, H, W, first, step, count = rows
    out, pitch = to.flat, to.pitch
    for a in range(phases):
        lo, hi = inside(W, a - pad, stride, pitch)
        for i in range(count):
            h, at = first + i * step, to.at + a * to.ld_a + i * pitch
            if 0 <= h < H:
                fill(out, at, lo, value)
                place = np.uint64(h * W + lo * stride + a - pad)
                for j in range(at + lo, at + hi):
                    out[np.uint64(j)] = plane[place]
                    place += np.uint64(stride)
                fill(out, at + hi, pitch - hi, value)
            else:
                fill(out, at, pitch, value)


@internal
def lower_rows(rows, windows, value, to):
    """Write rows that follow each other to their phases, `value` as padding.

    Row ``j`` of them is row ``j // stride`` of phase ``j % stride``.
    """
    size, stride, pad = windows
    plane, H, W, first, _, total = rows
    phases = min(size[1], stride[1])
    for b in range(min(size[0], stride[0])):
        count = total
        if stride[0] > 1:
            count = (total - b + stride[0] - 1) // stride[0]
        part = Rows(plane, H, W, first + b, stride[0], count)
        target = Phases(to.flat, to.at + b * to.ld_b, to.pitch, 0, to.ld_a)
        if stride[1] == 1:
            _lower_1(part, pad[1], value, target)
        elif stride[1] == 2 and phases == 2:
            _lower_2(part, pad[1], value, target)
        else:
            _lower_any(part, stride[1], phases, pad[1], value, target)


@internal
def _raise_1(source, rows, pad, add):
    plane, H, W, first, step, count = rows
    for j in range(0, W + pad, LANES):
        for i in range(count):
            h, w = first + i * step, j - pad
            if 0 <= h < H:
                at = source.at + i * source.pitch + j
                put(source.flat, at, plane, h * W + w, -w, W - w, add)


@internal
def _raise_2(source, rows, pad, add):
    plane, H, W, first, step, count = rows
    for j in range(0, (W + pad + 1) >> 1, LANES):
        for i in range(count):
            h, w = first + i * step, 2 * j - pad
            if 0 <= h < H:
                at = source.at + i * source.pitch + j
                put_pairs(source.flat, at, at + source.ld_a, plane, h * W + w, -w, W - w, add)


@internal
def _raise_any(source, phases, rows, stride, pad, add):
    plane, H, W, first, step, count = rows
    values = source.flat
    for a in range(stride):
        lo, hi = inside(W, a - pad, stride, source.pitch)
        for i in range(count):
            h = first + i * step
            if 0 <= h < H:
                place = np.uint64(h * W + lo * stride + a - pad)
                row = source.at + a * source.ld_a + i * source.pitch
                for j in range(row + lo, row + hi):
                    part = values[np.uint64(j)] if a < phases else plane.dtype.type(0)
                    plane[place] = plane[place] + part if add else part
                    place += np.uint64(stride)


@internal
def raise_rows(source, phases, rows, stride, pad, add):
    """Write rows from their phases along the row, or add them to what is there.

    Phases from `phases` on are zero.  Rows outside of the plane are left out.
    """
    if stride == 1 and phases == 1:
        _raise_1(source, rows, pad, add)
    elif stride == 2 and phases == 2:
        _raise_2(source, rows, pad, add)
    else:
        _raise_any(source, phases, rows, stride, pad, add)
