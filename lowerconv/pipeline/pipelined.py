"""Pipelined lowering: every core lowers the next panel while it multiplies this one.

The lowered matrix never exists as a whole.  It is cut into panels that fit a core's L2 cache; each
core owns two of them and alternates::

    step            0         1         2         3
    lower        panel 0   panel 1   panel 0   panel 1   ...
    multiply               panel 0   panel 1   panel 0   ...

so that the lowering of step i+1, bound by memory, and the product of step i, bound by arithmetic,
do not wait for each other.  How far they overlap is up to the hardware: cores are in different
phases, one lowering while another multiplies; within a core the stores of a panel drain, and the
image is prefetched, under the product before it.  What counts most is that a panel is still in the
cache of the core that multiplies it.  For the input gradient the order is turned round: the product
is the lowered matrix, and the panel before it is added to the image (col2im).

After Sakiyama, Kato, Ishikawa, Hori, Monrroy, "Deep learning with convolutional neural networks on
multicore clusters": pipelined lowering.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from lowerconv.kernels.blas import GEMM_LIMIT, gemm, gemm_address
from lowerconv.kernels.blocking import (
    forward_blocking,
    input_grad_blocking,
    weight_grad_blocking,
)
from lowerconv.kernels.epilogue import Array, Epilogue, gather, store
from lowerconv.kernels.im2col import lower, raise_add
from lowerconv.machine.workspace import Scratch, carved_items
from lowerconv.problem import ConvProblem, Op


@njit(cache=True, nogil=True)
def _share(count, worker, workers):
    """Return the range of tasks of one worker."""
    return count * worker // workers, count * (worker + 1) // workers


@njit(cache=True, nogil=True)
def _block(index, size, extent):
    """Return the range that block `index` covers."""
    return index * size, min(extent, (index + 1) * size)


@njit(cache=True, nogil=True)
def _forward_on_core(
    worker, address, x, w, bias, relu, groups, geometry, blocks, y, all_panels, products
):
    """Steps run over the panels of a task, then over the tasks (group, NC pixels, MC filters)."""
    MC, NC, KC, _, _ = blocks
    panels, product = all_panels[worker], products[worker]
    K, taps = w.shape
    filters, channels = K // groups, x.shape[1] // groups
    pixels = y.shape[0] * y.shape[2]
    m_blocks, n_blocks, k_blocks = -(-filters // MC), -(-pixels // NC), -(-taps // KC)
    first, last = _share(groups * n_blocks * m_blocks, worker, len(products))
    for step in range(first * k_blocks, last * k_blocks + 1):
        if step < last * k_blocks:
            task = step // k_blocks
            group = task // (n_blocks * m_blocks)
            j0, j1 = _block(task // m_blocks % n_blocks, NC, pixels)
            k0, k1 = _block(step % k_blocks, KC, taps)
            panel = panels[step % 2, : (k1 - k0) * (j1 - j0)].reshape(k1 - k0, j1 - j0)
            lower(x, group * channels, k0, k1, j0, j1, geometry, panel, 0)
        if step > first * k_blocks:
            before = step - 1
            task = before // k_blocks
            group = task // (n_blocks * m_blocks)
            i0, i1 = _block(task % m_blocks, MC, filters)
            j0, j1 = _block(task // m_blocks % n_blocks, NC, pixels)
            k0, k1 = _block(before % k_blocks, KC, taps)
            m, n = i1 - i0, j1 - j0
            panel = panels[before % 2]
            tile = product[: m * n].reshape(m, n)
            rows = w[group * filters + i0 :, k0:]
            beta = 0 if k0 == 0 else 1
            gemm(address, rows, False, panel, False, beta, tile, m, n, k1 - k0, taps, n, n)
            if k1 == taps:
                k = group * filters + i0
                store(tile, 0, k, k + m, j0, j1, bias, relu, y)


@njit(cache=True, nogil=True, parallel=True)
def _forward(address, x, w, bias, relu, groups, geometry, blocks, y, panels, products):
    for worker in prange(len(panels)):
        # prange counts in uint64; converted, the core's kernel is compiled once and not twice.
        core = np.int64(worker)
        _forward_on_core(
            core, address, x, w, bias, relu, groups, geometry, blocks, y, panels, products
        )


@njit(cache=True, nogil=True)
def _input_grad_on_core(
    worker, address, dy, w, groups, geometry, blocks, dx, all_panels, all_gathered
):
    """Tasks are (group, KC taps of whole channels, MC images); steps run over their tiles."""
    MC, NC, KC, _, _ = blocks
    panels, gathered = all_panels[worker], all_gathered[worker]
    N, C = dx.shape[0], dx.shape[1] // groups
    K, taps = w.shape
    filters = K // groups
    pixels = dy.shape[2]
    taps_per_channel = taps // C
    c_blocks, n_blocks = -(-taps // KC), -(-N // MC)
    first, last = _share(groups * c_blocks * n_blocks, worker, len(all_panels))
    for task in range(first, last):
        group = task // (c_blocks * n_blocks)
        k0, k1 = _block(task // n_blocks % c_blocks, KC, taps)
        n0, n1 = _block(task % n_blocks, MC, N)
        channel = group * C + k0 // taps_per_channel
        dx[n0:n1, channel : channel + (k1 - k0) // taps_per_channel] = 0
        # Tiles are parts of one image, or whole images: they never straddle.
        tiles_per_image = -(-pixels // NC)
        tiles = (n1 - n0) * tiles_per_image if pixels > NC else -(-(n1 - n0) * pixels // NC)
        for step in range(tiles + 1):
            if step < tiles:
                j0, j1 = _tile(step, tiles_per_image, pixels, NC, n0, n1)
                n = j1 - j0
                panel = panels[step % 2, : (k1 - k0) * n].reshape(k1 - k0, n)
                if pixels > NC or n == pixels:  # one image: its rows of dy as they are
                    rows = dy[j0 // pixels, group * filters :, j0 % pixels :]
                    left = w[group * filters :, k0:]
                    gemm(
                        address, left, True, rows, False, 0, panel,
                        k1 - k0, n, filters, taps, pixels, n,
                    )  # fmt: skip
                else:
                    most = len(gathered) // n
                    for i0 in range(group * filters, (group + 1) * filters, most):
                        i1 = min(i0 + most, (group + 1) * filters)
                        matrix = gathered[: (i1 - i0) * n].reshape(i1 - i0, n)
                        gather(dy, i0, i1, j0, j1, matrix, 0)
                        beta = 0 if i0 == group * filters else 1
                        gemm(
                            address, w[i0:, k0:], True, matrix, False, beta, panel,
                            k1 - k0, n, i1 - i0, taps, n, n,
                        )  # fmt: skip
            if step > 0:
                j0, j1 = _tile(step - 1, tiles_per_image, pixels, NC, n0, n1)
                panel = panels[(step - 1) % 2, : (k1 - k0) * (j1 - j0)].reshape(k1 - k0, j1 - j0)
                raise_add(panel, 0, group * C, k0, k1, j0, j1, geometry, dx)


@njit(cache=True, nogil=True)
def _tile(index, tiles_per_image, pixels, NC, n0, n1):
    """Return the pixels (of the batch) of one tile of the images ``n0:n1``."""
    if pixels > NC:
        start = (n0 + index // tiles_per_image) * pixels
        j0, j1 = _block(index % tiles_per_image, NC, pixels)
        return start + j0, start + j1
    j0, j1 = _block(index, NC, (n1 - n0) * pixels)
    return n0 * pixels + j0, n0 * pixels + j1


@njit(cache=True, nogil=True, parallel=True)
def _input_grad(address, dy, w, groups, geometry, blocks, dx, panels, gathered):
    for worker in prange(len(panels)):
        # prange counts in uint64; converted, the core's kernel is compiled once and not twice.
        core = np.int64(worker)
        _input_grad_on_core(core, address, dy, w, groups, geometry, blocks, dx, panels, gathered)


@njit(cache=True, nogil=True)
def _weight_grad_on_core(
    worker, address, dy, x, groups, geometry, blocks, partial, all_panels, all_gathered
):
    """Tasks are (split, group, KC taps, MC filters); steps run over the tiles of the split."""
    MC, NC, KC, _, splits = blocks
    panels, gathered = all_panels[worker], all_gathered[worker]
    _, K, taps = partial.shape
    filters, channels = K // groups, x.shape[1] // groups
    N, pixels = dy.shape[0], dy.shape[2]
    m_blocks, k_blocks = -(-filters // MC), -(-taps // KC)
    tiles_per_image = -(-pixels // NC)
    tiles = N * tiles_per_image if pixels > NC else -(-N * pixels // NC)
    first, last = _share(splits * groups * k_blocks * m_blocks, worker, len(all_panels))
    for task in range(first, last):
        split = task // (groups * k_blocks * m_blocks)
        group = task // (k_blocks * m_blocks) % groups
        k0, k1 = _block(task // m_blocks % k_blocks, KC, taps)
        i0, i1 = _block(task % m_blocks, MC, filters)
        row = group * filters + i0
        target = partial[split, row:, k0:]
        begin, end = _share(tiles, split, splits)
        for step in range(begin, end + 1):
            if step < end:
                j0, j1 = _tile(step, tiles_per_image, pixels, NC, 0, N)
                panel = panels[step % 2, : (k1 - k0) * (j1 - j0)].reshape(k1 - k0, j1 - j0)
                lower(x, group * channels, k0, k1, j0, j1, geometry, panel, 0)
            if step > begin:
                j0, j1 = _tile(step - 1, tiles_per_image, pixels, NC, 0, N)
                n = j1 - j0
                panel = panels[(step - 1) % 2]
                beta = 0 if step == begin + 1 else 1
                if pixels > NC or n == pixels:
                    gemm(
                        address, dy[j0 // pixels, row:, j0 % pixels :], False, panel, True, beta,
                        target, i1 - i0, k1 - k0, n, pixels, n, taps,
                    )  # fmt: skip
                else:
                    matrix = gathered[: (i1 - i0) * n].reshape(i1 - i0, n)
                    gather(dy, row, row + i1 - i0, j0, j1, matrix, 0)
                    gemm(
                        address, matrix, False, panel, True, beta,
                        target, i1 - i0, k1 - k0, n, n, n, taps,
                    )  # fmt: skip


@njit(cache=True, nogil=True, parallel=True)
def _weight_grad(address, dy, x, groups, geometry, blocks, partial, dw, panels, gathered):
    for worker in prange(len(panels)):
        # prange counts in uint64; converted, the core's kernel is compiled once and not twice.
        core = np.int64(worker)
        _weight_grad_on_core(
            core, address, dy, x, groups, geometry, blocks, partial, panels, gathered
        )
    splits, K, taps = partial.shape
    if splits > 1:
        for k in prange(K):  # the order of the additions does not depend on the threads
            for i in range(taps):
                total = partial[0, k, i]
                for split in range(1, splits):
                    total += partial[split, k, i]
                dw[k, i] = total


class Pipelined:
    """Panels that stay in cache, each multiplied by BLAS on the core that lowered it."""

    name = "pipelined"
    adds = False
    uses_blas = True

    def __init__(self, problem: ConvProblem, op: Op, threads: int, constant: bool = False) -> None:
        extent = max(problem.P * problem.Q, problem.gemm_shape("forward")[2])
        if extent > GEMM_LIMIT:  # the distance of two rows of an operand
            raise MemoryError(f"GEMM with rows of {extent}: BLAS takes extents up to {GEMM_LIMIT}")
        self.problem = problem
        blocks = {
            "forward": forward_blocking,
            "input_grad": input_grad_blocking,
            "weight_grad": weight_grad_blocking,
        }[op](problem)
        self.blocks = blocks
        workers = min(threads, blocks.tasks)
        panel = blocks.KC * blocks.NC
        taps = problem.gemm_shape("forward")[2]
        if op == "input_grad":
            filters = problem.K // problem.groups
            # Only tiles of several images are gathered.
            several = blocks.NC > problem.P * problem.Q
            extra = min(filters, max(1, panel // blocks.NC)) * blocks.NC if several else 0
        else:
            extra = blocks.MC * blocks.NC
        partial = (blocks.splits if blocks.splits > 1 else 0, problem.K, taps)
        self.shapes = ((workers, 2, panel), (workers, extra), partial)
        self.workspace_items = carved_items(problem.dtype, *self.shapes)
        self.blocking = {
            "blocks": f"MC={blocks.MC} NC={blocks.NC} KC={blocks.KC}",
            "tasks": f"{blocks.tasks} on {workers} cores",
            "panels": f"2 x {panel * problem.dtype.itemsize} bytes per core",
        }
        if blocks.splits > 1:
            self.blocking["splits"] = f"{blocks.splits} partial sums over the pixels"

    def accumulate(self, add: bool) -> None:
        """Do nothing: results are stored as they are."""

    def forward(self, x: Array, w: Array, epilogue: Epilogue, y: Array, workspace: Scratch) -> None:
        """Compute `y`."""
        N, K = y.shape[:2]
        panels, products, _ = workspace.carve(*self.shapes)
        _forward(
            gemm_address(y.dtype),
            x,
            w.reshape(K, -1),
            *epilogue,
            self.problem.groups,
            self.problem.geometry,
            self.blocks,
            y.reshape(N, K, -1),
            panels,
            products,
        )

    def input_grad(self, dy: Array, w: Array, dx: Array, workspace: Scratch) -> None:
        """Compute `dx`."""
        N, K = dy.shape[:2]
        panels, gathered, _ = workspace.carve(*self.shapes)
        _input_grad(
            gemm_address(dy.dtype),
            dy.reshape(N, K, -1),
            w.reshape(K, -1),
            self.problem.groups,
            self.problem.geometry,
            self.blocks,
            dx,
            panels,
            gathered,
        )

    def weight_grad(self, dy: Array, x: Array, dw: Array, workspace: Scratch) -> None:
        """Compute `dw`."""
        N, K = dy.shape[:2]
        panels, gathered, partial = workspace.carve(*self.shapes)
        matrix = dw.reshape(K, -1)
        _weight_grad(
            gemm_address(dy.dtype),
            dy.reshape(N, K, -1),
            x,
            self.problem.groups,
            self.problem.geometry,
            self.blocks,
            partial if self.blocks.splits > 1 else matrix[None],
            matrix,
            panels,
            gathered,
        )
