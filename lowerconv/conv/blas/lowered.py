"""Lowering convolution: the whole layer is lowered to one matrix, then multiplied.

The lowered matrix is R*S times the size of the image batch.  Writing and reading it is bound by
memory, the product by arithmetic: two bottlenecks, met one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from lowerconv.codegen.ranges import share
from lowerconv.conv.algorithm import Algorithm
from lowerconv.conv.blas.epilogue import gather, store
from lowerconv.conv.blas.im2col import Block, col2im, lower
from lowerconv.conv.executable import Array, Executable, Options
from lowerconv.conv.phases import countable, has_many_phases
from lowerconv.conv.problem import ConvProblem, Op
from lowerconv.ops.blas import GEMM_LIMIT
from lowerconv.ops.few_rows import FEW, few_rows
from lowerconv.ops.matmul import multiply
from lowerconv.runtime.launch import parallel
from lowerconv.runtime.team import TeamHandle
from lowerconv.runtime.workspace import Scratch, carved_items

PIXELS_PER_PIECE = 4096  # of one row of the lowered matrix: a few pages, copied at a stretch


@parallel
def _lower_all(worker, workers, x, geometry, col):
    rows, pixels = col.shape
    blocks = (pixels + PIXELS_PER_PIECE - 1) // PIXELS_PER_PIECE
    first, last = share(rows * blocks, worker, workers)
    for piece in range(first, last):
        k, j0 = piece // blocks, piece % blocks * PIXELS_PER_PIECE
        j1 = min(j0 + PIXELS_PER_PIECE, pixels)
        # Rows of all groups follow each other, so k counts the taps of the whole image.
        lower(x, 0, Block(k, k + 1, j0, j1), geometry, col[k : k + 1], j0)


@parallel
def _col2im_all(worker, workers, col, geometry, dx):
    N, C = dx.shape[:2]
    taps = geometry.R * geometry.S
    pixels = geometry.P * geometry.Q
    first, last = share(N * C, worker, workers)
    for piece in range(first, last):
        n, c = piece // C, piece % C
        dx[n, c] = 0
        rows = col[c * taps : (c + 1) * taps]
        col2im(rows, n * pixels, c, Block(0, taps, 0, pixels), geometry, dx[n : n + 1])


@parallel
def _store_all(worker, workers, product, bias, relu, y):
    N, K, pixels = y.shape
    first, last = share(N * K, worker, workers)
    for piece in range(first, last):
        n, k = piece // K, piece % K
        block = Block(k, k + 1, 0, pixels)
        store(product[k : k + 1], n * pixels, block, bias, relu, y[n : n + 1])


@parallel
def _gather_all(worker, workers, y, matrix):
    N, K, pixels = y.shape
    first, last = share(N * K, worker, workers)
    for piece in range(first, last):
        n, k = piece // K, piece % K
        block = Block(k, k + 1, 0, pixels)
        gather(y[n : n + 1], block, matrix[k : k + 1], n * pixels)


class _Lowered(Executable):
    """What the three passes have in common."""

    def __init__(self, problem: ConvProblem, options: Options) -> None:
        super().__init__(options.threads)
        self.problem, self.relu = problem, options.relu
        pixels = problem.N * problem.P * problem.Q
        self.col_shape = (problem.C * problem.R * problem.S, pixels)
        # The product of a batch is a matrix in (K, N) order; of one image it is y itself.
        self.matrix_shape = (problem.K, pixels if problem.N > 1 else 0)
        self.workspace_items = carved_items(problem.dtype, self.col_shape, self.matrix_shape)

    def _as_matrix(self, team: TeamHandle, y: Array, matrix: Array) -> Array:
        """Return `y` in matrix order, (K, pixels of the batch)."""
        N, K = y.shape[:2]
        if N == 1:
            return y.reshape(K, -1)
        _gather_all(team, y.reshape(N, K, -1), matrix)
        return matrix

    def explain(self) -> dict[str, str]:
        """Return the decisions, for people."""
        return {"lowered matrix": "{} x {}".format(*self.col_shape)}


class LoweredForward(_Lowered):
    """im2col of the whole layer, and one GEMM for each group."""

    def run(
        self, team: TeamHandle, a: Array, b: Array, bias: Array, out: Array, workspace: Scratch
    ) -> None:
        """Compute y."""
        N, K = out.shape[:2]
        col, matrix = workspace.carve(self.col_shape, self.matrix_shape)
        product = out.reshape(K, -1) if N == 1 else matrix
        _lower_all(team, a, self.problem.geometry, col)
        multiply(team, b.reshape(K, -1), col, product, groups=self.problem.groups)
        if N > 1 or self.relu or bias.size:
            _store_all(team, product, bias, self.relu, out.reshape(N, K, -1))


class WholeImages(Executable):
    """A forward pass whose filters are as large as the image: images are rows of the product."""

    is_capturable = True

    def __init__(self, problem: ConvProblem, options: Options) -> None:
        super().__init__(options.threads)
        self.relu = options.relu

    @staticmethod
    def takes(problem: ConvProblem) -> bool:
        """Return whether the lowered matrix is the images themselves, few of them."""
        p = problem
        whole = (p.R, p.S) == (p.H, p.W) and p.dilation == (1, 1) and p.groups == 1
        return whole and not any(map(sum, p.padding)) and p.N <= FEW

    def run(
        self, team: TeamHandle, a: Array, b: Array, bias: Array, out: Array, workspace: Scratch
    ) -> None:
        """Compute y."""
        N, K = out.shape[:2]
        few_rows(
            team, a.reshape(N, -1), b.reshape(K, -1), bias, out.reshape(N, K), self.relu, False
        )

    def explain(self) -> dict[str, str]:
        """Return the decisions, for people."""
        return {"lowered matrix": "the image itself, multiplied row by row"}


class LoweredInputGrad(_Lowered):
    """One GEMM for each group, and col2im of the whole layer."""

    def run(
        self, team: TeamHandle, a: Array, b: Array, bias: Array, out: Array, workspace: Scratch
    ) -> None:
        """Compute dx."""
        col, matrix = workspace.carve(self.col_shape, self.matrix_shape)
        dy, groups = self._as_matrix(team, a, matrix), self.problem.groups
        multiply(team, b.reshape(len(b), -1), dy, col, trans_a=True, groups=groups)
        _col2im_all(team, col, self.problem.geometry, out)


class LoweredWeightGrad(_Lowered):
    """im2col of the whole layer, and one GEMM for each group."""

    def run(
        self, team: TeamHandle, a: Array, b: Array, bias: Array, out: Array, workspace: Scratch
    ) -> None:
        """Compute dw."""
        col, matrix = workspace.carve(self.col_shape, self.matrix_shape)
        _lower_all(team, b, self.problem.geometry, col)
        dy, groups = self._as_matrix(team, a, matrix), self.problem.groups
        multiply(team, dy, col, out.reshape(len(out), -1), trans_b=True, groups=groups)


PASSES: dict[Op, Callable[[ConvProblem, Options], Executable]] = {
    "forward": LoweredForward,
    "input_grad": LoweredInputGrad,
    "weight_grad": LoweredWeightGrad,
}

# Pixels of a batch so few that each filter, or its gradient, is used once or twice, and not worth
# packing: then BLAS, which reads them where they are, is faster.
FEW_PIXELS = {"forward": 3, "input_grad": 3, "weight_grad": 8}
FEW_PIXELS_RxS = {"forward": 3, "input_grad": 16, "weight_grad": 24}


def estimate(problem: ConvProblem, op: Op, constant: bool) -> float:
    """Return 0, which no other cost is below, for a few pixels; infinity for more.

    Filters that are kept packed are read once by microkernels, too, where one image is a pixel.
    """
    if op == "forward" and constant and not (WholeImages.takes(problem) and problem.N > 1):
        return inf
    pixels = problem.N * problem.P * problem.Q
    few = (FEW_PIXELS if problem.R * problem.S == 1 else FEW_PIXELS_RxS)[op]
    depthwise = problem.groups > 1 and problem.groups in (problem.C, problem.K)
    fits = countable(problem) and problem.gemm_shape("forward")[2] <= GEMM_LIMIT
    suits = pixels < few and not depthwise and not has_many_phases(problem, op)
    return 0.0 if fits and suits else inf


def build(problem: ConvProblem, op: Op, options: Options) -> Executable:
    """Return a pass by one matrix product."""
    if op == "forward" and WholeImages.takes(problem):
        return WholeImages(problem, options)
    return PASSES[op](problem, options)


ALGORITHM = Algorithm(
    name="lowering",
    reason="so few pixels that packing filters is not worth it",
    estimate=estimate,
    build=build,
)
