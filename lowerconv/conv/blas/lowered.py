"""Lowering convolution: the whole layer is lowered to one matrix, then multiplied.

The lowered matrix is R*S times the size of the image batch.  Writing and reading it is bound by
memory, the product by arithmetic: two bottlenecks, met one after the other.
"""

from __future__ import annotations

from lowerconv.codegen.compiled import njit
from lowerconv.conv.blas.epilogue import Array, Epilogue, gather, store
from lowerconv.conv.blas.im2col import lower, raise_add
from lowerconv.conv.problem import ConvProblem, Op
from lowerconv.copying import not_copied
from lowerconv.ops.matmul import multiply
from lowerconv.runtime.launch import share, spread
from lowerconv.runtime.team import Handle
from lowerconv.runtime.workspace import Scratch, carved_items

PIXELS_PER_PIECE = 4096  # of one row of the lowered matrix: a few pages, copied at a stretch


@njit(cache=True, nogil=True)
def _lower_all_share(worker, workers, x, geometry, col):
    rows, pixels = col.shape
    blocks = (pixels + PIXELS_PER_PIECE - 1) // PIXELS_PER_PIECE
    first, last = share(rows * blocks, worker, workers)
    for piece in range(first, last):
        k, j0 = piece // blocks, piece % blocks * PIXELS_PER_PIECE
        j1 = min(j0 + PIXELS_PER_PIECE, pixels)
        # Rows of all groups follow each other, so k counts the taps of the whole image.
        lower(x, 0, k, k + 1, j0, j1, geometry, col[k : k + 1], j0)


@njit(cache=True, nogil=True)
def _lower_all(team, x, geometry, col):
    spread(team, _lower_all_share, (x, geometry, col))


@njit(cache=True, nogil=True)
def _raise_all_share(worker, workers, col, geometry, dx):
    N, C = dx.shape[:2]
    taps = geometry.R * geometry.S
    pixels = geometry.P * geometry.Q
    first, last = share(N * C, worker, workers)
    for piece in range(first, last):
        n, c = piece // C, piece % C
        dx[n, c] = 0
        block = col[c * taps : (c + 1) * taps]
        raise_add(block, n * pixels, c, 0, taps, 0, pixels, geometry, dx[n : n + 1])


@njit(cache=True, nogil=True)
def _raise_all(team, col, geometry, dx):
    spread(team, _raise_all_share, (col, geometry, dx))


@njit(cache=True, nogil=True)
def _store_all_share(worker, workers, product, bias, relu, y):
    N, K, pixels = y.shape
    first, last = share(N * K, worker, workers)
    for piece in range(first, last):
        n, k = piece // K, piece % K
        store(product[k : k + 1], n * pixels, k, k + 1, 0, pixels, bias, relu, y[n : n + 1])


@njit(cache=True, nogil=True)
def _store_all(team, product, bias, relu, y):
    spread(team, _store_all_share, (product, bias, relu, y))


@njit(cache=True, nogil=True)
def _gather_all_share(worker, workers, y, matrix):
    N, K, pixels = y.shape
    first, last = share(N * K, worker, workers)
    for piece in range(first, last):
        n, k = piece // K, piece % K
        gather(y[n : n + 1], k, k + 1, 0, pixels, matrix[k : k + 1], n * pixels)


@njit(cache=True, nogil=True)
def _gather_all(team, y, matrix):
    spread(team, _gather_all_share, (y, matrix))


@not_copied("copy the ConvPlan that it is a part of")
class Lowering:
    """im2col of the whole layer, one GEMM (one per group), and col2im for the input gradient."""

    name = "lowering"
    adds = False
    slices = False
    pairs = False

    def __init__(self, problem: ConvProblem, op: Op, threads: int, constant: bool = False) -> None:
        self.problem = problem
        self.threads = threads
        pixels = problem.N * problem.P * problem.Q
        self.col_shape = (problem.C * problem.R * problem.S, pixels)
        # The product of a batch is a matrix in (K, N) order; of one image it is y itself.
        self.matrix_shape = (problem.K, pixels if problem.N > 1 else 0)
        self.workspace_items = carved_items(problem.dtype, self.col_shape, self.matrix_shape)
        self.blocking = {"lowered matrix": "{} x {}".format(*self.col_shape)}

    def _carve(self, workspace: Scratch) -> list[Array]:
        return workspace.carve(self.col_shape, self.matrix_shape)

    def _as_matrix(self, team: Handle, y: Array, matrix: Array) -> Array:
        """Return `y` in matrix order, (K, pixels of the batch)."""
        N, K = y.shape[:2]
        if N == 1:
            return y.reshape(K, -1)
        _gather_all(team, y.reshape(N, K, -1), matrix)
        return matrix

    def accumulate(self, add: bool) -> None:
        """Do nothing: results are stored as they are."""

    def hold(self, team: Handle, w: Array, workspace: Scratch) -> Array:
        """Return the filters: they are read as they are."""
        return w

    def forward(
        self, team: Handle, x: Array, w: Array, epilogue: Epilogue, y: Array, workspace: Scratch
    ) -> None:
        """Compute `y`."""
        N, K = y.shape[:2]
        col, matrix = self._carve(workspace)
        product = y.reshape(K, -1) if N == 1 else matrix
        _lower_all(team, x, self.problem.geometry, col)
        multiply(team, w.reshape(K, -1), col, product, groups=self.problem.groups)
        if N > 1 or epilogue.relu or epilogue.bias.size:
            _store_all(team, product, *epilogue, y.reshape(N, K, -1))

    def input_grad(self, team: Handle, dy: Array, w: Array, dx: Array, workspace: Scratch) -> None:
        """Compute `dx`."""
        col, matrix = self._carve(workspace)
        multiply(
            team,
            w.reshape(len(w), -1),
            self._as_matrix(team, dy, matrix),
            col,
            trans_a=True,
            groups=self.problem.groups,
        )
        _raise_all(team, col, self.problem.geometry, dx)

    def weight_grad(self, team: Handle, dy: Array, x: Array, dw: Array, workspace: Scratch) -> None:
        """Compute `dw`."""
        col, matrix = self._carve(workspace)
        _lower_all(team, x, self.problem.geometry, col)
        multiply(
            team,
            self._as_matrix(team, dy, matrix),
            col,
            dw.reshape(len(dw), -1),
            trans_b=True,
            groups=self.problem.groups,
        )
