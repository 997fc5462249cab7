"""What integer networks do with 8-bit codes beside convolutions: item by item, and over windows.

Kernels take `Images` of the bytes of words, as `quantize.bytes_of` makes them: four bytes for each
pixel of a row, one of each channel of the word.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lowerconv.codegen.compiled import internal
from lowerconv.codegen.ranges import share
from lowerconv.ops.images import bare_images, piece, pieces_of, plane
from lowerconv.ops.quantize import CHANNELS
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
    team : Handle
        From `threads.parallel_region`.
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
def _keep(source, best):
    for i in range(best.size):
        best[i] = max(best[i], source[i])


@internal
def _rows(p, stride, pad, extent, size):
    """Return the first and the last row that a window meets, as a range."""
    first = p * stride - pad
    return max(0, first), max(0, min(extent, first + size))


@parallel
def max_pool_codes(worker, workers, x, y, windows):
    """Write the largest code of each window.

    Along columns whole rows of bytes are compared; along rows words are sorted by the phase of the
    stride, so that again neighbours are compared with neighbours.

    Parameters
    ----------
    team : Handle
        From `threads.parallel_region`.
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
    width = max((Q - 1) * right + S, left + W)
    phase = Q + (S - 1) // right  # words
    across = np.empty(CHANNELS * width, y.flat.dtype)
    words = across.view(np.uint32)
    sorted_words = np.empty(phase * right, np.uint32)
    sorted_bytes = sorted_words.view(y.flat.dtype)
    across[:] = lowest
    first, last = share(y.N * y.C * y.H, worker, workers)
    for task in range(first, last):
        number, p = task // y.H, task % y.H
        source = plane(x, number)
        begin, end = _rows(p, down, top, x.H, R)
        inner = across[CHANNELS * left : CHANNELS * (left + W)]
        for i in range(inner.size):
            inner[i] = source[begin * x.W + i]
        for h in range(begin + 1, end):
            _keep(source[h * x.W : (h + 1) * x.W], inner)
        target = plane(y, number)[p * y.W : (p + 1) * y.W]
        if right > 1:
            for f in range(right):
                row = sorted_words[f * phase : (f + 1) * phase]
                for i in range(min(phase, (width - f + right - 1) // right)):
                    row[i] = words[f + i * right]
        for s in range(S):
            at = CHANNELS * (s % right * phase + s // right)
            taps = sorted_bytes[at : at + y.W] if right > 1 else across[4 * s : 4 * s + y.W]
            if s == 0:
                for i in range(target.size):
                    target[i] = taps[i]
            else:
                _keep(taps, target)


@parallel
def avg_pool_codes(worker, workers, x, y, windows, include_pad, scaled, rounding):
    """Write the code of the mean of each window.

    Sums are integers; what they are multiplied with is ``scale / pixels``, rounded to float32.

    Parameters
    ----------
    team : Handle
        From `threads.parallel_region`.
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
