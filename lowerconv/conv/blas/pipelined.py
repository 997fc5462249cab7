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

Their gain came from hyper-threads too, one lowering while its sibling multiplies.  `Paired` does
that with any two threads: the one lowers into a ring of panels, the other multiplies.
"""

from __future__ import annotations

from lowerconv.codegen.compiled import njit
from lowerconv.conv.blas.blocking import (
    forward_blocking,
    input_grad_blocking,
    weight_grad_blocking,
)
from lowerconv.conv.blas.epilogue import Array, Epilogue
from lowerconv.conv.blas.panels import (
    add_splits,
    forward_lower,
    forward_multiply,
    input_grad_multiply,
    input_grad_raise,
    input_grad_steps,
    weight_grad_lower,
    weight_grad_multiply,
    weight_grad_steps,
)
from lowerconv.conv.blas.stages import (
    FIRST,
    Lanes,
    alone,
    enter,
    in_pairs,
    leave,
    start_over,
    turns,
)
from lowerconv.conv.problem import ConvProblem, Op
from lowerconv.copying import not_copied
from lowerconv.ops.blas import GEMM_LIMIT, blas, hold, release
from lowerconv.runtime.affinity import cores, siblings
from lowerconv.runtime.launch import share, spread
from lowerconv.runtime.team import Handle, most
from lowerconv.runtime.workspace import Scratch, carved_items

# A worker learns from the lanes on which core's share it works, and which stages are its own.


@njit(cache=True, nogil=True)
def _forward_share(
    worker, workers, lanes, gemm, x, w, bias, relu, groups, geometry, blocks, y, panels, products
):
    core = lanes.cores[worker]
    if core >= len(panels):
        return
    per_task = -(-w.shape[1] // blocks.KC)
    first, last = share(blocks.tasks, core, len(panels))
    steps = (last - first) * per_task
    for turn in range(turns(lanes, worker, steps)):
        stage, step, slot = enter(lanes, worker, steps, turn)
        step += first * per_task
        panel = panels[core, slot]
        if stage == FIRST:
            forward_lower(step, x, w, groups, geometry, blocks, y, panel)
        else:
            product = products[core]
            forward_multiply(step, gemm, x, w, bias, relu, groups, blocks, y, panel, product)
        leave(lanes, worker, stage)


@njit(cache=True, nogil=True)
def _forward(team, lanes, blas, x, w, bias, relu, groups, geometry, blocks, y, panels, products):
    frame = lanes, blas.gemm, x, w, bias, relu, groups, geometry, blocks, y, panels, products
    hold(blas.threads)
    spread(team, _forward_share, frame)
    release(blas.threads)


@njit(cache=True, nogil=True)
def _input_grad_share(
    worker, workers, lanes, gemm, dy, w, groups, geometry, blocks, dx, panels, gathered
):
    core = lanes.cores[worker]
    if core >= len(panels):
        return
    per_task = input_grad_steps(dy, blocks)
    first, last = share(blocks.tasks, core, len(panels))
    steps = (last - first) * per_task
    for turn in range(turns(lanes, worker, steps)):
        stage, step, slot = enter(lanes, worker, steps, turn)
        step += first * per_task
        panel = panels[core, slot]
        if stage == FIRST:
            input_grad_multiply(step, gemm, dy, w, groups, blocks, dx, panel, gathered[core])
        else:
            input_grad_raise(step, dy, w, groups, geometry, blocks, dx, panel)
        leave(lanes, worker, stage)


@njit(cache=True, nogil=True)
def _input_grad(team, lanes, blas, dy, w, groups, geometry, blocks, dx, panels, gathered):
    frame = lanes, blas.gemm, dy, w, groups, geometry, blocks, dx, panels, gathered
    hold(blas.threads)
    spread(team, _input_grad_share, frame)
    release(blas.threads)


@njit(cache=True, nogil=True)
def _weight_grad_share(
    worker, workers, lanes, gemm, dy, x, groups, geometry, blocks, partial, panels, gathered
):
    core = lanes.cores[worker]
    if core >= len(panels):
        return
    per_task = weight_grad_steps(dy, blocks)
    first, last = share(blocks.tasks, core, len(panels))
    steps = (last - first) * per_task
    for turn in range(turns(lanes, worker, steps)):
        stage, step, slot = enter(lanes, worker, steps, turn)
        step += first * per_task
        panel = panels[core, slot]
        if stage == FIRST:
            weight_grad_lower(step, dy, x, groups, geometry, blocks, partial, panel)
        else:
            weight_grad_multiply(step, gemm, dy, groups, blocks, partial, panel, gathered[core])
        leave(lanes, worker, stage)


@njit(cache=True, nogil=True)
def _weight_grad(team, lanes, blas, dy, x, groups, geometry, blocks, partial, dw, panels, gathered):
    frame = lanes, blas.gemm, dy, x, groups, geometry, blocks, partial, panels, gathered
    hold(blas.threads)
    spread(team, _weight_grad_share, frame)
    release(blas.threads)
    if len(partial) > 1:
        spread(team, add_splits, (partial, dw))


@not_copied("copy the ConvPlan that it is a part of")
class Pipelined:
    """Panels that stay in cache, each multiplied by BLAS on the core that lowered it."""

    name = "pipelined"
    adds = False
    slices = False
    pairs = False
    slots = 2  # panels of a core
    unit = "cores"

    def __init__(self, problem: ConvProblem, op: Op, threads: int, constant: bool = False) -> None:
        extent = max(problem.P * problem.Q, problem.gemm_shape("forward")[2])
        if extent > GEMM_LIMIT:  # the distance of two rows of an operand
            raise MemoryError(f"GEMM with rows of {extent}: BLAS takes extents up to {GEMM_LIMIT}")
        self.problem = problem
        blocks = {
            "forward": forward_blocking,
            "input_grad": input_grad_blocking,
            "weight_grad": weight_grad_blocking,
        }[op](problem)
        self.blocks = blocks
        self.threads = self._threads(threads)
        self.lanes = self._lanes()
        cores = min(self.lanes.cores.max() + 1, blocks.tasks)
        panel = blocks.KC * blocks.NC
        taps = problem.gemm_shape("forward")[2]
        if op == "input_grad":
            filters = problem.K // problem.groups
            # Only tiles of several images are gathered.
            several = blocks.NC > problem.P * problem.Q
            extra = min(filters, max(1, panel // blocks.NC)) * blocks.NC if several else 0
        else:
            extra = blocks.MC * blocks.NC
        partial = (blocks.splits if blocks.splits > 1 else 0, problem.K, taps)
        self.shapes = ((cores, self.slots, panel), (cores, extra), partial)
        self.workspace_items = carved_items(problem.dtype, *self.shapes)
        self.blocking = {
            "blocks": f"MC={blocks.MC} NC={blocks.NC} KC={blocks.KC}",
            "tasks": f"{blocks.tasks} on {cores} {self.unit}",
            "panels": f"{self.slots} x {panel * problem.dtype.itemsize} bytes on each",
        }
        if blocks.splits > 1:
            self.blocking["splits"] = f"{blocks.splits} partial sums over the pixels"

    def accumulate(self, add: bool) -> None:
        """Do nothing: results are stored as they are."""

    def hold(self, team: Handle, w: Array, workspace: Scratch) -> Array:
        """Return the filters: they are read as they are."""
        return w

    def _threads(self, threads: int) -> int:
        return threads

    def _lanes(self) -> Lanes:
        return alone(self.threads, self.slots)

    def forward(
        self, team: Handle, x: Array, w: Array, epilogue: Epilogue, y: Array, workspace: Scratch
    ) -> None:
        """Compute `y`."""
        N, K = y.shape[:2]
        panels, products, _ = workspace.carve(*self.shapes)
        start_over(self.lanes)
        _forward(
            team,
            self.lanes,
            blas(y.dtype),
            x,
            w.reshape(K, -1),
            *epilogue,
            self.problem.groups,
            self.problem.geometry,
            self.blocks,
            y.reshape(N, K, -1),
            panels,
            products,
        )

    def input_grad(self, team: Handle, dy: Array, w: Array, dx: Array, workspace: Scratch) -> None:
        """Compute `dx`."""
        N, K = dy.shape[:2]
        panels, gathered, _ = workspace.carve(*self.shapes)
        start_over(self.lanes)
        _input_grad(
            team,
            self.lanes,
            blas(dy.dtype),
            dy.reshape(N, K, -1),
            w.reshape(K, -1),
            self.problem.groups,
            self.problem.geometry,
            self.blocks,
            dx,
            panels,
            gathered,
        )

    def weight_grad(self, team: Handle, dy: Array, x: Array, dw: Array, workspace: Scratch) -> None:
        """Compute `dw`."""
        N, K = dy.shape[:2]
        panels, gathered, partial = workspace.carve(*self.shapes)
        matrix = dw.reshape(K, -1)
        start_over(self.lanes)
        _weight_grad(
            team,
            self.lanes,
            blas(dy.dtype),
            dy.reshape(N, K, -1),
            x,
            self.problem.groups,
            self.problem.geometry,
            self.blocks,
            partial if self.blocks.splits > 1 else matrix[None],
            matrix,
            panels,
            gathered,
        )


class Paired(Pipelined):
    """Panels in a ring, lowered by one thread of a pair and multiplied by BLAS on the other.

    Made for the two hardware threads of a core, which share its caches: the one waits for memory
    while the other computes.  Any two threads will do, and one that is left over works alone.
    """

    name = "paired"
    pairs = True
    slots = 4
    unit = "pairs"

    def _threads(self, threads: int) -> int:
        # Siblings beside the threads that one core each has.
        return min(2 * threads, most()) if siblings() and threads <= cores() else threads

    def _lanes(self) -> Lanes:
        return in_pairs(self.threads, self.slots)
