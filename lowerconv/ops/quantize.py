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
def _byte(x, numbers):
    """Return the code of a number, or a code that is one already, as eight bits."""
    if numbers is None:
        return np.uint32(x) & np.uint32(255)
    scale, zero, low, high = numbers
    return np.uint32(np.int32(code(x, scale, zero, low, high))) & np.uint32(255)


@internal
def _pack(source, target, bits, numbers):
    if bits == 0:
        for i in range(target.size):
            target[i] = _byte(source[i], numbers)
    else:
        for i in range(target.size):
            target[i] = np.uint32(target[i] | np.uint32(_byte(source[i], numbers) << bits))


@parallel
def pack_words(worker, workers, x, y, numbers):
    """Write the codes of images to words.

    Parameters
    ----------
    x : Images
        Of float32 or float64; of bytes where these are codes already.
    y : Images
        Of words, with ceil(C/4) channels.
    numbers : (scale, zero_point, low, high) or None
        Of the dtype of `x`; None where it has codes.
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
            _pack(x.flat[at + begin : at + end], target, np.uint32(8 * j), numbers)


@internal
def _unpack(source, target, bits, numbers):
    kind = target.dtype.type
    if numbers is None:
        for i in range(target.size):
            target[i] = kind(np.uint8(source[i] >> bits))
    else:
        scale, zero, signed = numbers
        if signed:
            for i in range(target.size):
                target[i] = (kind(np.int8(source[i] >> bits)) - zero) * scale
        else:
            for i in range(target.size):
                target[i] = (kind(np.uint8(source[i] >> bits)) - zero) * scale


@parallel
def unpack_words(worker, workers, x, y, numbers):
    """Write the numbers that codes in words stand for to images, or the codes.

    Parameters
    ----------
    x : Images
        Of words.
    y : Images
        Of float32 or float64, or of bytes.
    numbers : (scale, zero_point, signed) or None
        The former two of the dtype of `y`, and whether codes have a sign; None where `y` gets the
        codes.
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
            _unpack(source, y.flat[at + begin : at + end], np.uint32(8 * j), numbers)


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
