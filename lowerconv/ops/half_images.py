"""Images of 16-bit numbers to words of two channels, as integers of 16 and 32 bits."""

from __future__ import annotations

import numpy as np

from lowerconv.codegen.compiled import internal
from lowerconv.codegen.masked import bare
from lowerconv.codegen.ranges import share
from lowerconv.ops.images import PIECE, Images
from lowerconv.runtime.launch import parallel

_16 = np.uint32(16)


@internal
def _codes(x):
    """Return `Images` of a plain tuple: of integers, where `images.bare_images` reads numbers."""
    flat, step, N, C, H, W = x
    return Images(bare(flat), step, N, C, H, W)


@parallel
def join_halves(worker, workers, x, y):
    """Write channels 2c and 2c + 1 of every pixel as word c, the first one in the lower half.

    A last channel that has no other is joined with zeros.

    Parameters
    ----------
    x, y : Images
        Of uint16, and of uint32, (N, ceil(C / 2), H, W).
    """
    x, y = _codes(x), _codes(y)
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
def _join(one, two, paired, target):
    if paired:
        for i in range(target.size):
            target[i] = np.uint32(one[i]) | np.uint32(np.uint32(two[i]) << _16)
    else:
        for i in range(target.size):
            target[i] = one[i]


@internal
def _join_pixels(channels, words, C):
    """Join the channels of one pixel."""
    for i in range(C // 2):
        words[i] = np.uint32(channels[2 * i]) | np.uint32(np.uint32(channels[2 * i + 1]) << _16)
    if C % 2:
        words[C // 2] = channels[C - 1]
