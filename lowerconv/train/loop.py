"""The training loop, whatever the strategy by which ranks share the work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lowerconv.data.loader import Loader
from lowerconv.nn.loss import softmax_cross_entropy
from lowerconv.nn.step import Step
from lowerconv.parallel.comm.agreement import check_weights_agree
from lowerconv.parallel.comm.communicator import Communicator
from lowerconv.parallel.strategies.strategy import Strategy, Work
from lowerconv.parallel.trace.timeline import Timeline
from lowerconv.train.ema import WeightAverage


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
    right : int
        How many of them were right.
    update : int
        The first one that is not counted yet.
    """

    epoch: int
    losses: np.ndarray
    samples: np.ndarray
    right: int = 0
    update: int = 0

    @classmethod
    def of(cls, epoch: int, updates: int) -> EpochCounts:
        """Return that of an epoch that has not begun."""
        return cls(epoch, np.zeros(updates), np.zeros(updates))

    def go_back(self, update: int, right: int) -> None:
        """Forget an update that is computed once more."""
        self.losses[update:] = self.samples[update:] = 0
        self.update, self.right = update, right


def train_epoch(
    strategy: Strategy,
    loader: Loader,
    epoch: int,
    seed: int,
    learning_rate: Callable[[int], float],
    after_batch: Callable[[int, float, int], None],
    *,
    accumulate: int = 1,
    label_smoothing: float = 0.0,
    average: WeightAverage | None = None,
    tally: EpochCounts | None = None,
    before_update: Callable[[], None] | None = None,
    timeline: Timeline | None = None,
    check_every: int | None = None,
) -> tuple[np.ndarray, int]:
    """Train on every batch of an epoch.

    Parameters
    ----------
    strategy : Strategy
        That has been started.
    epoch : int
        From 0.
    learning_rate : callable
        Told the number of an update of the run, from 0.
    after_batch : callable
        Told after each batch, from this rank's share: samples done, their loss, how many were
        right.
    accumulate : int
        So many batches make an update, the same as a single batch of all their samples; the last
        update of the epoch takes what is left.
    label_smoothing : float
    average : WeightAverage, optional
        Takes in the weights after each update.
    tally : EpochCounts, optional
        What has been counted by those that have begun the epoch; some may have died since, and what
        they had counted is not known: then means are of the samples of the others.
    before_update : callable, optional
        Called when the weights are those of ``tally.update`` updates; also after the last.
    timeline : Timeline, optional
        Records steps.
    check_every : int, optional
        Compare the weights of all ranks after so many updates.

    Returns
    -------
    losses : ndarray, (updates,)
        Mean loss of the samples of each update, before it.
    right : int
        Samples of all ranks whose class was found.

    Raises
    ------
    DivergenceError
        A loss is not finite.
    DisagreementError
        Ranks have different weights; the message names the layer.
    """
    communicator = strategy.communicator
    sizes = update_sizes(loader, accumulate)
    mine = EpochCounts.of(epoch, len(sizes)) if tally is None else tally
    begin = mine.update * accumulate
    batches = loader.batches(seed, epoch, begin * loader.batch)
    if timeline is not None:
        batches = timeline.over(batches)
    for number, batch in enumerate(batches, begin):
        update, part = divmod(number, accumulate)
        if part == 0 and before_update is not None:
            before_update()
        # Samples have the places they would have in a single batch: so dropout drops the same.
        place = part * loader.batch + batch.first_sample
        step_number = epoch * len(sizes) + update
        communicator.status.note("computing", step_number + 1)
        step = Step(True, seed, step_number, place, communicator=communicator)
        work = Work(
            batch.images,
            batch.labels,
            batch.size,
            int(sizes[update]),
            step,
            learning_rate(step_number),
            first=part == 0,
            last=part == accumulate - 1 or number == len(loader) - 1,
            label_smoothing=label_smoothing,
        )
        result = strategy.train(work)
        updates = strategy.optimizer.updates
        compare = work.last and bool(check_every) and updates % (check_every or 1) == 0
        if compare or average is not None:
            strategy.settle()
        if work.last and average is not None:
            average.update(updates)
        if compare:
            check_weights_agree(communicator, strategy.replicated())
        mine.losses[update] += result.loss
        mine.samples[update] += len(batch.labels)
        mine.right += result.right
        mine.update += work.last
        after_batch(len(batch.labels), result.loss, result.right)
        communicator.status.note("loading a batch")
    strategy.finish()
    if before_update is not None:
        before_update()
    losses = mine.losses.copy()
    communicator.sum_array(losses)
    all_right = communicator.sum_numbers(mine.right)[0] / strategy.copies
    if tally is None:
        return losses / strategy.copies / sizes, round(all_right)
    samples = mine.samples.copy()
    communicator.sum_array(samples)
    # An update that was made by the dead alone has left no trace.
    means = np.divide(losses, samples, out=np.full(len(sizes), np.nan), where=samples > 0)
    means[np.isnan(means)] = losses.sum() / max(1.0, samples.sum())
    return means, round(all_right * sizes.sum() / max(1.0, samples.sum()))


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
    loss, right = 0.0, 0
    for batch in loader.batches():
        result = softmax_cross_entropy(infer(batch.images), batch.labels)
        loss += result.loss
        right += result.right
    all_loss, all_right = communicator.sum_numbers(loss, right)
    samples = copies * len(loader.dataset)
    return all_loss / samples, all_right / samples
