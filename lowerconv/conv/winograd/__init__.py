"""Winograd's convolution: four by four pixels with 36 products instead of 144.

For filters of 3x3 taps at stride 1 in float32.  Results are rounded differently than by the other
algorithms: on normal data the error is about twice theirs, 8e-7 of the results' root mean square
with 64 channels and 2e-6 with 512 (at worst 6e-6 and 1.5e-5).  A value that is not finite reaches
all pixels of the tiles that read it.
"""

from __future__ import annotations

import numpy as np

from lowerconv.codegen.isa import host_isa
from lowerconv.codegen.transforms import R
from lowerconv.conv.blas.epilogue import Array, Epilogue
from lowerconv.conv.fused import by_planes
from lowerconv.conv.kept import Kept
from lowerconv.conv.lowering import (
    Convolution,
    forward_convolution,
    input_grad_convolution,
)
from lowerconv.conv.problem import ConvProblem, Op
from lowerconv.conv.tiling import tilings
from lowerconv.conv.winograd.nest import prepare_address, winograd_address
from lowerconv.conv.winograd.nest_weights import finish_address, multiply_address, transform_address
from lowerconv.conv.winograd.schedule import Layout
from lowerconv.conv.winograd.schedule_weights import Weights
from lowerconv.copying import not_copied
from lowerconv.runtime.affinity import nodes
from lowerconv.runtime.launch import launch, place, write
from lowerconv.runtime.team import Handle
from lowerconv.runtime.workspace import Scratch


def check(problem: ConvProblem) -> None:
    """Raise ValueError for what the algorithm does not take."""
    p = problem
    for name, got, expected in (
        ("dtype", p.dtype.name, ("float32",)),
        ("filters of R x S", (p.R, p.S), ((R, R),)),
        ("stride", p.stride, ((1, 1),)),
        ("dilation", p.dilation, ((1, 1),)),
    ):
        if got not in expected:
            wanted = " or ".join(map(str, expected))
            raise ValueError(f"algorithm: got 'winograd' where {name} is {got}, expected {wanted}")


def takes(problem: ConvProblem) -> bool:
    """Return whether the algorithm takes a problem."""
    try:
        check(problem)
    except ValueError:
        return False
    return True


def _convolution(problem: ConvProblem, op: Op) -> Convolution:
    return (input_grad_convolution if op == "input_grad" else forward_convolution)(problem)


def _layout(
    problem: ConvProblem, op: Op, threads_nodes: tuple[int, ...], constant: bool
) -> Layout | Weights:
    if op == "weight_grad":
        return Weights(problem, host_isa(), threads_nodes)
    return Layout(_convolution(problem, op), host_isa(), threads_nodes, constant)


def gain(problem: ConvProblem, op: Op, constant: bool) -> float:
    """Return how many times faster than the fused engine it should be; 0 where it cannot run.

    By the prices of both, for one thread: results differ, so that the choice must not depend on
    how many there are.
    """
    if not takes(problem) or by_planes(problem, op):
        return 0.0
    fused = tilings(_convolution(problem, op), host_isa(), constant)[0].cost
    return fused / _layout(problem, op, (0,), constant).cost


@not_copied("copy the ConvPlan that it is a part of")
class Winograd:
    """Winograd's minimal filtering, F(4x4, 3x3), its products on the microkernels of `Fused`."""

    name = "winograd"
    pairs = False
    adds = True
    slices = True

    def __init__(self, problem: ConvProblem, op: Op, threads: int, constant: bool = False) -> None:
        self.threads = threads
        layout = self.layout = _layout(problem, op, nodes(threads), constant)
        layout.build()
        own = layout.workers * layout.scratch_bytes + layout.shared_bytes
        self.workspace_items = own // problem.dtype.itemsize
        self.blocking = layout.explain()
        self._words = layout.job.view(np.int64)
        self._job = layout.job.ctypes.data
        self._nothing = np.empty(0, problem.dtype)
        self._kept_from = Kept()

    def accumulate(self, add: bool) -> None:
        """Add to the results from now on, when they are stored."""
        write(self.layout.job, add=add)

    def _run(
        self, team: Handle, source: Array, filters: Array, target: Array, address: int,
        bias: Array, relu: bool,
    ) -> None:  # fmt: skip
        layout = self.layout
        assert isinstance(layout, Layout)
        place(self._words, source, filters, bias, target, address, relu)
        if layout.kept is None:
            if layout.keeps:
                launch(team, prepare_address(), self._job, layout.workers)
        elif filters is not layout.kept and not self._kept_from.has(filters):
            self._kept_from.forget()  # whatever interrupts it
            launch(team, prepare_address(), self._job, layout.workers)
            self._kept_from.take(filters)
        launch(team, winograd_address(), self._job, layout.workers)

    def hold(self, team: Handle, w: Array, workspace: Scratch) -> Array:
        """Return the transformed filters, where they are kept so."""
        layout = self.layout
        if not isinstance(layout, Layout) or layout.kept is None:
            return w
        kept = layout.kept
        place(self._words, kept, w, self._nothing, kept, workspace.address, False)
        launch(team, prepare_address(), self._job, layout.workers)
        return kept

    def forward(
        self, team: Handle, x: Array, w: Array, epilogue: Epilogue, y: Array, workspace: Scratch
    ) -> None:
        """Compute `y`."""
        self._run(team, x, w, y, workspace.address, *epilogue)

    def input_grad(self, team: Handle, dy: Array, w: Array, dx: Array, workspace: Scratch) -> None:
        """Compute `dx`."""
        self._run(team, dy, w, dx, workspace.address, self._nothing, False)

    def weight_grad(self, team: Handle, dy: Array, x: Array, dw: Array, workspace: Scratch) -> None:
        """Compute `dw`."""
        layout, nothing = self.layout, self._nothing
        assert isinstance(layout, Weights)
        half = len(self._words) // 2
        place(self._words, x, dy, nothing, dw, workspace.address, False)
        place(self._words[half:], dy, x, nothing, dw, workspace.address, False)
        for first in range(0, layout.units, layout.units_at_once):
            layout.take(first)
            launch(team, transform_address(), self._job, layout.workers)
            launch(team, multiply_address(), self._job, layout.workers)
        launch(team, finish_address(), self._job, layout.workers)
