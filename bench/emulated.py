"""Emulated computation: layers that sleep as long as a stated machine would compute.

For machines with fewer cores than ranks: messages, their sums and who waits for whom are real, only
arithmetic is not.  Layers of `lowerconv.parallel`, which exchange activations, do so as always;
those that exchange halos sleep between sending and receiving, and batch norm that is synchronized
still sums what would be its statistics.  Every other layer sleeps instead, in a step forward::

    products          flops / GFLOP/s
    without products  bytes of operands and result / bandwidth; nothing where both are the same

and in a step backward as long again for each gradient of products: of the filters, and of the
operand where anybody asks for it.  An update sleeps for the five arrays that it moves: weights,
gradients and velocities read, weights and velocities written.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from math import prod
from typing import Any

import numpy as np

from lowerconv import nn
from lowerconv.nn.execution_order import ExecutionOrder
from lowerconv.nn.frame import Frame, Tensor
from lowerconv.nn.hooks import Gate, Watch
from lowerconv.nn.layer import Layer
from lowerconv.nn.module import Module
from lowerconv.nn.program import Program
from lowerconv.nn.step import Step
from lowerconv.parallel.sharding.halo_layer import HaloLayer
from lowerconv.runtime.team import TeamHandle

COMMUNICATING = "lowerconv.parallel"
MOVED = 5  # arrays of an update with momentum
SMALL = 64 << 20  # bytes: larger ones come from the system, as zeros that take no memory
SHORTEST = 1e-4  # seconds: shorter sleeps are put off, so that waking up costs little


class Machine:
    """What would compute, and its clock.

    Parameters
    ----------
    gflops : float
        Speed of products, GFLOP/s.
    gbytes : float
        Memory bandwidth, GB/s.

    Attributes
    ----------
    still : bool
        Whether nothing takes any time.
    computed : float
        Seconds that have been computed so far.
    """

    def __init__(self, gflops: float, gbytes: float) -> None:
        for name, value in (("gflops", gflops), ("gbytes", gbytes)):
            if not value > 0:
                raise ValueError(f"{name}: got {value}, expected above 0")
        self.gflops, self.gbytes = gflops, gbytes
        self.still = False
        self.computed = 0.0
        self._due = 0.0

    def compute(self, seconds: float) -> None:
        """Sleep; what a sleep was too long is taken off the next ones."""
        if self.still:
            return
        self.computed += seconds
        self._due += seconds
        if self._due >= SHORTEST:
            begin = time.perf_counter()
            time.sleep(self._due)
            self._due -= time.perf_counter() - begin

    def seconds(self, layer: Layer, frame: Frame, backward: bool) -> float:
        """Return how long a layer takes."""
        flops = layer.flops(*(x.shape for x in frame.xs))
        if flops:
            products = bool(layer.own_parameters()) + (frame.dx is not None) if backward else 1
            return products * flops / (1e9 * self.gflops)
        return 0.0 if layer.is_view else _nbytes(frame) / (1e9 * self.gbytes)

    def update_seconds(self, nbytes: int) -> float:
        """Return how long the update of so many bytes of weights takes."""
        return MOVED * nbytes / (1e9 * self.gbytes)


def _nbytes(frame: Frame) -> int:
    tensors: list[Tensor] = [*frame.xs, frame.y]
    return sum(prod(tensor.shape) for tensor in tensors) * frame.dtype.itemsize


class Sleeping(Layer):
    """Takes the place of a layer in a program, and its time."""

    def __init__(self, original: Layer, frame: Frame, machine: Machine) -> None:
        super().__init__()
        # In a function: as an attribute it would become a part of the module, and programs stale.
        self._original = lambda: original
        self.machine = machine
        self.times = [machine.seconds(original, frame, backward) for backward in (False, True)]
        self.execution_order = original.execution_order

    @property
    def original(self) -> Layer:
        """The layer that would compute."""
        return self._original()

    def compute(self, frame: Frame, step: Step) -> None:
        """Sleep as long as a step forward takes."""
        self.machine.compute(self.times[0])

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Sleep as long as a step backward takes; or what of it is not left for later."""
        later = self.execution_order is ExecutionOrder.WEIGHT_GRADIENTS_LATER
        self.machine.compute(self.times[1] - (self.times[0] if later else 0.0))

    def differentiate_weights(self, frame: Frame, step: Step) -> None:
        """Sleep as long as the gradient of the layer's own parameters takes."""
        self.machine.compute(self.times[0])


