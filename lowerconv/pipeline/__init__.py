"""How pieces of a convolution are laid over the cores: one class per algorithm."""

from __future__ import annotations

from typing import Protocol

from lowerconv.kernels.blas import GEMM_LIMIT
from lowerconv.kernels.epilogue import Array, Epilogue
from lowerconv.machine.workspace import Scratch
from lowerconv.pipeline.direct import Direct
from lowerconv.pipeline.fused import Fused
from lowerconv.pipeline.lowering import Lowering
from lowerconv.pipeline.pipelined import Pipelined
from lowerconv.problem import ConvProblem, Op


class Pipeline(Protocol):
    """What every algorithm offers.  Arrays are C-contiguous and checked; scratch is undefined.

    `constant` promises that filters do not change between calls, so that they may be kept packed.
    """

    name: str
    workspace_items: int  # of the problem's dtype, for all cores together
    blocking: dict[str, str]  # for people
    uses_blas: bool

    def __init__(
        self, problem: ConvProblem, op: Op, threads: int, constant: bool = False
    ) -> None: ...

    def forward(self, x: Array, w: Array, epilogue: Epilogue, y: Array, workspace: Scratch) -> None:
        """Compute `y`."""

    def input_grad(self, dy: Array, w: Array, dx: Array, workspace: Scratch) -> None:
        """Compute `dx`."""

    def weight_grad(self, dy: Array, x: Array, dw: Array, workspace: Scratch) -> None:
        """Compute `dw`."""


PIPELINES: dict[str, type[Pipeline]] = {
    pipeline.name: pipeline for pipeline in (Direct, Lowering, Pipelined, Fused)
}


# Bounds below which an algorithm other than pipelined lowering is faster.
FEW_PRODUCTS = 8  # filters x channels of a group, as in depthwise convolution
FEW_PIXELS = 64  # of the whole batch: cut into panels for several cores, they are narrow
FEW_PLANES = 8  #   of the image gradient: a core owns whole planes, so some cores would be idle


def choose(problem: ConvProblem, op: Op) -> tuple[str, str]:
    """Return the name of the fastest algorithm for a pass, and why it should be.

    Measured with ``python -m bench.algorithms``.  The choice does not depend on the number of
    threads, because algorithms differ in the last bits of their results.
    """
    filters, channels = problem.K // problem.groups, problem.C // problem.groups
    if problem.P * problem.Q > GEMM_LIMIT:
        return "direct", "an output image is larger than BLAS can count"
    if filters * channels <= FEW_PRODUCTS:
        return "direct", "so few filters and channels that a GEMM finds nothing to reuse"
    if op == "forward" and problem.N * problem.P * problem.Q < FEW_PIXELS:
        return "lowering", "so few pixels that all cores had better share one panel"
    if op == "input_grad" and problem.N * problem.C < FEW_PLANES:
        return "lowering", "so few channels that cores owning whole ones would be idle"
    return "pipelined", "panels stay in cache, whatever the size of the layer"
