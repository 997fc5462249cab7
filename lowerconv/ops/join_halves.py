"""Words of two numbers of bf16: neighbouring channels, or two images, joined pixel by pixel.

Both halves of a word are neighbours in what is summed over: the first one is the lower half.  A
last one that has no other is joined with zeros.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from lowerconv.codegen.compiled import internal
from lowerconv.codegen.half_arrays import address, conversion, converters
from lowerconv.codegen.masked import bare
from lowerconv.codegen.ranges import share
from lowerconv.codegen.signatures import JoinTaps
from lowerconv.ops.images import PIECE, Images, piece_bounds, pieces_of
from lowerconv.runtime.launch import call, parallel

_16 = np.uint32(16)
_rounded, _ = converters(conversion("bf16"))


def _code(number):
    """Return the code of a number, or the code that is given."""


@overload(_code)
def _code_of(number):
    if number == types.float32:
        return lambda number: np.uint32(_rounded(number))
    return lambda number: np.uint32(number)


@internal
def _stored(x):
    """Return `Images` of a plain tuple: of integers, where `images.bare_images` reads numbers."""
    flat, step, N, C, H, W = x
    return Images(bare(flat), step, N, C, H, W)


@internal
def _join(one, two, paired, target):
    if paired:
        for i in range(target.size):
            target[i] = _code(one[i]) | np.uint32(_code(two[i]) << _16)
    else:
        for i in range(target.size):
            target[i] = _code(one[i])


@parallel
def join_channels(worker, workers, x, y):
    """Write channels 2c and 2c + 1 of every pixel as word c.

    Parameters
    ----------
    x, y : Images
        Of uint16, or of float32, which is rounded; and of uint32, (N, ceil(C / 2), H, W).
    """
    x, y = _stored(x), _stored(y)
    size = y.H * y.W
    if size == 1:
        first, last = share(y.N, worker, workers)
        for n in range(first, last):
            _join_pixels(x.flat[n * x.step : n * x.step + x.C], y.flat[n * y.step :], x.C)
        return
    pieces = (size + PIECE - 1) // PIECE
    first, last = share(y.N * y.C * pieces, worker, workers)
    for task in range(first, last):
        number, part = task // pieces, task % pieces
        n, c = number // y.C, number % y.C
        begin, end = part * PIECE, min(part * PIECE + PIECE, size)
        target = y.flat[n * y.step + c * size + begin : n * y.step + c * size + end]
        at = n * x.step + 2 * c * size
        _join(x.flat[at + begin : at + end], x.flat[at + size + begin :], 2 * c + 1 < x.C, target)


@internal
def _join_pixels(channels, words, C):
    """Join the channels of one pixel."""
    for i in range(C // 2):
        words[i] = _code(channels[2 * i]) | np.uint32(_code(channels[2 * i + 1]) << _16)
    if C % 2:
        words[C // 2] = _code(channels[C - 1])


@parallel
def join_filters(worker, workers, x, y, join):
    """Write channels 2c and 2c + 1 of every tap as word c, rounded.

    Parameters
    ----------
    x, y : Images
        Filters of float32; of uint32, (K, ceil(C / 2), R, S).
    join : int
        Address of `codegen.joining`.
    """
    x, y = _stored(x), _stored(y)
    first, last = share(y.N, worker, workers)
    for n in range(first, last):
        source, target = address(x.flat) + 4 * n * x.step, address(y.flat) + 4 * n * y.step
        call(join, JoinTaps(source, np.int64(x.C), np.int64(x.H * x.W), target))


@parallel
def join_images(worker, workers, x, y):
    """Write images 2n and 2n + 1 as image n of words.

    Parameters
    ----------
    x, y : Images
        Of uint16, and of uint32, (ceil(N / 2), C, H, W).
    """
    x, y = _stored(x), _stored(y)
    pieces = pieces_of(y)
    first, last = share(y.N * pieces, worker, workers)
    for task in range(first, last):
        n, begin, end = piece_bounds(y, task, pieces)
        at, paired = 2 * n * x.step, 2 * n + 1 < x.N
        other = at + x.step if paired else at
        target = y.flat[n * y.step + begin : n * y.step + end]
        _join(x.flat[at + begin : at + end], x.flat[other + begin : other + end], paired, target)
