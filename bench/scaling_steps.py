"""Training steps of one strategy, and what they put on the wire.

How much communication is hidden: ``1 - waits / waits of still steps``, where a still step sends the
same messages and computes nothing, so that nothing can hide them.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from bench.emulated import SGD, Machine, emulate
from bench.network_peers import LR, MOMENTUM, image_shape, options_of
from lowerconv.data.order import share
from lowerconv.nn.models import MODELS
from lowerconv.nn.module import Module
from lowerconv.nn.step import Step
from lowerconv.parallel.comm.communicator import Communicator
from lowerconv.parallel.comm.engine import Engine, Task
from lowerconv.parallel.comm.listener import Listener
from lowerconv.parallel.comm.mpi_communicator import MPICommunicator
from lowerconv.parallel.options import ParallelOptions
from lowerconv.parallel.strategies import STRATEGIES
from lowerconv.parallel.strategies.strategy import Strategy, Work

HALOS = (" halo", " halo gradient")  # how tasks are named that bring rows of other ranks


class Wire(Listener):
    """Told by the engines of a strategy what has been on the wire.

    Parameters
    ----------
    ranks : int

    Attributes
    ----------
    sent : int
        Bytes that this rank has sent; of sums by the MPI library, what a ring would have sent.
    waits, halo_waits : float
        Seconds that the main thread has waited; of them for rows of other ranks.
    """

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self.sent = 0
        self.waits = self.halo_waits = 0.0

    def task_finished(self, task: Task) -> None:
        """Note what a task has sent."""
        ring = 2 * (self.ranks - 1) * task.nbytes // self.ranks
        self.sent += ring if task.sent is None else task.sent

    def waited(self, name: str, begin: int, end: int) -> None:
        """Note a wait of the main thread."""
        seconds = 1e-9 * (end - begin)
        self.waits += seconds
        if name.endswith(HALOS):
            self.halo_waits += seconds


class Ranks(MPICommunicator):
    """The ranks of this job, whose engines tell a `Wire`."""

    def __init__(self) -> None:
        super().__init__()
        self.wire = Wire(self.ranks)

    def engine(self, **options: Any) -> Engine:
        """Return an engine as of `MPICommunicator`."""
        return super().engine(listener=self.wire, **options)


def modules_of(strategy: Strategy) -> list[Module]:
    """Return all modules that a strategy may run, those of strategies that it is made of too."""
    found: dict[int, Module] = {}
    for value in vars(strategy).values():
        if isinstance(value, Strategy):
            modules = modules_of(value)
        elif isinstance(value, Module):
            modules = [module for _, module in value.modules()]
        else:
            continue
        found |= {id(module): module for module in modules}
    return list(found.values())


class Contender:
    """A network trained by one strategy, on batches that are always the same.

    Parameters
    ----------
    model : str
    options : ParallelOptions or None
        None for ranks that train alone, at the same time: without messages.
    batch : int
        Of all ranks together; of each where they train alone.
    ranks : int
        Of the job.
    machine : Machine or None
        What would compute; None for real computation.
    image : (C, H, W), optional
        By default what the model was made for.
    """

    def __init__(
        self,
        model: str,
        options: ParallelOptions | None,
        batch: int,
        ranks: int,
        machine: Machine | None,
        image: tuple[int, int, int] | None = None,
    ) -> None:
        self.batch, self.machine, self.wire = batch, machine, Wire(1)
        self.communicator = Communicator()
        if options is not None and ranks > 1:
            self.communicator = together = Ranks()
            self.wire = together.wire
        image = image or image_shape(model)
        network = MODELS[model].build(image_shape=image, **options_of(model))
        if machine is None:
            network.initialize(np.random.default_rng(1))
        options = options or ParallelOptions()
        self.optimizers: list[SGD] = []
        self.strategy: Strategy = STRATEGIES[options.strategy](
            network, self._optimizer, self.communicator, options, image
        )
        images = share(batch, *self.strategy.loader_share)
        rng = np.random.default_rng(images.start)
        self._images = rng.standard_normal((len(images), *image), np.float32)
        self._labels = rng.integers(10, size=len(images))  # classes that all networks have
        self._first = images.start
        self._number = 0
        self.strategy.start()
        if machine is not None:
            self._still(machine)

    def _optimizer(self, network: Module) -> SGD:
        self.optimizers.append(SGD(network, LR, MOMENTUM))
        return self.optimizers[-1]

    def _still(self, machine: Machine) -> None:
        self.machine = machine
        emulate(modules_of(self.strategy), machine)
        for optimizer in self.optimizers:
            optimizer.machine = machine
            optimizer.grad[:] = 0  # sums of sums would not stay finite

    def step(self) -> None:
        """Train on the batch."""
        step = Step(True, 0, self._number, self._first, communicator=self.communicator)
        self.strategy.train(Work(self._images, self._labels, self.batch, self.batch, step, LR))
        self._number += 1

    def turn(self, steps: int) -> dict[str, float]:
        """Return of a step the seconds, of them waits and emulated ones, and the bytes sent.

        The mean of some steps, the last messages of all of them included.
        """
        sent, waits, halo_waits = self.wire.sent, self.wire.waits, self.wire.halo_waits
        computed = self.machine.computed if self.machine else 0.0
        begin = time.perf_counter()
        for _ in range(steps):
            self.step()
        self.strategy.finish()
        return {
            "seconds": (time.perf_counter() - begin) / steps,
            "waits": (self.wire.waits - waits) / steps,
            "halo_waits": (self.wire.halo_waits - halo_waits) / steps,
            "sent": (self.wire.sent - sent) / steps,
            "emulated": (self.machine.computed - computed) / steps if self.machine else 0.0,
        }

    def still_turn(self, steps: int) -> dict[str, float]:
        """Return the same of steps that compute nothing; real computation ends with them."""
        if self.machine is None:
            self._still(Machine(1.0, 1.0))
        assert self.machine is not None
        self.machine.still = True
        self.turn(1)
        taken = self.turn(steps)
        self.machine.still = False
        return taken

    def close(self) -> None:
        """End threads."""
        self.strategy.close()
