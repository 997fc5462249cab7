"""Local response normalisation of 8-bit codes: a quarter of the memory traffic of float32.

The arithmetic is that of `response_norm`, of float32: the codes of a block of pixels become
numbers, four channels at a time, in rows that stay in the L1 cache; results become codes again.
"""

from __future__ import annotations

import numpy as np

from lowerconv.codegen.compiled import internal, njit
from lowerconv.codegen.masked import bare
from lowerconv.codegen.ranges import share
from lowerconv.ops.codes import Rounding, Scaled, images_of_words, rounded
from lowerconv.ops.images import bare_images, plane
from lowerconv.ops.quantize import CHANNELS
from lowerconv.ops.response_norm import (
    BLOCK,
    Rows,
    Window,
    blocks_of,
    inverse_power,
    multiply,
    row_of,
    window_scale,
)
from lowerconv.runtime.launch import run_on_team


@internal
def _numbers(words, channel, signed, scaled, numbers):
    """Write the numbers that the codes of a channel of words stand for."""
    zero, scale = scaled
    shift, flip = np.uint32(8 * channel), np.int32(128 if signed else 0)
    for i in range(numbers.size):
        code = np.int32((words[i] >> shift) & np.uint32(255))
        numbers[i] = (np.float32((code ^ flip) - flip) - zero) * scale


@internal
def _put(numbers, step, channel, rounding, words):
    """Write the codes of numbers into a channel of words; the first clears the others."""
    shift = np.uint32(8 * channel)
    if channel == 0:
        for i in range(words.size):
            code = np.int32(rounded(step * numbers[i], rounding))
            words[i] = np.uint32(code) & np.uint32(255)
    else:
        for i in range(words.size):
            code = np.int32(rounded(step * numbers[i], rounding))
            words[i] |= (np.uint32(code) & np.uint32(255)) << shift


@internal
def _kept(size):
    """Return how many rows of numbers there are at a time: a window, and the words at its end."""
    return size + CHANNELS


@internal
def _response_norm_codes(worker, workers, scratch, x, y, window, channels, scaled, rounding):
    source, target = images_of_words(x), images_of_words(y)
    kind = x.flat.dtype.type
    signed = kind(-1) < kind(0)
    zero, scale, step = scaled
    size, pixels = window.size, source.H * source.W
    after, kept = (size - 1) // 2, _kept(size)
    mine = bare(scratch)[(4 + kept) * BLOCK * worker : (4 + kept) * BLOCK * (worker + 1)]
    mine[3 * BLOCK : 4 * BLOCK] = 0
    pieces = blocks_of(x.N, pixels, workers)
    begin, end = share(x.N * pieces, worker, workers)
    for task in range(begin, end):
        n = task // pieces
        first, last = share(pixels, task % pieces, pieces)
        count = last - first
        total, power = mine[:count], mine[BLOCK : BLOCK + count]
        result = mine[2 * BLOCK : 2 * BLOCK + count]
        zeros = mine[3 * BLOCK : 3 * BLOCK + count]
        rows = Rows(mine, 4 * BLOCK, BLOCK, kept, zeros)
        known = 0  # channels whose numbers are there
        for c in range(channels):
            while known < min(channels, c + after + 1):
                words = plane(source, n * source.C + known // CHANNELS)[first:last]
                for i in range(min(CHANNELS, channels - known)):
                    _numbers(words, i, signed, (zero, scale), row_of(rows, known + i))
                known += CHANNELS
            window_scale(rows, c, channels, window, total)
            inverse_power(total, window, power)
            multiply(row_of(rows, c), power, result)
            words = plane(target, n * target.C + c // CHANNELS)[first:last]
            _put(result, step, c % CHANNELS, rounding, words)


@njit(cache=True, nogil=True)
def response_norm_codes(team, x, y, window, channels, scaled, step, rounding):
    """Write the codes of ``v / (k + alpha / size * sum(v ** 2)) ** beta`` for numbers v of codes.

    Parameters
    ----------
    x, y : Images
        Of bytes; not the same memory.
    window : Window
    channels : int
        The last word may have more: their codes are 0.
    scaled : Scaled
        How codes of `x` become numbers.
    step : float32
        How many codes of `y` a number of 1 takes.
    rounding : Rounding
    """
    x, y, window = bare_images(x), bare_images(y), Window(*window)
    scratch = np.empty((4 + _kept(window.size)) * BLOCK * team.threads, np.float32)
    zero, scale = Scaled(*scaled)
    more = (zero, scale, step), Rounding(*rounding)
    run_on_team(team, _response_norm_codes, (scratch, x, y, window, channels, *more))
