"""Simple convolution over cores: every row of the result (or filter) is one piece of work."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from lowerconv.codegen.ranges import share
from lowerconv.conv.algorithm import Algorithm
from lowerconv.conv.direct_nest import forward_row, input_grad_row, weight_grad_filter
from lowerconv.conv.executable import Array, Executable, Options
from lowerconv.conv.phases import countable
from lowerconv.conv.problem import ConvProblem, Op
from lowerconv.runtime.launch import parallel
from lowerconv.runtime.team import TeamHandle
from lowerconv.runtime.workspace import Scratch


@parallel
def _forward(worker, workers, x, w, bias, relu, groups, geometry, y):
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


@parallel
def _input_grad(worker, workers, dy, w, groups, geometry, dx):
    N, C, H, _ = dx.shape
    first, last = share(N * C * H, worker, workers)
    for piece in range(first, last):
        n, c, h = piece // (C * H), piece // H % C, piece % H
        input_grad_row(dy, w, n, c, h, groups, geometry, dx[n, c, h])


@parallel
def _weight_grad(worker, workers, dy, x, groups, geometry, dw):
    K, C = dw.shape[0], dw.shape[1]
    first, last = share(K * C, worker, workers)
    for piece in range(first, last):
        k, c = piece // C, piece % C
        weight_grad_filter(dy, x, k, c, groups, geometry, dw[k, c])


class _Direct(Executable):
    """What the three passes have in common."""

    def __init__(self, problem: ConvProblem, options: Options) -> None:
        super().__init__(options.threads)
        self.problem, self.relu = problem, options.relu


class DirectForward(_Direct):
    """The loop nest of the forward pass."""

    def explain(self) -> dict[str, str]:
        """Return what is shared out."""
        return {"pieces": f"{self.problem.N * self.problem.K * self.problem.P} rows of y"}

    def run(
        self, team: TeamHandle, a: Array, b: Array, bias: Array, out: Array, workspace: Scratch
    ) -> None:
        """Compute y."""
        p = self.problem
        _forward(team, a, b, bias, self.relu, p.groups, p.geometry, out)


class DirectInputGrad(_Direct):
    """The loop nest of the input gradient."""

    def explain(self) -> dict[str, str]:
        """Return what is shared out."""
        return {"pieces": f"{self.problem.N * self.problem.C * self.problem.H} rows of dx"}

    def run(
        self, team: TeamHandle, a: Array, b: Array, bias: Array, out: Array, workspace: Scratch
    ) -> None:
        """Compute dx."""
        _input_grad(team, a, b, self.problem.groups, self.problem.geometry, out)


class DirectWeightGrad(_Direct):
    """The loop nest of the weight gradient."""

    def explain(self) -> dict[str, str]:
        """Return what is shared out."""
        p = self.problem
        return {"pieces": f"{p.K * p.C // p.groups} filter planes of dw"}

    def run(
        self, team: TeamHandle, a: Array, b: Array, bias: Array, out: Array, workspace: Scratch
    ) -> None:
        """Compute dw."""
        _weight_grad(team, a, b, self.problem.groups, self.problem.geometry, out)


PASSES: dict[Op, Callable[[ConvProblem, Options], Executable]] = {
    "forward": DirectForward,
    "input_grad": DirectInputGrad,
    "weight_grad": DirectWeightGrad,
}


def estimate(problem: ConvProblem, op: Op, constant: bool) -> float:
    """Return infinity wherever anything else can run: all else is faster.

    Else the FLOP, which are compared with nothing.
    """
    return inf if countable(problem) else float(problem.flops)


def build(problem: ConvProblem, op: Op, options: Options) -> Executable:
    """Return the loop nest of a pass."""
    return PASSES[op](problem, options)


SLOW = 5e7  # FLOP from which tuning need not try

ALGORITHM = Algorithm(
    name="direct",
    reason="an image is larger than BLAS and tables of offsets can count",
    estimate=estimate,
    build=build,
    tuned_below=SLOW,
)
