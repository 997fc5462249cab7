"""Numbers to 8-bit codes and back, in words of four channels.

A code q stands for the number ``(q - zero_point) * scale``.  Codes of images lie in words of 32
bits, (N, ceil(C/4), H, W): four channels of a pixel, the first one in the lowest bits.  Bytes of
channels that an image has not are 0.

::

    q = clip(round(x / scale) + zero_point, low, high)      ties to even; NaN becomes `low`

as ONNX's QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

import numpy as np

from lowerconv.codegen.compiled import internal
from lowerconv.codegen.ranges import share
from lowerconv.ops.images import Images, bare_images
from lowerconv.runtime.launch import parallel

PIECE = 4096  # pixels of a plane that are one task: small images have few planes of words
CHANNELS = 4  # of a word


@internal
def _pieces(x):
    """Return into how many pieces the planes of some images are cut, and their pixels."""
    pixels = x.H * x.W
    count = max(1, (pixels + PIECE - 1) // PIECE)
    return count, (pixels + count - 1) // count


@internal
def _place(words, task, pieces, size):
    """Return image and plane of words of a task, and its pixels there."""
    plane, begin = task // pieces, task % pieces * size
    end = min(begin + size, words.H * words.W)
    return plane // words.C, plane % words.C, min(begin, end), end


@internal
def code(x, scale, zero, low, high):
    """Return the code of a number, as a float."""
    q = np.rint(x / scale) + zero
    q = q if q > low else low  # so written, NaN becomes the lowest
    return q if q < high else high


@internal
def _pack_codes(source, target, bits, numbers):
    scale, zero, low, high = numbers
    if bits == 0:
        for i in range(target.size):
            q = np.int32(code(source[i], scale, zero, low, high))
            target[i] = np.uint32(np.uint32(q) & np.uint32(255))
    else:
        for i in range(target.size):
            q = np.int32(code(source[i], scale, zero, low, high))
            target[i] = np.uint32(target[i] | np.uint32((np.uint32(q) & np.uint32(255)) << bits))


@internal
def _pack_bytes(source, target, bits):
    if bits == 0:
        for i in range(target.size):
            target[i] = np.uint32(source[i]) & np.uint32(255)
    else:
        for i in range(target.size):
            target[i] = target[i] | np.uint32((np.uint32(source[i]) & np.uint32(255)) << bits)


@parallel
def quantize_words(worker, workers, x, y, numbers):
    """Write the codes of images to words.

    Parameters
    ----------
    team : TeamHandle
        From `threads.parallel_region`.
    x : Images
        Of float32 or float64.
    y : Images
        Of words, with ceil(C/4) channels.
    numbers : (scale, zero_point, low, high)
        Of the dtype of `x`.
    """
    x, y = bare_images(x), bare_images(y)
    pieces, size = _pieces(y)
    first, last = share(y.N * y.C * pieces, worker, workers)
    for task in range(first, last):
        n, c, begin, end = _place(y, task, pieces, size)
        at = n * y.step + c * y.H * y.W
        target = y.flat[at + begin : at + end]
        for j in range(min(CHANNELS, x.C - CHANNELS * c)):
            at = n * x.step + (CHANNELS * c + j) * x.H * x.W
            _pack_codes(x.flat[at + begin : at + end], target, np.uint32(8 * j), numbers)


@parallel
def pack_words(worker, workers, x, y):
    """Write images of bytes to words; arguments as of :func:`quantize_words`."""
    x, y = bare_images(x), bare_images(y)
    pieces, size = _pieces(y)
    first, last = share(y.N * y.C * pieces, worker, workers)
    for task in range(first, last):
        n, c, begin, end = _place(y, task, pieces, size)
        at = n * y.step + c * y.H * y.W
        target = y.flat[at + begin : at + end]
        for j in range(min(CHANNELS, x.C - CHANNELS * c)):
            at = n * x.step + (CHANNELS * c + j) * x.H * x.W
            _pack_bytes(x.flat[at + begin : at + end], target, np.uint32(8 * j))


@internal
def _numbers(source, target, bits, signed, scale, zero):
    if signed:
        for i in range(target.size):
            target[i] = (target.dtype.type(np.int8(source[i] >> bits)) - zero) * scale
    else:
        for i in range(target.size):
            target[i] = (target.dtype.type(np.uint8(source[i] >> bits)) - zero) * scale


@parallel
def dequantize_words(worker, workers, x, y, signed, scale, zero):
    """Write the numbers that codes in words stand for to images.

    Parameters
    ----------
    team : TeamHandle
        From `threads.parallel_region`.
    x : Images
        Of words.
    y : Images
    signed : bool
        Whether codes have a sign.
    scale, zero : float
        Of the dtype of `y`.
    """
    x, y = bare_images(x), bare_images(y)
    pieces, size = _pieces(x)
    first, last = share(x.N * x.C * pieces, worker, workers)
    for task in range(first, last):
        n, c, begin, end = _place(x, task, pieces, size)
        at = n * x.step + c * x.H * x.W
        source = x.flat[at + begin : at + end]
        for j in range(min(CHANNELS, y.C - CHANNELS * c)):
            at = n * y.step + (CHANNELS * c + j) * y.H * y.W
            target = y.flat[at + begin : at + end]
            _numbers(source, target, np.uint32(8 * j), signed, scale, zero)


@parallel
def unpack_words(worker, workers, x, y):
    """Write codes in words to images of bytes; arguments as of :func:`dequantize_words`."""
    x, y = bare_images(x), bare_images(y)
    pieces, size = _pieces(x)
    first, last = share(x.N * x.C * pieces, worker, workers)
    for task in range(first, last):
        n, c, begin, end = _place(x, task, pieces, size)
        at = n * x.step + c * x.H * x.W
        source = x.flat[at + begin : at + end]
        for j in range(min(CHANNELS, y.C - CHANNELS * c)):
            at = n * y.step + (CHANNELS * c + j) * y.H * y.W
            target = y.flat[at + begin : at + end]
            for i in range(target.size):
                target[i] = target.dtype.type(np.uint8(source[i] >> np.uint32(8 * j)))


def bytes_of(words: tuple, signed: bool) -> tuple:
    """Return images of words as images of their bytes: four of these for each pixel of a row.

    Parameters
    ----------
    words : Images
    signed : bool

    Returns
    -------
    Images
    """
    flat, step, N, C, H, W = words
    return tuple(Images(flat.view(np.int8 if signed else np.uint8), 4 * step, N, C, H, 4 * W))
