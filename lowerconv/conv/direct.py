"""Simple convolution over cores: every row of the result (or filter) is one piece of work."""

from __future__ import annotations

from lowerconv.codegen.compiled import njit
from lowerconv.conv.blas.epilogue import Array, Epilogue
from lowerconv.conv.direct_nest import forward_row, input_grad_row, weight_grad_filter
from lowerconv.conv.problem import ConvProblem, Op
from lowerconv.copying import not_copied
from lowerconv.runtime.launch import share, spread
from lowerconv.runtime.team import Handle
from lowerconv.runtime.workspace import Scratch


@njit(cache=True, nogil=True)
def _forward_share(worker, workers, x, w, bias, relu, groups, geometry, y):
    N, K, P, Q = y.shape
    first, last = share(N * K * P, worker, workers)
    for piece in range(first, last):
        n, k, p = piece // (K * P), piece // P % K, piece % P
        row = y[n, k, p]
        forward_row(x, w, n, k, p, groups, geometry, row)
        shift = bias[k] if bias.size else y.dtype.type(0)
        for q in range(Q):
            value = row[q] + shift
            row[q] = y.dtype.type(0) if relu and value < 0 else value


@njit(cache=True, nogil=True)
def _forward(team, x, w, bias, relu, groups, geometry, y):
    spread(team, _forward_share, (x, w, bias, relu, groups, geometry, y))


@njit(cache=True, nogil=True)
def _input_grad_share(worker, workers, dy, w, groups, geometry, dx):
    N, C, H, _ = dx.shape
    first, last = share(N * C * H, worker, workers)
    for piece in range(first, last):
        n, c, h = piece // (C * H), piece // H % C, piece % H
        input_grad_row(dy, w, n, c, h, groups, geometry, dx[n, c, h])


@njit(cache=True, nogil=True)
def _input_grad(team, dy, w, groups, geometry, dx):
    spread(team, _input_grad_share, (dy, w, groups, geometry, dx))


@njit(cache=True, nogil=True)
def _weight_grad_share(worker, workers, dy, x, groups, geometry, dw):
    K, C = dw.shape[0], dw.shape[1]
    first, last = share(K * C, worker, workers)
    for piece in range(first, last):
        k, c = piece // C, piece % C
        weight_grad_filter(dy, x, k, c, groups, geometry, dw[k, c])


@njit(cache=True, nogil=True)
def _weight_grad(team, dy, x, groups, geometry, dw):
    spread(team, _weight_grad_share, (dy, x, groups, geometry, dw))


@not_copied("copy the ConvPlan that it is a part of")
class Direct:
    """The loop nest, without lowering and without workspace: slow, short, and the oracle."""

    name = "direct"
    adds = False
    slices = False
    pairs = False

    def __init__(self, problem: ConvProblem, op: Op, threads: int, constant: bool = False) -> None:
        self.problem = problem
        self.threads = threads
        self.workspace_items = 0
        pieces = {
            "forward": f"{problem.N * problem.K * problem.P} rows of y",
            "input_grad": f"{problem.N * problem.C * problem.H} rows of dx",
            "weight_grad": f"{problem.K * problem.C // problem.groups} filter planes of dw",
        }
        self.blocking = {"pieces": pieces[op]}

    def accumulate(self, add: bool) -> None:
        """Do nothing: results are stored as they are."""

    def hold(self, team: Handle, w: Array, workspace: Scratch) -> Array:
        """Return the filters: they are read as they are."""
        return w

    def forward(
        self, team: Handle, x: Array, w: Array, epilogue: Epilogue, y: Array, workspace: Scratch
    ) -> None:
        """Compute `y`."""
        _forward(team, x, w, *epilogue, self.problem.groups, self.problem.geometry, y)

    def input_grad(self, team: Handle, dy: Array, w: Array, dx: Array, workspace: Scratch) -> None:
        """Compute `dx`."""
        _input_grad(team, dy, w, self.problem.groups, self.problem.geometry, dx)

    def weight_grad(self, team: Handle, dy: Array, x: Array, dw: Array, workspace: Scratch) -> None:
        """Compute `dw`."""
        _weight_grad(team, dy, x, self.problem.groups, self.problem.geometry, dw)
