"""Pipelined lowering: every core lowers the next panel while it multiplies this one.

The lowered matrix never exists as a whole.  It is cut into panels that fit a core's L2 cache; each
core owns two of them and alternates::

    step            0         1         2         3
    lower        panel 0   panel 1   panel 0   panel 1   ...
    multiply               panel 0   panel 1   panel 0   ...

so that the lowering of step i+1, bound by memory, and the product of step i, bound by arithmetic,
do not wait for each other.  How far they overlap is up to the hardware: cores are in different
phases, one lowering while another multiplies; within a core the stores of a panel drain, and the
image is prefetched, under the product before it.  What counts most is that a panel is still in the
cache of the core that multiplies it.  For the input gradient the order is turned round: the product
is the lowered matrix, and the panel before it is added to the image (col2im).

After Sakiyama, Kato, Ishikawa, Hori, Monrroy, "Deep learning with convolutional neural networks on
multicore clusters": pipelined lowering.

Their gain came from hyper-threads too, one lowering while its sibling multiplies.  "paired" does
that with any two threads: the one lowers into a ring of panels, the other multiplies.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import NamedTuple

from lowerconv.codegen.compiled import njit
from lowerconv.codegen.isa import host_isa
from lowerconv.conv.algorithm import Algorithm
from lowerconv.conv.blas.blocking import (
    forward_blocking,
    input_grad_blocking,
    weight_grad_blocking,
)
from lowerconv.conv.blas.panels import (
    ForwardCall,
    InputGradCall,
    WeightGradCall,
    add_splits,
    forward_lower,
    forward_multiply,
    input_grad_col2im,
    input_grad_multiply,
    input_grad_steps,
    weight_grad_lower,
    weight_grad_multiply,
    weight_grad_steps,
)
from lowerconv.conv.blas.stages import (
    FIRST,
    Roles,
    alone,
    enter,
    in_pairs,
    leave,
    span,
    start_over,
    turns,
)
from lowerconv.conv.executable import Array, Executable, Options
from lowerconv.conv.phases import countable, has_many_phases
from lowerconv.conv.problem import ConvProblem, Op
from lowerconv.copying import not_copied
from lowerconv.ops.blas import GEMM_LIMIT, blas, hold, release
from lowerconv.runtime.affinity import cores, siblings
from lowerconv.runtime.launch import run_on_team
from lowerconv.runtime.team import TeamHandle, max_threads
from lowerconv.runtime.workspace import Scratch, carved_items

# The roles tell a worker on which core's share it works, and which stages are its own.


@njit(cache=True, nogil=True)
def _forward_share(worker, workers, roles, gemm, a, panels, products):
    per_task = -(-a.w.shape[1] // a.blocks.KC)
    core = roles.cores[worker]
    begin, steps = span(roles, worker, len(panels), a.blocks.tasks, per_task)
    for turn in range(turns(roles, worker, steps)):
        stage, step, slot = enter(roles, worker, steps, turn)
        step += begin
        panel = panels[core, slot]
        if stage == FIRST:
            forward_lower(step, a, panel)
        else:
            forward_multiply(step, a, gemm, panel, products[core])
        leave(roles, worker, stage)


@njit(cache=True, nogil=True)
def _forward(team, roles, blas, a, panels, products):
    hold(blas.threads)
    run_on_team(team, _forward_share, (roles, blas.gemm, a, panels, products))
    release(blas.threads)


@njit(cache=True, nogil=True)
def _input_grad_share(worker, workers, roles, gemm, a, panels, gathered):
    per_task = input_grad_steps(a.dy, a.blocks)
    core = roles.cores[worker]
    begin, steps = span(roles, worker, len(panels), a.blocks.tasks, per_task)
    for turn in range(turns(roles, worker, steps)):
        stage, step, slot = enter(roles, worker, steps, turn)
        step += begin
        panel = panels[core, slot]
        if stage == FIRST:
            input_grad_multiply(step, a, gemm, panel, gathered[core])
        else:
            input_grad_col2im(step, a, panel)
        leave(roles, worker, stage)


@njit(cache=True, nogil=True)
def _input_grad(team, roles, blas, a, panels, gathered):
    hold(blas.threads)
    run_on_team(team, _input_grad_share, (roles, blas.gemm, a, panels, gathered))
    release(blas.threads)


@njit(cache=True, nogil=True)
def _weight_grad_share(worker, workers, roles, gemm, a, panels, gathered):
    per_task = weight_grad_steps(a.dy, a.blocks)
    core = roles.cores[worker]
    begin, steps = span(roles, worker, len(panels), a.blocks.tasks, per_task)
    for turn in range(turns(roles, worker, steps)):
        stage, step, slot = enter(roles, worker, steps, turn)
        step += begin
        panel = panels[core, slot]
        if stage == FIRST:
            weight_grad_lower(step, a, panel)
        else:
            weight_grad_multiply(step, a, gemm, panel, gathered[core])
        leave(roles, worker, stage)


@njit(cache=True, nogil=True)
def _weight_grad(team, roles, blas, a, dw, panels, gathered):
    hold(blas.threads)
    run_on_team(team, _weight_grad_share, (roles, blas.gemm, a, panels, gathered))
    release(blas.threads)
    if len(a.partial) > 1:
        run_on_team(team, add_splits, (a.partial, dw))


@not_copied("copy the ConvPlan that it is a part of")
class Ring(NamedTuple):
    """Which threads do the two stages, and how many panels each core has."""

    threads: int
    roles: Roles
    slots: int  # panels of a core
    unit: str
    pairs: bool


def one_thread_each(threads: int) -> Ring:
    """Return the ring where one thread does both stages in turns."""
    return Ring(threads, alone(threads, 2), 2, "cores", False)


def two_threads_each(threads: int) -> Ring:
    """Return the ring where one thread of a pair lowers, and the other multiplies.

    Made for the two hardware threads of a core, which share its caches: the one waits for memory
    while the other computes.  Any two threads will do, and one that is left over works alone.
    """
    # Twice as many threads where each has a core of its own: siblings work with them.
    if siblings() and threads <= cores():
        threads = min(2 * threads, max_threads())
    return Ring(threads, in_pairs(threads, 4), 4, "pairs", True)


class Pipelined(Executable):
    """Panels that stay in cache, each multiplied by BLAS on the core that lowered it.

    What the three passes have in common.
    """

    def __init__(self, problem: ConvProblem, op: Op, options: Options, ring: Ring) -> None:
        extent = max(problem.P * problem.Q, problem.gemm_shape("forward")[2])
        if extent > GEMM_LIMIT:  # the distance of two rows of an operand
            raise MemoryError(f"GEMM with rows of {extent}: BLAS takes extents up to {GEMM_LIMIT}")
        super().__init__(ring.threads)
        self.problem, self.relu = problem, options.relu
        _, self.roles, self.slots, self.unit, self.pairs = ring
        self.blocks = blocks = BLOCKINGS[op](problem)
        panel = blocks.KC * blocks.NC
        if op == "input_grad":
            filters = problem.K // problem.groups
            # Only tiles of several images are gathered.
            several = blocks.NC > problem.P * problem.Q
            extra = min(filters, max(1, panel // blocks.NC)) * blocks.NC if several else 0
        else:
            extra = blocks.MC * blocks.NC
        taps = problem.gemm_shape("forward")[2]
        partial = (blocks.splits if blocks.splits > 1 else 0, problem.K, taps)
        self.cores = min(self.roles.cores.max() + 1, blocks.tasks)
        self.shapes = ((self.cores, self.slots, panel), (self.cores, extra), partial)
        self.workspace_items = carved_items(problem.dtype, *self.shapes)

    def explain(self) -> dict[str, str]:
        """Return the decisions, for people."""
        blocks, (_, slots, panel) = self.blocks, self.shapes[0]
        lines = {
            "blocks": f"MC={blocks.MC} NC={blocks.NC} KC={blocks.KC}",
            "tasks": f"{blocks.tasks} on {self.cores} {self.unit}",
            "panels": f"{slots} x {panel * self.problem.dtype.itemsize} bytes on each",
        }
        if blocks.splits > 1:
            lines["splits"] = f"{blocks.splits} partial sums over the pixels"
        return lines


class PipelinedForward(Pipelined):
    """Panels of the lowered image are lowered, then multiplied by the filters."""

    def run(
        self, team: TeamHandle, a: Array, b: Array, bias: Array, out: Array, workspace: Scratch
    ) -> None:
        """Compute y."""
        N, K = out.shape[:2]
        panels, products, _ = workspace.carve(*self.shapes)
        start_over(self.roles)
        call = ForwardCall(
            x=a,
            w=b.reshape(K, -1),
            bias=bias,
            relu=self.relu,
            groups=self.problem.groups,
            geometry=self.problem.geometry,
            blocks=self.blocks,
            y=out.reshape(N, K, -1),
        )
        _forward(team, self.roles, blas(out.dtype), call, panels, products)


class PipelinedInputGrad(Pipelined):
    """Panels of the lowered gradient are multiplied, then added to dx."""

    def run(
        self, team: TeamHandle, a: Array, b: Array, bias: Array, out: Array, workspace: Scratch
    ) -> None:
        """Compute dx."""
        N, K = a.shape[:2]
        panels, gathered, _ = workspace.carve(*self.shapes)
        start_over(self.roles)
        call = InputGradCall(
            dy=a.reshape(N, K, -1),
            w=b.reshape(K, -1),
            groups=self.problem.groups,
            geometry=self.problem.geometry,
            blocks=self.blocks,
            dx=out,
        )
        _input_grad(team, self.roles, blas(a.dtype), call, panels, gathered)


class PipelinedWeightGrad(Pipelined):
    """Panels of the lowered image are lowered, then multiplied by dy."""

    def run(
        self, team: TeamHandle, a: Array, b: Array, bias: Array, out: Array, workspace: Scratch
    ) -> None:
        """Compute dw."""
        N, K = a.shape[:2]
        panels, gathered, partial = workspace.carve(*self.shapes)
        matrix = out.reshape(K, -1)
        start_over(self.roles)
        call = WeightGradCall(
            dy=a.reshape(N, K, -1),
            x=b,
            groups=self.problem.groups,
            geometry=self.problem.geometry,
            blocks=self.blocks,
            partial=partial if self.blocks.splits > 1 else matrix[None],
        )
        _weight_grad(team, self.roles, blas(a.dtype), call, matrix, panels, gathered)


BLOCKINGS = {
    "forward": forward_blocking,
    "input_grad": input_grad_blocking,
    "weight_grad": weight_grad_blocking,
}
PASSES: dict[Op, Callable[[ConvProblem, Op, Options, Ring], Executable]] = {
    "forward": PipelinedForward,
    "input_grad": PipelinedInputGrad,
    "weight_grad": PipelinedWeightGrad,
}


def estimate(problem: ConvProblem, op: Op, constant: bool) -> float:
    """Return the time of the multiply-adds; infinity where microkernels run, which are faster."""
    if countable(problem) and has_many_phases(problem, op):
        return problem.flops / 2 / host_isa().lanes(problem.dtype)
    return inf


def build(problem: ConvProblem, op: Op, options: Options) -> Executable:
    """Return a pass on one thread for each core."""
    ring = one_thread_each(options.threads)
    return PASSES[op](problem, op, options, ring)


def build_pairs(problem: ConvProblem, op: Op, options: Options) -> Executable:
    """Return a pass on two threads for each core."""
    ring = two_threads_each(options.threads)
    return PASSES[op](problem, op, options, ring)


PIPELINED = Algorithm(
    name="pipelined",
    reason="with so long a stride most pixels are a convolution of their own",
    estimate=estimate,
    build=build,
)
PAIRED = Algorithm(name="paired", build=build_pairs)
