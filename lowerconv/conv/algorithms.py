"""How pieces of a convolution are laid over the cores: one class per algorithm."""

from __future__ import annotations

from typing import Protocol

from lowerconv.conv.blas.epilogue import Array, Epilogue
from lowerconv.conv.blas.lowered import Lowering
from lowerconv.conv.blas.pipelined import Paired, Pipelined
from lowerconv.conv.direct import Direct
from lowerconv.conv.fused import Fused
from lowerconv.conv.problem import ConvProblem, Op
from lowerconv.conv.winograd import Winograd, gain
from lowerconv.ops.blas import GEMM_LIMIT
from lowerconv.runtime.team import Handle
from lowerconv.runtime.workspace import Scratch


class Pipeline(Protocol):
    """What every algorithm offers.  Arrays are C-contiguous and checked; scratch is undefined.

    `constant` promises that filters do not change between calls, so that they may be kept packed.
    """

    name: str
    workspace_items: int  # of the problem's dtype, for all cores together
    blocking: dict[str, str]  # for people
    threads: int  # that the team needs
    pairs: bool  # whether threads 2i and 2i + 1 work together
    adds: bool  # whether `accumulate` has an effect
    slices: bool  # whether images may be some channels of larger ones

    def __init__(
        self, problem: ConvProblem, op: Op, threads: int, constant: bool = False
    ) -> None: ...

    def accumulate(self, add: bool) -> None:
        """Add to the results from now on, where the algorithm can do so while it stores them."""

    def hold(self, team: Handle, w: Array, workspace: Scratch) -> Array:
        """Return what calls are given instead of the filters: what is kept of them, or `w`."""

    def forward(
        self, team: Handle, x: Array, w: Array, epilogue: Epilogue, y: Array, workspace: Scratch
    ) -> None:
        """Compute `y`."""

    def input_grad(self, team: Handle, dy: Array, w: Array, dx: Array, workspace: Scratch) -> None:
        """Compute `dx`."""

    def weight_grad(self, team: Handle, dy: Array, x: Array, dw: Array, workspace: Scratch) -> None:
        """Compute `dw`."""


PIPELINES: dict[str, type[Pipeline]] = {
    pipeline.name: pipeline for pipeline in (Direct, Lowering, Pipelined, Paired, Fused, Winograd)
}


# Pixels of a batch below which there is so little to reuse that the filters, or their gradient,
# only pass by: then BLAS, which reads them where they are, is faster.
FEW_PIXELS = {"forward": 3, "input_grad": 3, "weight_grad": 8}
FEW_PIXELS_RxS = {"forward": 3, "input_grad": 16, "weight_grad": 24}
PHASES_MAX = 64  # of an input gradient, each with a microkernel of its own
CLEARLY = 1.3  # faster by the prices than the fused engine, whose rounding is the plain one


def choose(problem: ConvProblem, op: Op, constant: bool = False) -> tuple[str, str]:
    """Return the name of the fastest algorithm for a pass, and why it should be.

    Measured with ``python -m bench.compare``.  The choice does not depend on the number of
    threads, because algorithms differ in the last bits of their results.
    """
    if max(problem.H * problem.W, problem.P * problem.Q) > GEMM_LIMIT:
        return "direct", "an image is larger than BLAS and tables of offsets can count"
    rows, columns = problem.geometry.stride_h, problem.geometry.stride_w
    if op == "input_grad" and rows * columns > PHASES_MAX:
        return "pipelined", "with so long a stride most pixels are a convolution of their own"
    pixels = problem.N * problem.P * problem.Q
    plain = problem.R * problem.S == 1
    few = (FEW_PIXELS if plain else FEW_PIXELS_RxS)[op]
    depthwise = problem.groups > 1 and problem.groups in (problem.C, problem.K)
    if pixels < few and not depthwise and problem.gemm_shape("forward")[2] <= GEMM_LIMIT:
        return "lowering", "so few pixels that the filters only pass by"
    if gain(problem, op, constant) > CLEARLY:
        return "winograd", "3x3 taps and enough to do that fewer multiplications pay for transforms"
    return "fused", "microkernels multiply straight from the image"
