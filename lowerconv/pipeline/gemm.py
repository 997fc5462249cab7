"""One matrix product, shared by the cores.

Each core calls the single-threaded BLAS on a block of the result.  BLAS's own threads are not
used: they would wait, spinning, on the cores that our threads need next.
"""

from __future__ import annotations

from math import gcd

import numpy as np
from numba import njit, prange

from lowerconv.kernels.blas import GEMM_LIMIT, gemm, gemm_address, single_threaded_blas
from lowerconv.machine.threads import get_num_threads, parallel_region


@njit(cache=True, nogil=True, parallel=True)
def _multiply(address, a, trans_a, b, trans_b, c, groups, k, parts_m, parts_n):
    """One product per group; the operands of a group are consecutive rows of the arrays."""
    m, n = c.shape[0] // groups, c.shape[1]
    for part in prange(groups * parts_m * parts_n):
        group = part // (parts_m * parts_n)
        i, j = part // parts_n % parts_m, part % parts_n
        i0, i1 = m * i // parts_m, m * (i + 1) // parts_m
        j0, j1 = n * j // parts_n, n * (j + 1) // parts_n
        if i0 == i1 or j0 == j1:
            continue
        a_block = a[group * k :, i0:] if trans_a else a[group * m + i0 :, :]
        b_block = b[group * n + j0 :, :] if trans_b else b[group * k :, j0:]
        c_block = c[group * m + i0 :, j0:]
        lda, ldb, ldc = a.shape[1], b.shape[1], c.shape[1]
        gemm(
            address,
            a_block,
            trans_a,
            b_block,
            trans_b,
            0,
            c_block,
            i1 - i0,
            j1 - j0,
            k,
            lda,
            ldb,
            ldc,
        )


def split(m: int, n: int, pieces: int) -> tuple[int, int]:
    """Cut an m x n result into about `pieces` blocks; returns the cuts of its rows and columns.

    Every block reads its rows of the left and its columns of the right operand once more, so the
    blocks are as square as they can be.
    """
    cuts = [(rows, -(-pieces // rows)) for rows in range(1, pieces + 1)]
    return min(cuts, key=lambda cut: (m / cut[0] + n / cut[1]) * cut[0] * cut[1])


def multiply(
    a: np.ndarray,
    b: np.ndarray,
    c: np.ndarray,
    *,
    threads: int,
    trans_a: bool = False,
    trans_b: bool = False,
    groups: int = 1,
) -> None:
    """Compute ``c = a b`` for row-major matrices, the work shared by `threads` cores.

    With `groups`, the rows of each matrix are that many blocks one under the other, and each block
    of `c` is the product of its blocks of `a` and `b`.  Call it inside `parallel_region` and
    `single_threaded_blas`; `matmul` does.
    """
    k = a.shape[0] // groups if trans_a else a.shape[1]
    m, n = c.shape[0] // groups, c.shape[1]
    if max(m, n, k, a.shape[1], b.shape[1]) > GEMM_LIMIT:
        raise MemoryError(f"GEMM of {m} x {n} x {k}: BLAS takes extents up to {GEMM_LIMIT}")
    # Enough pieces for every core: with g groups, threads / gcd(g, threads) pieces per group give
    # a total that the cores divide evenly.
    pieces = 1 if groups >= 4 * threads else threads // gcd(groups, threads)
    _multiply(gemm_address(c.dtype), a, trans_a, b, trans_b, c, groups, k, *split(m, n, pieces))


def matmul(
    a: np.ndarray, b: np.ndarray, c: np.ndarray, *, trans_a: bool = False, trans_b: bool = False
) -> None:
    """Compute ``c = a b`` for row-major matrices on all threads, outside any other region."""
    threads = get_num_threads()
    with parallel_region(threads), single_threaded_blas():
        multiply(a, b, c, threads=threads, trans_a=trans_a, trans_b=trans_b)
