"""Simple convolution: the loop nest itself, on one row of the result at a time.

These are the oracle for everything faster, so they are written to be read: the sums of the
definition, the innermost loop over pixels so that it becomes vector code.  `Geometry` tells which
pixel a tap reads; taps that fall in the padding add nothing and are skipped.
"""

import numpy as np

from lowerconv.codegen.compiled import njit
from lowerconv.codegen.ranges import inside


@njit(cache=True, nogil=True)
def forward_row(x, w, n, k, p, groups, geometry, row):
    """Compute ``row[q] = sum_crs w[k,c,r,s] x[n,c,h,w]`` for one output row p of one filter k."""
    R, S, _, Q, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w = geometry
    K, C = w.shape[0], w.shape[1]
    H, W = x.shape[2], x.shape[3]
    first_channel = k // (K // groups) * C
    row[:] = 0
    for c in range(C):
        for r in range(R):
            h = p * stride_h - pad_top + r * dilation_h
            if h < 0 or h >= H:
                continue
            image = x[n, first_channel + c, h]
            for s in range(S):
                shift = s * dilation_w - pad_left
                lo, hi = inside(W, shift, stride_w, Q)
                tap = w[k, c, r, s]
                if stride_w == 1:
                    target, source = row[lo:hi], image[lo + shift : hi + shift]
                    for q in range(hi - lo):
                        target[q] += tap * source[q]
                else:
                    for q in range(lo, hi):
                        row[q] += tap * image[q * stride_w + shift]


@njit(cache=True, nogil=True)
def input_grad_row(dy, w, n, c, h, groups, geometry, row):
    """Compute ``row[w] = sum_krs dy[n,k,p,q] w[k,c,r,s]`` over the taps that read image row h."""
    R, S, P, Q, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w = geometry
    K, C = w.shape[0] // groups, w.shape[1]
    W = row.size
    group, c_group = c // C, c % C
    row[:] = 0
    for k in range(group * K, (group + 1) * K):
        for r in range(R):
            p, rest = divmod(h + pad_top - r * dilation_h, stride_h)
            if rest or p < 0 or p >= P:
                continue
            source = dy[n, k, p]
            for s in range(S):
                shift = s * dilation_w - pad_left
                lo, hi = inside(W, shift, stride_w, Q)
                tap = w[k, c_group, r, s]
                if stride_w == 1:
                    target, piece = row[lo + shift : hi + shift], source[lo:hi]
                    for q in range(hi - lo):
                        target[q] += tap * piece[q]
                else:
                    for q in range(lo, hi):
                        row[q * stride_w + shift] += tap * source[q]


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _dot(a, b, count, stride):
    total = a.dtype.type(0)
    if stride == 1:
        for i in range(count):
            total += a[i] * b[i]
    else:
        for i in range(count):
            total += a[i] * b[i * stride]
    return total


@njit(cache=True, nogil=True)
def weight_grad_filter(dy, x, k, c, groups, geometry, taps):
    """Compute ``taps[r,s] = sum_npq dy[n,k,p,q] x[n,c,h,w]`` for filter k and its channel c.

    Rows are summed in the dtype of the arrays and added up in float64: the sum runs over every
    pixel of the batch, too many for float32.
    """
    R, S, P, Q, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w = geometry
    N, K = dy.shape[0], dy.shape[1]
    _, C, H, W = x.shape
    channel = k // (K // groups) * (C // groups) + c
    for r in range(R):
        for s in range(S):
            shift = s * dilation_w - pad_left
            lo, hi = inside(W, shift, stride_w, Q)
            total = np.float64(0)
            if hi > lo:
                for n in range(N):
                    for p in range(P):
                        h = p * stride_h - pad_top + r * dilation_h
                        if 0 <= h < H:
                            piece = x[n, channel, h, lo * stride_w + shift :]
                            total += _dot(dy[n, k, p, lo:], piece, hi - lo, stride_w)
            taps[r, s] = total
