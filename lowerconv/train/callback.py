"""What is done beside training: callbacks, as in Keras and PyTorch Lightning."""

from __future__ import annotations

import numpy as np

from lowerconv.copying import not_copied
from lowerconv.nn.divergence import check_weights
from lowerconv.nn.loss import LossResult
from lowerconv.parallel.comm.agreement import check_weights_agree
from lowerconv.parallel.comm.status import Status
from lowerconv.parallel.strategies.strategy import Strategy, Work
from lowerconv.train.ema import WeightAverage


@not_copied("make another from its arguments")
class Callback:
    """Is called at fixed points of a run, on all ranks; does nothing where it defines nothing.

    ::

        on_epoch_start
            on_batch_start        a batch is loaded
            on_update_end         of the last batch of an update
            on_batch_end
        on_train_epoch_end        all batches are done
        on_epoch_end              the network has been tested
        on_fit_end
    """

    def on_epoch_start(self) -> None:
        """Hear that the first batch is about to be loaded."""

    def on_batch_start(self, work: Work) -> None:
        """Hear that a batch is about to be computed."""

    def on_update_end(self, updates: int) -> None:
        """Hear how many updates the optimizer has made; `Strategy.flush_updates` makes all."""

    def on_batch_end(self, samples: int, result: LossResult, left: int) -> None:
        """Hear of this rank's share of a batch that is done, and how many batches are left."""

    def on_train_epoch_end(self, epoch: int) -> None:
        """Hear that all batches of an epoch are done, counted from 0; the tests follow."""

    def on_epoch_end(self) -> None:
        """Hear that an epoch is done and told."""

    def on_fit_end(self) -> None:
        """Hear that all epochs are done."""


class Averaging(Callback):
    """Takes the weights into their average, and gives all ranks the same statistics."""

    def __init__(self, strategy: Strategy, average: WeightAverage | None) -> None:
        self._strategy, self._average = strategy, average

    def on_update_end(self, updates: int) -> None:
        """Take in the weights."""
        if self._average is not None:
            self._strategy.flush_updates()
            self._average.update(updates)

    def on_train_epoch_end(self, epoch: int) -> None:
        """Replace statistics by the means of those that each rank has seen."""
        strategy = self._strategy
        arrays: list[np.ndarray] = [*strategy.differing_buffers().values()]
        if self._average is not None and not strategy.synchronous:
            arrays += self._average.values.values()
        for array in arrays:
            strategy.communicator.sum_array(array)
            array /= strategy.communicator.ranks


class AgreementCheck(Callback):
    """Compares the weights of all ranks after each epoch, and each `every` updates."""

    def __init__(self, strategy: Strategy, every: int | None) -> None:
        self._strategy, self._every = strategy, every

    def on_update_end(self, updates: int) -> None:
        """Raise DisagreementError where ranks have different weights."""
        if self._every and updates % self._every == 0:
            self._strategy.flush_updates()
            self.on_train_epoch_end(0)

    def on_train_epoch_end(self, epoch: int) -> None:
        """Raise DisagreementError where ranks have different weights."""
        check_weights_agree(self._strategy.communicator, self._strategy.replicated())


class DivergenceCheck(Callback):
    """Looks for weights that are not finite, after every epoch."""

    def __init__(self, strategy: Strategy) -> None:
        self._network = strategy.network

    def on_train_epoch_end(self, epoch: int) -> None:
        """Raise DivergenceError where a weight is not finite."""
        check_weights(self._network, epoch + 1)


class StatusNotes(Callback):
    """Notes what this rank does, for the others' watch for stalls."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def on_batch_start(self, work: Work) -> None:
        """Note that it computes."""
        self._status.note("computing", work.step.number + 1)

    def on_batch_end(self, samples: int, result: LossResult, left: int) -> None:
        """Note that it loads."""
        self._status.note("loading a batch")
