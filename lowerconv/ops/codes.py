"""What integer networks do with 8-bit codes beside convolutions: item by item, and over windows.

Kernels take `Images` of the bytes of words, as `quantize.bytes_of` makes them: four bytes for each
pixel of a row, one of each channel of the word.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lowerconv.codegen.compiled import internal
from lowerconv.codegen.masked import bare
from lowerconv.codegen.ranges import share
from lowerconv.ops.images import bare_images, piece, pieces_of, plane
from lowerconv.ops.quantize import CHANNELS
from lowerconv.runtime.launch import parallel

BAND = 4096  # words of rows that are done together: they stay in the L1 cache


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
def _rounded(x, rounding):
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
            target[i] = kind(np.int32(_rounded(left + right, rounding)))


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
def _copy(source, target):
    for i in range(target.size):
        target[i] = source[i]


@internal
def _keep(source, best):
    for i in range(best.size):
        q, most = source[i], best[i]
        best[i] = q if q > most else most


@internal
def _three(a, b, c, best):
    """``best[i] = max(a[i], b[i], c[i])``."""
    for i in range(best.size):
        first, second, third = a[i], b[i], c[i]
        first = second if second > first else first
        best[i] = third if third > first else first


@internal
def _largest(source, step, count, best):
    """Keep the largest codes of `count` runs of a flat array, that begin `step` bytes apart."""
    size = best.size
    if count >= 3:
        _three(source[:size], source[step : step + size], source[2 * step : 2 * step + size], best)
    else:
        _copy(source[:size], best)
    for number in range(3 if count >= 3 else 1, count):
        _keep(source[number * step : number * step + size], best)


@internal
def _rows(p, stride, pad, extent, size):
    """Return the first and the last row that a window meets, as a range."""
    first = p * stride - pad
    return max(0, first), max(0, min(extent, first + size))


@internal
def _sort(words, phases, target):
    """Write the words 0, `phases`, ..., then 1, ``1 + phases``, ..., and so on."""
    count = target.size // phases
    for f in range(phases):
        row = target[f * count : (f + 1) * count]
        if phases == 2:  # known to the compiler, which makes vector code of it
            for i in range(count):
                row[i] = words[2 * i + f]
        else:
            for i in range(count):
                row[i] = words[phases * i + f]


@parallel
def max_pool_codes(worker, workers, x, y, windows):
    """Write the largest code of each window.

    A band of rows at a time: first the maxima along columns, of whole rows of bytes, with a margin
    for padding.  Then words are sorted by the phase of the stride along rows, so that neighbouring
    windows are compared with neighbours, all rows of the band at once::

        sorted   | phase 0 of row 0 | phase 0 of row 1 | ... | phase 1 of row 0 | ...

    Parameters
    ----------
    x, y : Images
        Of bytes.
    windows : Windows
        Each with a pixel that is no padding.
    """
    x, y = bare_images(x), bare_images(y)
    (R, S), (down, right), (top, left) = windows
    W, Q = x.W // CHANNELS, y.W // CHANNELS
    kind = y.flat.dtype.type
    lowest = kind(-128) if kind(-1) < kind(0) else kind(0)
    run = (max((Q - 1) * right + S, left + W) + right - 1) // right  # of a phase, in words
    pitch = run * right
    band = min(y.H, max(1, BAND // pitch))
    bands = (y.H + band - 1) // band
    phase = band * run + S
    # Each held, and used without its owner: slices of it would count up and down.
    held = np.empty(band * pitch + right * S, np.uint32)
    held_in_phases = np.empty(phase * right, np.uint32)
    held_best = np.empty(band * run, np.uint32)
    words, in_phases = bare(held), bare(held_in_phases)
    across, best = words.view(y.flat.dtype), bare(held_best).view(y.flat.dtype)
    ordered = in_phases.view(y.flat.dtype) if right > 1 else across
    for i in range(across.size):
        across[i] = lowest
    first, last = share(y.N * y.C * bands, worker, workers)
    for task in range(first, last):
        source, target = plane(x, task // bands), plane(y, task // bands)
        top_row = task % bands * band
        rows = min(band, y.H - top_row)
        for p in range(rows):
            begin, end = _rows(top_row + p, down, top, x.H, R)
            at = CHANNELS * (p * pitch + left)
            _largest(source[begin * x.W :], x.W, end - begin, across[at : at + x.W])
        if right > 1:
            _sort(words, right, in_phases)
        part = best[: CHANNELS * ((rows - 1) * run + Q)]
        if right == 1:
            _largest(ordered, CHANNELS, S, part)
        else:
            for s in range(S):
                at = CHANNELS * (s % right * phase + s // right)
                taps = ordered[at : at + part.size]
                if s == 0:
                    _copy(taps, part)
                else:
                    _keep(taps, part)
        for p in range(rows):
            at = CHANNELS * p * run
            _copy(part[at : at + y.W], target[(top_row + p) * y.W : (top_row + p + 1) * y.W])
    held[0] = held_in_phases[0] = held_best[0] = 0  # until here


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
                target[CHANNELS * q + c] = kind(np.int32(_rounded(value, rounding)))


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
