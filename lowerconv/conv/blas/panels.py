"""The two stages of each pass over panels: lowering one, and multiplying it by BLAS.

Every stage is a function of a step, and of the panel that one stage leaves for the other.  For the
input gradient the order is turned round: the product is the panel, and it is added to the image
(col2im) afterwards.
"""

from __future__ import annotations

from lowerconv.codegen.compiled import njit
from lowerconv.codegen.ranges import share
from lowerconv.conv.blas.epilogue import gather, store
from lowerconv.conv.blas.im2col import col2im, lower
from lowerconv.ops.blas import gemm


@njit(cache=True, nogil=True)
def _block(index, size, extent):
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
        j0, j1 = _block(index % per_image, NC, pixels)
        return start + j0, start + j1
    j0, j1 = _block(index, NC, (n1 - n0) * pixels)
    return n0 * pixels + j0, n0 * pixels + j1


@njit(cache=True, nogil=True)
def tiles_of(images, pixels, NC):
    """Return the tiles of some images."""
    return images * -(-pixels // NC) if pixels > NC else -(-images * pixels // NC)


@njit(cache=True, nogil=True)
def _forward_place(step, x, w, groups, blocks, y):
    """Return group, filters, pixels, taps of a step: KC taps, then MC filters, then NC pixels."""
    MC, NC, KC, _, _ = blocks
    filters, taps = w.shape[0] // groups, w.shape[1]
    pixels = y.shape[0] * y.shape[2]
    m_blocks, n_blocks, k_blocks = -(-filters // MC), -(-pixels // NC), -(-taps // KC)
    task = step // k_blocks
    i0, i1 = _block(task % m_blocks, MC, filters)
    j0, j1 = _block(task // m_blocks % n_blocks, NC, pixels)
    k0, k1 = _block(step % k_blocks, KC, taps)
    return task // (n_blocks * m_blocks), i0, i1, j0, j1, k0, k1


@njit(cache=True, nogil=True)
def forward_lower(step, x, w, groups, geometry, blocks, y, panel):
    """Lower a panel of KC taps x NC pixels."""
    group, _, _, j0, j1, k0, k1 = _forward_place(step, x, w, groups, blocks, y)
    panel = panel[: (k1 - k0) * (j1 - j0)].reshape(k1 - k0, j1 - j0)
    lower(x, group * (x.shape[1] // groups), k0, k1, j0, j1, geometry, panel, 0)


@njit(cache=True, nogil=True)
def forward_multiply(step, address, x, w, bias, relu, groups, blocks, y, panel, product):
    """Multiply MC filters with a panel; store the product once all taps are in it."""
    group, i0, i1, j0, j1, k0, k1 = _forward_place(step, x, w, groups, blocks, y)
    taps = w.shape[1]
    m, n = i1 - i0, j1 - j0
    tile = product[: m * n].reshape(m, n)
    k = group * (w.shape[0] // groups) + i0
    beta = 0 if k0 == 0 else 1
    gemm(address, w[k:, k0:], False, panel, False, beta, tile, m, n, k1 - k0, taps, n, n)
    if k1 == taps:
        store(tile, 0, k, k + m, j0, j1, bias, relu, y)


@njit(cache=True, nogil=True)
def input_grad_steps(dy, blocks):
    """Return the steps of a task: the tiles of MC images."""
    return tiles_of(blocks.MC, dy.shape[2], blocks.NC)


@njit(cache=True, nogil=True)
def _input_grad_place(step, dy, w, groups, blocks, dx):
    """Return group, taps, images and pixels of a step: tasks are KC taps of MC images."""
    MC, NC, KC, _, _ = blocks
    pixels, taps, N = dy.shape[2], w.shape[1], dx.shape[0]
    c_blocks, n_blocks = -(-taps // KC), -(-N // MC)
    tiles = input_grad_steps(dy, blocks)
    task, tile = step // tiles, step % tiles
    k0, k1 = _block(task // n_blocks % c_blocks, KC, taps)
    n0, n1 = _block(task % n_blocks, MC, N)
    j0, j1 = _tile(tile, pixels, NC, n0, n1)
    if tile >= tiles_of(n1 - n0, pixels, NC):  # the last images are fewer
        j1 = j0
    return task // (c_blocks * n_blocks), k0, k1, n0, n1, j0, j1


@njit(cache=True, nogil=True)
def input_grad_multiply(step, address, dy, w, groups, blocks, dx, panel, gathered):
    """Multiply the filters of KC taps with a tile of dy: the product is the panel."""
    group, k0, k1, _, _, j0, j1 = _input_grad_place(step, dy, w, groups, blocks, dx)
    if j0 == j1:
        return
    taps, pixels, filters = w.shape[1], dy.shape[2], w.shape[0] // groups
    n = j1 - j0
    if pixels > blocks.NC or n == pixels:  # one image: its rows of dy as they are
        rows = dy[j0 // pixels, group * filters :, j0 % pixels :]
        left = w[group * filters :, k0:]
        gemm(address, left, True, rows, False, 0, panel, k1 - k0, n, filters, taps, pixels, n)
        return
    most = len(gathered) // n
    for i0 in range(group * filters, (group + 1) * filters, most):
        i1 = min(i0 + most, (group + 1) * filters)
        matrix = gathered[: (i1 - i0) * n].reshape(i1 - i0, n)
        gather(dy, i0, i1, j0, j1, matrix, 0)
        beta = 0 if i0 == group * filters else 1
        gemm(
            address, w[i0:, k0:], True, matrix, False, beta, panel, k1 - k0, n, i1 - i0, taps, n, n
        )


@njit(cache=True, nogil=True)
def input_grad_raise(step, dy, w, groups, geometry, blocks, dx, panel):
    """Add a panel to the image."""
    group, k0, k1, n0, n1, j0, j1 = _input_grad_place(step, dy, w, groups, blocks, dx)
    C = dx.shape[1] // groups
    if step % input_grad_steps(dy, blocks) == 0:
        per_channel = w.shape[1] // C
        channel = group * C + k0 // per_channel
        dx[n0:n1, channel : channel + (k1 - k0) // per_channel] = 0
    if j0 < j1:
        panel = panel[: (k1 - k0) * (j1 - j0)].reshape(k1 - k0, j1 - j0)
        col2im(panel, 0, group * C, k0, k1, j0, j1, geometry, dx)


@njit(cache=True, nogil=True)
def weight_grad_steps(dy, blocks):
    """Return the steps of a task: the tiles of a split, rounded up."""
    return -(-tiles_of(dy.shape[0], dy.shape[2], blocks.NC) // blocks.splits)


@njit(cache=True, nogil=True)
def _weight_grad_place(step, dy, groups, blocks, partial):
    """Return split, group, filters, taps, pixels, and whether they are the first of their sum."""
    MC, NC, KC, _, splits = blocks
    filters, taps = partial.shape[1] // groups, partial.shape[2]
    N, pixels = dy.shape[0], dy.shape[2]
    m_blocks, k_blocks = -(-filters // MC), -(-taps // KC)
    steps = weight_grad_steps(dy, blocks)
    task, tile = step // steps, step % steps
    split = task // (groups * k_blocks * m_blocks)
    k0, k1 = _block(task // m_blocks % k_blocks, KC, taps)
    i0, i1 = _block(task % m_blocks, MC, filters)
    begin, end = share(tiles_of(N, pixels, NC), split, splits)
    j0, j1 = _tile(begin + tile, pixels, NC, 0, N)
    if begin + tile >= end:  # a split of one tile less
        j1 = j0
    return split, task // (k_blocks * m_blocks) % groups, i0, i1, k0, k1, j0, j1, tile == 0


@njit(cache=True, nogil=True)
def weight_grad_lower(step, dy, x, groups, geometry, blocks, partial, panel):
    """Lower a panel of KC taps x a tile of pixels."""
    _, group, _, _, k0, k1, j0, j1, _ = _weight_grad_place(step, dy, groups, blocks, partial)
    if j0 < j1:
        panel = panel[: (k1 - k0) * (j1 - j0)].reshape(k1 - k0, j1 - j0)
        lower(x, group * (x.shape[1] // groups), k0, k1, j0, j1, geometry, panel, 0)


@njit(cache=True, nogil=True)
def weight_grad_multiply(step, address, dy, groups, blocks, partial, panel, gathered):
    """Multiply MC filters' rows of dy with a panel, and add to the sum of the split."""
    split, group, i0, i1, k0, k1, j0, j1, first = _weight_grad_place(
        step, dy, groups, blocks, partial
    )
    if j0 == j1:
        return
    pixels, taps = dy.shape[2], partial.shape[2]
    row, m, n = group * (partial.shape[1] // groups) + i0, i1 - i0, j1 - j0
    target = partial[split, row:, k0:]
    beta = 0 if first else 1
    if pixels > blocks.NC or n == pixels:
        rows = dy[j0 // pixels, row:, j0 % pixels :]
        gemm(address, rows, False, panel, True, beta, target, m, k1 - k0, n, pixels, n, taps)
    else:
        matrix = gathered[: m * n].reshape(m, n)
        gather(dy, row, row + m, j0, j1, matrix, 0)
        gemm(address, matrix, False, panel, True, beta, target, m, k1 - k0, n, n, n, taps)


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
