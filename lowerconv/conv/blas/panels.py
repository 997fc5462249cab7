"""The two stages of each pass over panels: lowering one, and multiplying it by BLAS.

Every stage is a function of a step, and of the panel that one stage leaves for the other.  For the
input gradient the order is turned round: the product is the panel, and it is added to the image
(col2im) afterwards.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lowerconv.codegen.compiled import njit
from lowerconv.codegen.ranges import share
from lowerconv.conv.blas.blocking import Blocking
from lowerconv.conv.blas.epilogue import gather, store
from lowerconv.conv.blas.im2col import Block, col2im, lower
from lowerconv.conv.problem import Geometry
from lowerconv.ops.blas import gemm


class ForwardCall(NamedTuple):
    """A forward pass, of one call."""

    x: np.ndarray  #     (N, C, H, W)
    w: np.ndarray  #     (K, taps of a group)
    bias: np.ndarray  #  empty where there is none
    relu: bool
    groups: int
    geometry: Geometry
    blocks: Blocking
    y: np.ndarray  #     (N, K, P*Q)


class InputGradCall(NamedTuple):
    """An input gradient, of one call."""

    dy: np.ndarray  #    (N, K, P*Q)
    w: np.ndarray  #     (K, taps of a group)
    groups: int
    geometry: Geometry
    blocks: Blocking
    dx: np.ndarray  #    (N, C, H, W)


class WeightGradCall(NamedTuple):
    """A weight gradient, of one call."""

    dy: np.ndarray  #       (N, K, P*Q)
    x: np.ndarray  #        (N, C, H, W)
    groups: int
    geometry: Geometry
    blocks: Blocking
    partial: np.ndarray  #  (splits, K, taps of a group)


class ForwardStep(NamedTuple):
    """What a step multiplies: filters i0 to i1 of a group, pixels j0 to j1, taps k0 to k1."""

    group: int
    i0: int
    i1: int
    j0: int
    j1: int
    k0: int
    k1: int


class InputGradStep(NamedTuple):
    """What a step multiplies: taps k0 to k1 of a group, pixels j0 to j1 of images n0 to n1."""

    group: int
    k0: int
    k1: int
    n0: int
    n1: int
    j0: int
    j1: int


class WeightGradStep(NamedTuple):
    """What a step multiplies: filters i0 to i1, taps k0 to k1, pixels j0 to j1 of a split."""

    split: int
    group: int
    i0: int
    i1: int
    k0: int
    k1: int
    j0: int
    j1: int
    first: bool  # of the sum


@njit(cache=True, nogil=True)
def _range(index, size, extent):
    """Return the range that block `index` covers."""
    return index * size, min(extent, (index + 1) * size)


@njit(cache=True, nogil=True)
def _tile(index, pixels, NC, n0, n1):
    """Return the pixels (of the batch) of one tile of the images ``n0:n1``.

    Tiles are parts of one image, or whole images: they never straddle.
    """
    if pixels > NC:
        per_image = -(-pixels // NC)
        start = (n0 + index // per_image) * pixels
        j0, j1 = _range(index % per_image, NC, pixels)
        return start + j0, start + j1
    j0, j1 = _range(index, NC, (n1 - n0) * pixels)
    return n0 * pixels + j0, n0 * pixels + j1


@njit(cache=True, nogil=True)
def tiles_of(images, pixels, NC):
    """Return the tiles of some images."""
    return images * -(-pixels // NC) if pixels > NC else -(-images * pixels // NC)


@njit(cache=True, nogil=True)
def _forward_step(step, a):
    """Return what a step multiplies: KC taps, then MC filters, then NC pixels."""
    MC, NC, KC, _, _ = a.blocks
    filters, taps = a.w.shape[0] // a.groups, a.w.shape[1]
    pixels = a.y.shape[0] * a.y.shape[2]
    m_blocks, n_blocks, k_blocks = -(-filters // MC), -(-pixels // NC), -(-taps // KC)
    task = step // k_blocks
    i0, i1 = _range(task % m_blocks, MC, filters)
    j0, j1 = _range(task // m_blocks % n_blocks, NC, pixels)
    k0, k1 = _range(step % k_blocks, KC, taps)
    return ForwardStep(task // (n_blocks * m_blocks), i0, i1, j0, j1, k0, k1)


@njit(cache=True, nogil=True)
def forward_lower(step, a, panel):
    """Lower a panel of KC taps x NC pixels."""
    s = _forward_step(step, a)
    taps, pixels = s.k1 - s.k0, s.j1 - s.j0
    panel = panel[: taps * pixels].reshape(taps, pixels)
    channel = s.group * (a.x.shape[1] // a.groups)
    lower(a.x, channel, Block(s.k0, s.k1, s.j0, s.j1), a.geometry, panel, 0)


@njit(cache=True, nogil=True)
def forward_multiply(step, a, address, panel, product):
    """Multiply MC filters with a panel; store the product once all taps are in it."""
    s = _forward_step(step, a)
    taps = a.w.shape[1]
    m, n = s.i1 - s.i0, s.j1 - s.j0
    tile = product[: m * n].reshape(m, n)
    k = s.group * (a.w.shape[0] // a.groups) + s.i0
    beta = 0 if s.k0 == 0 else 1
    left = a.w[k:, s.k0 :]
    gemm(address, left, False, panel, False, beta, tile, m, n, s.k1 - s.k0, taps, n, n)
    if s.k1 == taps:
        store(tile, 0, Block(k, k + m, s.j0, s.j1), a.bias, a.relu, a.y)


@njit(cache=True, nogil=True)
def input_grad_steps(dy, blocks):
    """Return the steps of a task: the tiles of MC images."""
    return tiles_of(blocks.MC, dy.shape[2], blocks.NC)


@njit(cache=True, nogil=True)
def _input_grad_step(step, a):
    """Return what a step multiplies: tasks are KC taps of MC images."""
    MC, NC, KC, _, _ = a.blocks
    pixels, taps, N = a.dy.shape[2], a.w.shape[1], a.dx.shape[0]
    c_blocks, n_blocks = -(-taps // KC), -(-N // MC)
    tiles = input_grad_steps(a.dy, a.blocks)
    task, tile = step // tiles, step % tiles
    k0, k1 = _range(task // n_blocks % c_blocks, KC, taps)
    n0, n1 = _range(task % n_blocks, MC, N)
    j0, j1 = _tile(tile, pixels, NC, n0, n1)
    if tile >= tiles_of(n1 - n0, pixels, NC):  # the last images are fewer
        j1 = j0
    return InputGradStep(task // (c_blocks * n_blocks), k0, k1, n0, n1, j0, j1)


@njit(cache=True, nogil=True)
def input_grad_multiply(step, a, address, panel, gathered):
    """Multiply the filters of KC taps with a tile of dy: the product is the panel."""
    s = _input_grad_step(step, a)
    if s.j0 == s.j1:
        return
    taps, pixels, filters = a.w.shape[1], a.dy.shape[2], a.w.shape[0] // a.groups
    m, n, begin = s.k1 - s.k0, s.j1 - s.j0, s.group * filters
    if pixels > a.blocks.NC or n == pixels:  # one image: its rows of dy as they are
        rows = a.dy[s.j0 // pixels, begin:, s.j0 % pixels :]
        left = a.w[begin:, s.k0 :]
        gemm(address, left, True, rows, False, 0, panel, m, n, filters, taps, pixels, n)
        return
    most = len(gathered) // n
    for i0 in range(begin, begin + filters, most):
        i1 = min(i0 + most, begin + filters)
        matrix = gathered[: (i1 - i0) * n].reshape(i1 - i0, n)
        gather(a.dy, Block(i0, i1, s.j0, s.j1), matrix, 0)
        beta = 0 if i0 == begin else 1
        left = a.w[i0:, s.k0 :]
        gemm(address, left, True, matrix, False, beta, panel, m, n, i1 - i0, taps, n, n)


@njit(cache=True, nogil=True)
def input_grad_col2im(step, a, panel):
    """Add a panel to the image."""
    s = _input_grad_step(step, a)
    C = a.dx.shape[1] // a.groups
    if step % input_grad_steps(a.dy, a.blocks) == 0:
        per_channel = a.w.shape[1] // C
        channel = s.group * C + s.k0 // per_channel
        a.dx[s.n0 : s.n1, channel : channel + (s.k1 - s.k0) // per_channel] = 0
    if s.j0 < s.j1:
        taps, pixels = s.k1 - s.k0, s.j1 - s.j0
        panel = panel[: taps * pixels].reshape(taps, pixels)
        col2im(panel, 0, s.group * C, Block(s.k0, s.k1, s.j0, s.j1), a.geometry, a.dx)


@njit(cache=True, nogil=True)
def weight_grad_steps(dy, blocks):
    """Return the steps of a task: the tiles of a split, rounded up."""
    return -(-tiles_of(dy.shape[0], dy.shape[2], blocks.NC) // blocks.splits)


@njit(cache=True, nogil=True)
def _weight_grad_step(step, a):
    """Return what a step multiplies."""
    MC, NC, KC, _, splits = a.blocks
    filters, taps = a.partial.shape[1] // a.groups, a.partial.shape[2]
    N, pixels = a.dy.shape[0], a.dy.shape[2]
    m_blocks, k_blocks = -(-filters // MC), -(-taps // KC)
    steps = weight_grad_steps(a.dy, a.blocks)
    task, tile = step // steps, step % steps
    split = task // (a.groups * k_blocks * m_blocks)
    group = task // (k_blocks * m_blocks) % a.groups
    k0, k1 = _range(task // m_blocks % k_blocks, KC, taps)
    i0, i1 = _range(task % m_blocks, MC, filters)
    begin, end = share(tiles_of(N, pixels, NC), split, splits)
    j0, j1 = _tile(begin + tile, pixels, NC, 0, N)
    if begin + tile >= end:  # a split of one tile less
        j1 = j0
    return WeightGradStep(split, group, i0, i1, k0, k1, j0, j1, tile == 0)


@njit(cache=True, nogil=True)
def weight_grad_lower(step, a, panel):
    """Lower a panel of KC taps x a tile of pixels."""
    s = _weight_grad_step(step, a)
    if s.j0 < s.j1:
        taps, pixels = s.k1 - s.k0, s.j1 - s.j0
        panel = panel[: taps * pixels].reshape(taps, pixels)
        channel = s.group * (a.x.shape[1] // a.groups)
        lower(a.x, channel, Block(s.k0, s.k1, s.j0, s.j1), a.geometry, panel, 0)


@njit(cache=True, nogil=True)
def weight_grad_multiply(step, a, address, panel, gathered):
    """Multiply MC filters' rows of dy with a panel, and add to the sum of the split."""
    s = _weight_grad_step(step, a)
    if s.j0 == s.j1:
        return
    pixels, taps = a.dy.shape[2], a.partial.shape[2]
    row = s.group * (a.partial.shape[1] // a.groups) + s.i0
    m, n, k = s.i1 - s.i0, s.k1 - s.k0, s.j1 - s.j0
    target = a.partial[s.split, row:, s.k0 :]
    beta = 0 if s.first else 1
    if pixels > a.blocks.NC or k == pixels:
        rows = a.dy[s.j0 // pixels, row:, s.j0 % pixels :]
        gemm(address, rows, False, panel, True, beta, target, m, n, k, pixels, k, taps)
    else:
        matrix = gathered[: m * k].reshape(m, k)
        gather(a.dy, Block(row, row + m, s.j0, s.j1), matrix, 0)
        gemm(address, matrix, False, panel, True, beta, target, m, n, k, k, k, taps)


@njit(cache=True, nogil=True)
def add_splits(worker, workers, partial, dw):
    """Add the partial sums, in an order that does not depend on the threads."""
    splits, K, taps = partial.shape
    first, last = share(K, worker, workers)
    for k in range(first, last):
        for i in range(taps):
            total = partial[0, k, i]
            for split in range(1, splits):
                total += partial[split, k, i]
            dw[k, i] = total
