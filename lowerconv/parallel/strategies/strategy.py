"""What every strategy is: a way in which all ranks together compute a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from lowerconv.copying import not_copied
from lowerconv.nn.divergence import DivergenceError, describe_divergence
from lowerconv.nn.hooks import HookHandle
from lowerconv.nn.loss import LossResult, network_loss
from lowerconv.nn.module import Module
from lowerconv.nn.optim import Optimizer
from lowerconv.nn.step import INFERENCE, Step
from lowerconv.parallel.comm.communicator import Communicator
from lowerconv.parallel.comm.engine import Engine
from lowerconv.parallel.comm.listener import LOSS, SILENT, UPDATE, Listener
from lowerconv.parallel.options import ParallelOptions
from lowerconv.parallel.strategies.accumulation import GradientAccumulation
from lowerconv.parallel.strategies.staleness import Staleness
from lowerconv.parallel.trace.timeline import Timeline


@not_copied("make another `Trainer` or strategy in each process")
@dataclass(frozen=True)
class Work:
    """One batch of an update, as a rank sees it.

    Attributes
    ----------
    images, labels : ndarray
        What this rank's loader has of it.
    batch : int
        Samples of the batch, of all ranks.
    size : int
        Samples of the update, of all ranks and batches: what gradients are divided by.
    step : Step
    lr : float
        Learning rate of the update.
    first, last : bool
        Whether it is the first, and the last, batch of the update.
    label_smoothing : float
    """

    images: np.ndarray
    labels: np.ndarray
    batch: int
    size: int
    step: Step
    lr: float
    first: bool = True
    last: bool = True
    label_smoothing: float = 0.0


@not_copied("make another `Trainer` or strategy in each process")
class Strategy:
    """How ranks train a network together: the base of all strategies, which sends no messages.

    Parameters
    ----------
    network : Module
        With the same weights on all ranks.
    make_optimizer : callable
        Given a module, returns its optimizer.
    communicator : Communicator
    options : ParallelOptions
    image_shape : (C, H, W)

    Attributes
    ----------
    network : Module
        What this rank trains: the network, or its part of it.
    optimizers : list of Optimizer
        That together have all of this rank's parameters.
    loader_share : (int, int)
        Which share of every batch this rank loads: its number, of how many.
    loss_copies : int
        How many ranks return the same loss of the same samples.
    synchronous : bool
        Whether all ranks have the same weights after every update; else only after `finish`.
    engine : Engine or None
        Moves the messages of the strategy, from `start` on at the latest; None where it sends none.
    listener : Listener
        Is told what this rank does.
    accumulation : GradientAccumulation
        Of the batches of an update.
    staleness : Staleness or None
        Of the gradients, where they may be late.
    """

    loss_copies = 1
    synchronous = True
    engine: Engine | None = None
    listener: Listener = SILENT
    accumulation: GradientAccumulation
    staleness: Staleness | None = None

    def __init__(
        self,
        network: Module,
        make_optimizer: Callable[[Module], Optimizer],
        communicator: Communicator,
        options: ParallelOptions,
        image_shape: tuple[int, int, int],
    ) -> None:
        self.network, self.make_optimizer = network, make_optimizer
        self.communicator, self.options, self.image_shape = communicator, options, image_shape
        self.loader_share = communicator.rank, communicator.ranks
        self._handles: list[HookHandle] = []  # of what this strategy has registered with modules
        self._build()

    def _build(self) -> None:
        """Make this rank's part of the network, and what it takes to train it."""

    # --- training ---

    def start(self) -> None:
        """Get ready; all ranks come here together, with the same weights."""

    @property
    def running(self) -> list[Module]:
        """The modules whose layers compute: what has to be watched."""
        return [self.network]

    def rejoin(self) -> None:
        """Go on with the ranks that are left, all with the same weights; they call it together."""
        raise NotImplementedError(f"{type(self).__name__} cannot go on with fewer ranks")

    def listen(self, timeline: Timeline) -> None:
        """Let a timeline hear what this rank does; after `start`."""
        self.listener = timeline
        if self.engine is not None:
            self.engine.listener = timeline
        for module in self.running:
            timeline.attach(module)

    def train(self, work: Work) -> LossResult:
        """Compute a batch, and update the weights if it is the last of an update.

        Returns
        -------
        LossResult
            The loss of this rank's samples, and how many of them were correct.
        """
        results = self.network.run(work.images, work.step)
        with self.listener.doing(LOSS):
            result, gradients = network_loss(results, work.labels, work.size, work.label_smoothing)
        if not isfinite(result.loss):
            text = describe_divergence(self.network, work.images, work.step, result.loss)
            raise DivergenceError(text)
        if self.optimizer.scaling is None:
            self.backward(gradients, work)
        else:
            self.optimizer.scaling.scale(gradients)
            with np.errstate(over="ignore", invalid="ignore"):  # the optimizer looks at them
                self.backward(gradients, work)
        return result

    def backward(self, gradients: tuple[np.ndarray, ...], work: Work) -> None:
        """Differentiate what the network has computed, and update it at the end of an update."""
        self.network.backward(*gradients)
        self.accumulation.add(work.first, work.last)
        if work.last:
            self._update(work.lr)

    def _update(self, lr: float) -> None:
        """Update the weights from the gradients."""
        self.optimizer.lr = lr
        with self.listener.doing(UPDATE):
            self.optimizer.step()

    def flush_updates(self) -> None:
        """Make the updates that were left for later: weights are about to be read."""

    def finish(self) -> None:
        """Wait until nothing is under way any more, and all ranks have the same weights."""
        self.flush_updates()

    def write_back(self) -> None:
        """Write what was learnt to the network that was given to be trained; all ranks call it."""

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Return the scores of this rank's images."""
        return self.network.run(images, INFERENCE)

    def close(self) -> None:
        """End threads."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self.engine is not None:
            self.engine.close()

    def _progress_between_layers(self, network: Module) -> None:
        """Have messages move on after each layer of a network, where no thread moves them."""
        engine = self.engine
        assert engine is not None

        def watch(*_: Any) -> None:
            engine.progress()

        if not engine.threaded:
            self._handles.append(network.register_watch(watch))

    # --- what is kept ---

    @property
    def optimizer(self) -> Optimizer:
        """The first one, whose counts are those of the run."""
        return self.optimizers[0]

    optimizers: list[Optimizer]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return this rank's part of the arrays that updates change, except the weights.

        Such as ``velocity/NAME`` for each parameter.
        """
        return {
            f"{key}/{name}": array
            for optimizer in self.optimizers
            for key, flat in optimizer.state().items()
            for name, array in optimizer.by_name(flat).items()
        }

    def gather_whole(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return arrays of this rank, named after parameters, as one process would have them.

        All ranks call it. A strategy whose ranks have parts puts them together.
        """
        return arrays

    def scatter_whole(
        self, arrays: dict[str, np.ndarray], whole: dict[str, np.ndarray] | None
    ) -> None:
        """Fill arrays of this rank with its parts of whole ones, which rank 0 has."""
        for name, array in arrays.items():
            if whole is not None:
                array[...] = whole[name]
            self.communicator.broadcast_array(array)

    def shapes(self, arrays: dict[str, np.ndarray]) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Return shapes and dtypes of what `gather_whole` makes of arrays."""
        return {name: (array.shape, array.dtype) for name, array in arrays.items()}

    def differing_buffers(self) -> dict[str, np.ndarray]:
        """Return the buffers that depend on this rank's samples alone, such as running statistics.

        They are averaged over the ranks before they are used.
        """
        return self.network.buffers()

    def replicated(self) -> dict[str, np.ndarray]:
        """Return the parameters of which all ranks have the same, by name."""
        return {name: p.data for name, p in self.network.parameters().items()}

    def describe(self) -> str:
        """Return how ranks share the work, in words; empty for a process alone."""
        return ""

    def report(self) -> list[str]:
        """Return what was measured, a line each, after training."""
        return [] if self.staleness is None else self.staleness.report()

    def metrics(self) -> dict[str, Any]:
        """Return numbers of the last epoch that only this strategy has, as `EpochMetrics` does."""
        return {} if self.staleness is None else self.staleness.metrics()
