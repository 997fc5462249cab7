r"""Lowering: the image as the matrix whose product with the filters is the convolution.

The lowered matrix has one row per filter tap ``k = (c, r, s)`` and one column per output pixel
``j = (n, p, q)``; its entry is the image pixel that the tap reads there, zero in the padding.  Any
block of it, taps ``k0:k1`` and pixels ``j0:j1``, can be lowered by itself into a *panel*::

                 pixels  j0          row piece         j1
                        +--------------+-----------+---+
    tap k0  (c, r, s)   | x[n,c,h, w.. | x[n,c,h+1,..  |   one row piece per image row that the
         k0+1           |              |           |   |   tap crosses: zeros, a strided copy,
          ...           |              |           |   |   zeros
    tap k1-1            +--------------+-----------+---+

The name and the method come from Caffe's im2col; first in Chellapilla, Puri, Simard, "High
performance convolutional neural networks for document processing" (2006), section 3.
"""

from typing import NamedTuple

import numpy as np

from lowerconv.codegen.compiled import njit
from lowerconv.codegen.ranges import inside

ZERO = np.uint64(0)


class Block(NamedTuple):
    """Rows ``k0:k1`` of a matrix, taps or filters, and columns ``j0:j1``, pixels of the batch."""

    k0: int
    k1: int
    j0: int
    j1: int


# The three loops below are all that lowering does.  Their indices are unsigned: for a signed index
# numba adds the test for Python's "negative counts from the end", which costs four times the copy.


@njit(cache=True, nogil=True)
def _zero(row, at, count):
    at, count = np.uint64(at), np.uint64(count)
    for i in range(ZERO, count):
        row[at + i] = 0


@njit(cache=True, nogil=True)
def _copy(row, at, count, image, first, stride):
    at, count, first, stride = np.uint64(at), np.uint64(count), np.uint64(first), np.uint64(stride)
    if stride == 1:  # a loop of its own, since it becomes a vector copy
        for i in range(ZERO, count):
            row[at + i] = image[first + i]
    else:
        for i in range(ZERO, count):
            row[at + i] = image[first + i * stride]


@njit(cache=True, nogil=True)
def _add(row, at, count, image, first, stride):
    at, count, first, stride = np.uint64(at), np.uint64(count), np.uint64(first), np.uint64(stride)
    if stride == 1:
        for i in range(ZERO, count):
            image[first + i] += row[at + i]
    else:
        for i in range(ZERO, count):
            image[first + i * stride] += row[at + i]


@njit(cache=True, nogil=True)
def _walk(x, first_channel, block, geometry, panel, column, back):
    """Go through the row pieces of a block: copy each to the panel, or add it `back` to `x`."""
    R, S, P, Q, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w = geometry
    _, C, H, W = x.shape
    k0, k1, j0, j1 = block
    pixels = x.reshape(x.size)
    n0, p0, q0 = j0 // (P * Q), j0 % (P * Q) // Q, j0 % Q
    for k in range(k0, k1):
        c, r, s = first_channel + k // (R * S), k // S % R, k % S
        shift = s * dilation_w - pad_left
        inside_first, inside_last = inside(W, shift, stride_w, Q)
        row = panel[k - k0]
        n, p, q_first = n0, p0, q0
        j = column
        while j < column + j1 - j0:  # row p of the result of image n, columns q_first:q_last
            q_last = min(Q, q_first + column + j1 - j0 - j)
            h = p * stride_h - pad_top + r * dilation_h
            if 0 <= h < H:
                lo = min(max(q_first, inside_first), q_last)
                hi = max(lo, min(q_last, inside_last))
                first = ((n * C + c) * H + h) * W + lo * stride_w + shift
                if back:
                    _add(row, j + lo - q_first, hi - lo, pixels, first, stride_w)
                else:
                    _zero(row, j, lo - q_first)
                    _copy(row, j + lo - q_first, hi - lo, pixels, first, stride_w)
                    _zero(row, j + hi - q_first, q_last - hi)
            elif not back:
                _zero(row, j, q_last - q_first)
            j += q_last - q_first
            q_first = 0
            p += 1
            if p == P:
                p = 0
                n += 1


@njit(cache=True, nogil=True)
def lower(x, first_channel, block, geometry, panel, column):
    """Lower a block of taps, of the channels from `first_channel` on, and pixels into `panel`.

    `x` is (N, C, H, W); rows of the block count the taps of one group.  It goes to the rows of
    `panel` from the first, and to its columns from `column` on.
    """
    _walk(x, first_channel, block, geometry, panel, column, False)


@njit(cache=True, nogil=True)
def col2im(panel, column, first_channel, block, geometry, x):
    """Add a block of `panel` to the pixels of `x` it is lowered from: the transpose of `lower`."""
    _walk(x, first_channel, block, geometry, panel, column, True)
