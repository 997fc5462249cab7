"""What integer networks do with 8-bit codes beside convolutions: item by item, and over windows.

Kernels take `Images` of the bytes of words, as `quantize.bytes_of` makes them: four bytes for each
pixel of a row, one of each channel of the word.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lowerconv.codegen.compiled import internal
from lowerconv.codegen.ranges import share
from lowerconv.ops.images import Images, bare_images, piece, pieces_of, plane
from lowerconv.ops.max_pool import Taps, along
from lowerconv.ops.quantize import CHANNELS
from lowerconv.ops.windows import (
    copy_rows,
    fill,
    group_of,
    lower_group,
    plane_start,
    windows_layout,
)
from lowerconv.runtime.launch import parallel


class Scaled(NamedTuple):
    """How codes become a part of a sum: ``(q - zero) * scale``, in float32."""

    zero: np.float32
    scale: np.float32


class Rounding(NamedTuple):
    """How a sum becomes a code: ``clip(round(x) + zero, low, high)``, in float32; ties to even."""

    zero: np.float32
    low: np.float32
    high: np.float32


@internal
def rounded(x, rounding):
    """Return the code of a sum, as a float32."""
    zero, low, high = rounding
    q = np.rint(x) + zero
    q = q if q > low else low
    return q if q < high else high


@parallel
def add_codes(worker, workers, a, b, y, scales, rounding):
    """Write the codes of sums.

    Parameters
    ----------
    a, b, y : Images
        Of bytes.
    scales : (Scaled, Scaled)
        Of `a` and `b`, in steps of `y`.
    rounding : Rounding
    """
    a, b, y = bare_images(a), bare_images(b), bare_images(y)
    (a_zero, a_scale), (b_zero, b_scale) = scales
    kind = y.flat.dtype.type
    pieces = pieces_of(y)
    first, last = share(y.N * pieces, worker, workers)
    for task in range(first, last):
        one, two, target = piece(a, task, pieces), piece(b, task, pieces), piece(y, task, pieces)
        for i in range(target.size):
            left = (np.float32(one[i]) - a_zero) * a_scale
            right = (np.float32(two[i]) - b_zero) * b_scale
            target[i] = kind(np.int32(rounded(left + right, rounding)))


@parallel
def look_up_codes(worker, workers, x, y, table):
    """Write ``table[q]`` for each code, read without its sign; `table` has 256 codes."""
    x, y = bare_images(x), bare_images(y)
    pieces = pieces_of(y)
    first, last = share(y.N * pieces, worker, workers)
    for task in range(first, last):
        source, target = piece(x, task, pieces), piece(y, task, pieces)
        for i in range(target.size):
            target[i] = table[np.uint64(source[i])]


@internal
def images_of_words(x):
    """Return images of bytes as images of the words that these are."""
    return Images(x.flat.view(np.uint32), x.step // CHANNELS, x.N, x.C, x.H, x.W // CHANNELS)


@internal
def _rows(p, stride, pad, extent, size):
    """Return the first and the last row that a window meets, as a range."""
    first = p * stride - pad
    return max(0, first), max(0, min(extent, first + size))


@parallel
def max_pool_codes(worker, workers, x, y, windows):
    """Write the largest code of each window.

    As `max_pool.max_pool` does: words are moved to where the pixels under a tap of all windows are
    one flat range (`windows`), and the codes in them are compared along rows, then along columns.

    Parameters
    ----------
    x, y : Images
        Of bytes.
    windows : Windows
        Each with a pixel that is no padding.
    """
    x, y = bare_images(x), bare_images(y)
    (R, S), stride, _ = windows
    kind = y.flat.dtype.type
    lowest = np.uint32(0x80808080) if kind(-1) < kind(0) else np.uint32(0)
    source, target = images_of_words(x), images_of_words(y)
    P, Q = target.H, target.W
    layout, row_phases, column_phases = windows_layout(target, windows, workers)
    pitch, ld = layout.pitch, layout.ld
    step = row_phases * ld
    lowered = np.empty(column_phases * step + pitch - Q, np.uint32)
    across = np.empty(step, np.uint32)  # the maxima along the rows
    best = np.empty(ld, np.uint32)
    none = np.empty(0, np.uint8)  # nobody asks which tap wins
    fill(lowered, column_phases * step, pitch - Q, lowest)
    columns = Taps(S, stride[1], CHANNELS * step, CHANNELS, 0)
    rows = Taps(R, stride[0], CHANNELS * ld, CHANNELS * pitch, 0)
    dtype = y.flat.dtype
    begin, end = share(layout.groups * layout.pieces, worker, workers)
    for task in range(begin, end):
        group = group_of(task, layout, P, target.N * target.C)
        within = lower_group(source, group, windows, layout, lowest, lowered)
        count = step - ld + within
        along(lowered.view(dtype), none, columns, across[:count].view(dtype), none)
        count = plane_start(layout, group.planes - 1) + group.rows * pitch
        along(across.view(dtype), none, rows, best[:count].view(dtype), none)
        for i in range(group.planes):
            place, size = group.row * Q, group.rows * Q
            out = plane(target, group.plane + i)[place : place + size]
            copy_rows(best, plane_start(layout, i), pitch, out, Q)


@parallel
def avg_pool_codes(worker, workers, x, y, windows, include_pad, scaled, rounding):
    """Write the code of the mean of each window.

    Sums are integers; what they are multiplied with is ``scale / pixels``, rounded to float32.

    Parameters
    ----------
    x, y : Images
        Of bytes.
    windows : Windows
    include_pad : bool
        Whether padding counts, as zeros.
    scaled : Scaled
        Of `x`, in steps of `y`.
    rounding : Rounding
    """
    x, y = bare_images(x), bare_images(y)
    (R, S), (down, right), (top, left) = windows
    zero, scale = scaled
    W, Q = x.W // CHANNELS, y.W // CHANNELS
    kind = y.flat.dtype.type
    across = np.empty(x.W, np.int32)
    first, last = share(y.N * y.C * y.H, worker, workers)
    for task in range(first, last):
        number, p = task // y.H, task % y.H
        source = plane(x, number)
        begin, end = _rows(p, down, top, x.H, R)
        across[:] = 0
        for h in range(begin, end):
            row = source[h * x.W : (h + 1) * x.W]
            for i in range(across.size):
                across[i] += np.int32(row[i])
        # As PyTorch counts: padding, but not what lies beyond it.
        rows = min(p * down - top + R, x.H + top) - (p * down - top)
        target = plane(y, number)[p * y.W : (p + 1) * y.W]
        for q in range(Q):
            begin_w, end_w = _rows(q, right, left, W, S)
            inside = (end - begin) * (end_w - begin_w)
            count = inside
            if include_pad:
                count = rows * (min(q * right - left + S, W + left) - (q * right - left))
            factor = scale / np.float32(max(1, count))
            for c in range(CHANNELS):
                total = 0
                for w in range(begin_w, end_w):
                    total += across[CHANNELS * w + c]
                value = np.float32(total - np.int64(zero) * inside) * factor
                target[CHANNELS * q + c] = kind(np.int32(rounded(value, rounding)))


@parallel
def set_channels(worker, workers, x, y, channels, first_channel):
    """Copy channels of `x` to those of `y` that begin with some number, wherever in a word."""
    x, y = bare_images(x), bare_images(y)
    pixels = x.H * x.W // CHANNELS
    first, last = share(x.N * channels, worker, workers)
    for task in range(first, last):
        n, c = task // channels, task % channels
        d = first_channel + c
        source = x.flat[n * x.step + c // CHANNELS * x.H * x.W :]
        target = y.flat[n * y.step + d // CHANNELS * y.H * y.W :]
        for i in range(pixels):
            target[CHANNELS * i + d % CHANNELS] = source[CHANNELS * i + c % CHANNELS]
