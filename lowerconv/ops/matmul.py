"""One matrix product, shared by the cores.

Each core calls the single-threaded BLAS on a block of the result.  BLAS's own threads are not
used: they would wait, spinning, on the cores that our threads need next.
"""

from __future__ import annotations

import numpy as np

from lowerconv.codegen.compiled import internal, njit
from lowerconv.codegen.ranges import share
from lowerconv.ops.blas import GEMM_LIMIT, blas, gemm, hold, release
from lowerconv.runtime.launch import run_on_team
from lowerconv.runtime.team import TeamHandle
from lowerconv.runtime.threads import run

PIECES = 64  #            blocks that a product is cut into at most
PIECE_FLOPS = 1_000_000  # that a block has at least, some ten microseconds of one core
WIDTH, HEIGHT = 256, 64  # columns and rows that a block has at least


@internal
def _blocks(worker, workers, address, product, parts):
    """One product per group; the operands of a group are consecutive rows of the arrays."""
    a, trans_a, b, trans_b, beta, c, groups, k = product
    parts_m, parts_n = parts
    m, n = c.shape[0] // groups, c.shape[1]
    lda, ldb, ldc = a.shape[1], b.shape[1], c.shape[1]
    first, last = share(groups * parts_m * parts_n, worker, workers)
    for part in range(first, last):
        group = part // (parts_m * parts_n)
        i, j = part // parts_n % parts_m, part % parts_n
        i0, i1 = m * i // parts_m, m * (i + 1) // parts_m
        j0, j1 = n * j // parts_n, n * (j + 1) // parts_n
        if i0 == i1 or j0 == j1:
            continue
        A = a[group * k :, i0:] if trans_a else a[group * m + i0 :, :]
        B = b[group * n + j0 :, :] if trans_b else b[group * k :, j0:]
        C = c[group * m + i0 :, j0:]
        gemm(address, A, trans_a, B, trans_b, beta, C, i1 - i0, j1 - j0, k, lda, ldb, ldc)


@njit(cache=True, nogil=True)
def _multiply(team, blas, product, parts):
    hold(blas.threads)
    run_on_team(team, _blocks, (blas.gemm, product, parts))
    release(blas.threads)


def split(m: int, n: int, k: int) -> tuple[int, int]:
    """Return into how many blocks to cut the rows and the columns of an m x n result.

    The cut does not depend on the number of threads: BLAS rounds an element in the last bit by its
    place in a block.  Blocks are wide, because each reads its rows and columns of the operands once
    more, but there are enough of them for many cores where there is enough to do.
    """
    most = max(1, min(PIECES, 2 * m * n * k // PIECE_FLOPS))
    parts_n = max(1, min(most, n // WIDTH))
    parts_m = max(1, min(most // parts_n, m // HEIGHT))
    return parts_m, parts_n


def multiply(
    team: TeamHandle,
    a: np.ndarray,
    b: np.ndarray,
    c: np.ndarray,
    *,
    trans_a: bool = False,
    trans_b: bool = False,
    groups: int = 1,
    add: bool = False,
) -> None:
    """Compute ``c = a b``, or add it, for row-major matrices, the work shared by the cores.

    With `groups`, the rows of each matrix are that many blocks one under the other, and each block
    of `c` is the product of its blocks of `a` and `b`.  Call it inside `parallel_region`; `matmul`
    does.
    """
    k = a.shape[0] // groups if trans_a else a.shape[1]
    m, n = c.shape[0] // groups, c.shape[1]
    if max(m, n, k, a.shape[1], b.shape[1]) > GEMM_LIMIT:
        raise MemoryError(f"GEMM of {m} x {n} x {k}: BLAS takes extents up to {GEMM_LIMIT}")
    product = a, trans_a, b, trans_b, int(add), c, groups, k
    _multiply(team, blas(c.dtype), product, split(m, n, k))


def matmul(
    a: np.ndarray,
    b: np.ndarray,
    c: np.ndarray,
    *,
    trans_a: bool = False,
    trans_b: bool = False,
    add: bool = False,
) -> None:
    """Compute ``c = a b``, or add it, for row-major matrices, outside any other region."""
    run(multiply, a, b, c, trans_a=trans_a, trans_b=trans_b, add=add)
