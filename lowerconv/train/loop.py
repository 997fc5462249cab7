"""The training loop, whatever the strategy by which ranks share the work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lowerconv.data.loader import Loader
from lowerconv.nn.loss import LossResult, softmax_cross_entropy
from lowerconv.nn.step import Step
from lowerconv.parallel.comm.communicator import Communicator
from lowerconv.parallel.strategies.strategy import Strategy, Work
from lowerconv.train.callback import Callback


def update_sizes(loader: Loader, accumulate: int) -> np.ndarray:
    """Return how many samples each update of an epoch has; the last may have fewer."""
    return np.add.reduceat(loader.batch_sizes, np.arange(0, len(loader), accumulate))


@dataclass
class EpochCounts:
    """What this rank has counted in an epoch so far.

    Attributes
    ----------
    epoch : int
        From 0.
    losses, samples : ndarray, (updates,)
        Sum of the losses of this rank's samples, and how many these were, by update.
    correct : int
        How many of them were correct.
    update : int
        The first one that is not counted yet.
    complete : bool
        Whether no rank has died since the epoch began, and taken with it what it had counted.
    """

    epoch: int
    losses: np.ndarray
    samples: np.ndarray
    correct: int = 0
    update: int = 0
    complete: bool = True

    @classmethod
    def of(cls, epoch: int, updates: int) -> EpochCounts:
        """Return that of an epoch that has not begun."""
        return cls(epoch, np.zeros(updates), np.zeros(updates))

    def add(self, result: LossResult, samples: int, last: bool) -> None:
        """Count a batch, which may be the last of an update."""
        self.losses[self.update] += result.loss
        self.samples[self.update] += samples
        self.correct += result.correct
        self.update += last

    def go_back(self, update: int, correct: int) -> None:
        """Forget an update that is computed once more, as a rank has died."""
        self.losses[update:] = self.samples[update:] = 0
        self.update, self.correct, self.complete = update, correct, False

    def sum(self, strategy: Strategy, sizes: np.ndarray) -> tuple[np.ndarray, int]:
        """Return the mean loss of each update and how many samples were correct, of all ranks."""
        communicator = strategy.communicator
        losses, samples = self.losses.copy(), self.samples.copy()
        communicator.sum_array(losses)
        correct = communicator.sum_numbers(self.correct)[0] / strategy.loss_copies
        if self.complete:
            return losses / strategy.loss_copies / sizes, round(correct)
        communicator.sum_array(samples)
        # An update that was made by the dead alone has left no trace.
        means = np.divide(losses, samples, out=np.full(len(sizes), np.nan), where=samples > 0)
        means[np.isnan(means)] = losses.sum() / max(1.0, samples.sum())
        return means, round(correct * sizes.sum() / max(1.0, samples.sum()))


def train_epoch(
    strategy: Strategy,
    loader: Loader,
    epoch: int,
    seed: int,
    learning_rate: Callable[[int], float],
    callbacks: Sequence[Callback] = (),
    *,
    accumulate: int = 1,
    label_smoothing: float = 0.0,
    counts: EpochCounts | None = None,
) -> tuple[np.ndarray, int]:
    """Train on every batch of an epoch.

    Parameters
    ----------
    strategy : Strategy
        That has been started.
    epoch : int
        From 0.
    learning_rate : callable
        Given the number of an update of the run, from 0, returns its learning rate.
    callbacks : sequence of Callback
    accumulate : int
        How many batches make an update, as one batch of all their samples would; the last update of
        the epoch takes the batches that are left.
    label_smoothing : float
    counts : EpochCounts, optional
        What has been counted of an epoch that has begun.

    Returns
    -------
    losses : ndarray, (updates,)
        Mean loss of the samples of each update, before it.
    correct : int
        Samples of all ranks whose class was found.

    Raises
    ------
    DivergenceError
        A loss is not finite.
    """
    sizes = update_sizes(loader, accumulate)
    counts = EpochCounts.of(epoch, len(sizes)) if counts is None else counts
    begin = counts.update * accumulate
    batches = loader.batches(seed, epoch, begin * loader.batch)
    for callback in callbacks:
        callback.on_epoch_start()
    for number, batch in enumerate(batches, begin):
        update, part = divmod(number, accumulate)
        step_number = epoch * len(sizes) + update
        # Samples have the places they would have in a single batch: so dropout drops the same.
        first_sample = part * loader.batch + batch.first_sample
        work = Work(
            batch.images,
            batch.labels,
            batch.size,
            int(sizes[update]),
            Step(True, seed, step_number, first_sample, communicator=strategy.communicator),
            learning_rate(step_number),
            first=part == 0,
            last=part == accumulate - 1 or number == len(loader) - 1,
            label_smoothing=label_smoothing,
        )
        for callback in callbacks:
            callback.on_batch_start(work)
        result = strategy.train(work)
        counts.add(result, len(batch.labels), work.last)
        for callback in callbacks if work.last else ():
            callback.on_update_end(strategy.optimizer.updates)
        for callback in callbacks:
            callback.on_batch_end(len(batch.labels), result, len(loader) - 1 - number)
    strategy.finish()
    return counts.sum(strategy, sizes)


def evaluate(
    infer: Callable[[np.ndarray], np.ndarray],
    loader: Loader,
    communicator: Communicator,
    copies: int = 1,
) -> tuple[float, float]:
    """Return loss and accuracy over a data set.

    Parameters
    ----------
    infer : callable
        Returns the scores of images.
    loader : Loader
        Of this rank's share.
    communicator : Communicator
    copies : int
        How many ranks look at the same images.
    """
    loss, correct = 0.0, 0
    for batch in loader.batches():
        result = softmax_cross_entropy(infer(batch.images), batch.labels)
        loss += result.loss
        correct += result.correct
    all_loss, all_correct = communicator.sum_numbers(loss, correct)
    samples = copies * len(loader.dataset)
    return all_loss / samples, all_correct / samples