class SleepingHalo(Sleeping):
    """Takes the place of a layer that exchanges rows with others, which it goes on doing."""

    def __init__(self, original: HaloLayer, frame: Frame, machine: Machine) -> None:
        super().__init__(original, frame, machine)
        pairs = [(seam.layer, seam.frame) for seam in original.seam_frames(frame)]
        self.seam_times = [
            sum(machine.seconds(layer, small, backward) for layer, small in pairs)
            for backward in (False, True)
        ]

    def compute(self, frame: Frame, step: Step) -> None:
        """Exchange rows, and sleep meanwhile; then as long as the seams take."""
        halo: Any = self.original
        halo.begin_halo(frame)
        self.machine.compute(self.times[0])
        halo.end_halo(frame)
        self.machine.compute(self.seam_times[0])

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Sleep as long as the seams take, exchange their gradients, and sleep meanwhile."""
        halo: Any = self.original
        self.machine.compute(self.seam_times[1])
        if frame.dx is not None:
            halo.begin_gradient(frame)
        self.machine.compute(self.times[1])
        if frame.dx is not None:
            halo.end_gradient(frame)


class SleepingNorm(Sleeping):
    """Takes the place of batch norm, whose sums over the ranks it still makes."""

    def compute(self, frame: Frame, step: Step) -> None:
        """Sum what would be means, and squared deviations."""
        C = frame.x.shape[1]
        if step.training:
            self._sum(step, C + 1, C)
        super().compute(frame, step)

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Sum what would be the sums of gradients."""
        self._sum(step, 2 * frame.x.shape[1] + 1)
        super().differentiate(frame, step)

    def _sum(self, step: Step, *sizes: int) -> None:
        """Sum arrays as long as those of `lowerconv.nn.norm`."""
        original: Any = self.original
        for size in sizes:
            if original.synchronized and step.communicator is not None:
                step.communicator.sum_array(np.zeros(size))


class _Programs(dict[Any, Program]):
    """The programs of a module, whose layers sleep from the moment when a program is made."""

    def __init__(self, machine: Machine, programs: dict[Any, Program]) -> None:
        super().__init__()
        self.machine = machine
        for key, program in programs.items():
            self[key] = program

    def __setitem__(self, key: Any, program: Program) -> None:
        super().__setitem__(key, program)
        if any(isinstance(layer, Sleeping) for layer, _ in program.steps):
            return  # known already, and used again
        program.steps = [
            (layer if _works(layer) else _asleep(layer, frame, self.machine), frame)
            for layer, frame in program.steps
        ]
        program.arena.reserve(program.plan.nbytes)
        if program.arena.memory.size < SMALL:  # whatever was there need not be numbers
            program.arena.memory[:] = 0


def _works(layer: Layer) -> bool:
    """Return whether a layer goes on as it is."""
    communicates = type(layer).__module__.startswith(COMMUNICATING)
    return communicates and not isinstance(layer, HaloLayer)


def _asleep(layer: Layer, frame: Frame, machine: Machine) -> Sleeping:
    """Return what sleeps in place of a layer."""
    if isinstance(layer, HaloLayer):
        return SleepingHalo(layer, frame, machine)
    kind = SleepingNorm if isinstance(layer, nn.BatchNorm2d) else Sleeping
    return kind(layer, frame, machine)


def emulate(modules: Iterable[Module], machine: Machine) -> None:
    """Have the layers of modules sleep from now on, also in programs that are made later.

    Whoever watches a module is told of the layers as they were.
    """
    for module in modules:
        for execution in (module._use.own.execution, module._use.inference):
            execution.programs = _Programs(machine, execution.programs)
        for number, watch in module._watches.items():
            module._watches[number] = _told_of_originals(watch)
        for number, gate in module._gates.items():
            module._gates[number] = _asked_of_originals(gate)


def _asked_of_originals(gate: Gate) -> Gate:
    return lambda layer: gate(layer.original if isinstance(layer, Sleeping) else layer)


def _told_of_originals(watch: Watch) -> Watch:
    def told(layer: Layer, frame: Frame, phase: str) -> None:
        watch(layer.original if isinstance(layer, Sleeping) else layer, frame, phase)

    return told


class SGD(nn.SGD):
    """Stochastic gradient descent that sleeps instead, once it has a machine.

    Attributes
    ----------
    machine : Machine or None
    """

    machine: Machine | None = None

    def update(
        self, begin: int, end: int, grad: np.ndarray | None = None, team: TeamHandle | None = None
    ) -> None:
        """Update the items of a range, or take the time that it would take."""
        if self.machine is None:
            super().update(begin, end, grad, team)
        else:
            nbytes = (end - begin) * self.data.itemsize
            self.machine.compute(self.machine.update_seconds(nbytes))
