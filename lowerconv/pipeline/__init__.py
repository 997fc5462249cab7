"""How pieces of a convolution are laid over the cores: one class per algorithm."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from lowerconv.pipeline.direct import Direct
from lowerconv.pipeline.lowering import Lowering
from lowerconv.pipeline.pipelined import Pipelined
from lowerconv.problem import ConvProblem, Op


class Pipeline(Protocol):
    """What every algorithm offers.  Arrays are C-contiguous and checked; scratch is undefined."""

    name: str
    workspace_items: int  # of the problem's dtype, for all cores together
    blocking: dict[str, str]  # for people

    def __init__(self, problem: ConvProblem, op: Op, threads: int) -> None: ...

    def forward(
        self,
        x: np.ndarray,
        w: np.ndarray,
        bias: np.ndarray,
        relu: bool,
        y: np.ndarray,
        workspace: np.ndarray,
    ) -> None:
        """Compute `y`; an empty `bias` stands for none."""

    def input_grad(
        self, dy: np.ndarray, w: np.ndarray, dx: np.ndarray, workspace: np.ndarray
    ) -> None:
        """Compute `dx`."""

    def weight_grad(
        self, dy: np.ndarray, x: np.ndarray, dw: np.ndarray, workspace: np.ndarray
    ) -> None:
        """Compute `dw`."""


PIPELINES: dict[str, type[Pipeline]] = {
    pipeline.name: pipeline for pipeline in (Direct, Lowering, Pipelined)
}


def choose(problem: ConvProblem, op: Op, threads: int) -> tuple[str, str]:
    """Return the name of the fastest algorithm for a pass, and why it should be."""
    filters, channels = problem.K // problem.groups, problem.C // problem.groups
    if min(filters, channels) == 1 and problem.groups > 1:
        return "direct", "one filter or one channel per group leaves nothing for a GEMM to reuse"
    return "pipelined", "panels stay in cache, whatever the size of the layer"
