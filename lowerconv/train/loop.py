"""The training loop: synchronous data parallelism over any number of ranks, one included."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite

import numpy as np

from lowerconv.data.loader import Loader
from lowerconv.nn.loss import network_loss, softmax_cross_entropy
from lowerconv.nn.module import INFERENCE, Module, Step
from lowerconv.nn.optim import Optimizer
from lowerconv.parallel.communicator import Communicator
from lowerconv.nn.divergence import DivergenceError, describe_divergence
from lowerconv.train.ema import WeightAverage


def update_sizes(loader: Loader, accumulate: int) -> np.ndarray:
    """Return how many samples each update of an epoch has; the last may have fewer."""
    return np.add.reduceat(loader.batch_sizes, np.arange(0, len(loader), accumulate))


def train_epoch(
    network: Module,
    optimizer: Optimizer,
    loader: Loader,
    epoch: int,
    seed: int,
    learning_rate: Callable[[int], float],
    communicator: Communicator,
    after_batch: Callable[[int, float, int], None],
    *,
    accumulate: int = 1,
    label_smoothing: float = 0.0,
    average: WeightAverage | None = None,
) -> tuple[np.ndarray, int]:
    """Train on every batch of an epoch.

    Parameters
    ----------
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
    """
    sizes = update_sizes(loader, accumulate)
    losses = np.zeros(len(sizes))
    right = 0
    held = np.empty_like(optimizer.grad) if accumulate > 1 else optimizer.grad
    for number, batch in enumerate(loader.batches(seed, epoch)):
        update, part = divmod(number, accumulate)
        is_last = part == accumulate - 1 or number == len(loader) - 1
        # Samples have the places they would have in a single batch: so dropout drops the same.
        place = part * loader.batch + batch.first_sample
        step = Step(True, seed, epoch * len(sizes) + update, place, communicator=communicator)
        results = network.run(batch.images, step)
        size = int(sizes[update])
        result, gradients = network_loss(results, batch.labels, size, label_smoothing)
        if not isfinite(result.loss):
            raise DivergenceError(describe_divergence(network, batch.images, step, result.loss))
        network.backward(*gradients)
        if part > 0:
            optimizer.grad += held
        if is_last:
            communicator.sum_array(optimizer.grad)
            optimizer.lr = learning_rate(step.number)
            optimizer.step()
            if average is not None:
                average.update(optimizer.updates)
        else:
            held[:] = optimizer.grad
        losses[update] += result.loss
        right += result.right
        after_batch(len(batch.labels), result.loss, result.right)
    communicator.sum_array(losses)
    return losses / sizes, int(communicator.sum_numbers(right)[0])


def evaluate(network: Module, loader: Loader, communicator: Communicator) -> tuple[float, float]:
    """Return loss and accuracy over a data set, each rank having looked at its share."""
    loss, right = 0.0, 0
    for batch in loader.batches():
        scores = network.run(batch.images, INFERENCE)
        result = softmax_cross_entropy(scores, batch.labels)
        loss += result.loss
        right += result.right
    all_loss, all_right = communicator.sum_numbers(loss, right)
    return all_loss / len(loader.dataset), all_right / len(loader.dataset)
