"""The loop itself: batches that make one update together."""

from dataclasses import replace

import numpy as np
import pytest

from lowerconv import nn
from lowerconv.data import Dataset
from lowerconv.data.loader import Loader
from lowerconv.data.normalizer import Normalizer
from lowerconv.parallel import Communicator
from lowerconv.parallel.options import ParallelOptions
from lowerconv.parallel.strategies.data import DataParallel
from lowerconv.train.loop import train_epoch, update_sizes


class Float64Loader(Loader):
    def batches(self, *arguments):
        for batch in super().batches(*arguments):
            yield replace(batch, images=batch.images.astype(np.float64))


def train(samples: int, batch: int, accumulate: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return losses, weights and steps of two epochs in float64, with dropout."""
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (samples, 2, 6, 6)).astype(np.uint8)
    dataset = Dataset("random", images, rng.integers(0, 3, samples), ("a", "b", "c"))
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, dtype=np.float64),
        nn.ReLU(),
        nn.Dropout(0.4),
        nn.Flatten(),
        nn.Linear(64, 3, dtype=np.float64),
    )
    network.initialize(rng)
    strategy = DataParallel(
        network,
        lambda network: nn.SGD(network, 0.1, 0.9, 1e-3),
        Communicator(),
        ParallelOptions(),
        (2, 6, 6),
    )
    strategy.start()
    loader = Float64Loader(dataset, Normalizer(images), batch)
    losses = [
        train_epoch(
            strategy,
            loader,
            epoch,
            3,
            lambda update: 0.1 / (1 + update),
            accumulate=accumulate,
            label_smoothing=0.1,
        )[0]
        for epoch in range(2)
    ]
    optimizer = strategy.optimizer
    return np.concatenate(losses), optimizer.data, optimizer.updates


#         samples, batch, accumulate
GROUPS = {
    "whole": (24, 4, 3),
    "last-group-of-fewer-batches": (28, 4, 3),
    "last-batch-smaller": (31, 4, 3),
    "one-group-for-all": (10, 3, 9),
    "last-group-of-one-sample": (25, 4, 3),
}


@pytest.mark.parametrize("name", GROUPS)
def test_accumulated_batches_are_one_batch(name):
    samples, batch, accumulate = GROUPS[name]
    parts, whole = train(samples, batch, accumulate), train(samples, batch * accumulate, 1)
    assert parts[2] == whole[2]
    np.testing.assert_allclose(parts[0], whole[0], rtol=1e-12)
    np.testing.assert_allclose(parts[1], whole[1], rtol=1e-10, atol=1e-12)


def test_sizes_of_updates():
    images = np.zeros((31, 1, 1, 1), np.uint8)
    dataset = Dataset("d", images, np.zeros(31, np.int64), ("a",))
    loader = Loader(dataset, Normalizer(images), 4)
    assert update_sizes(loader, 1).tolist() == [4] * 7 + [3]
    assert update_sizes(loader, 3).tolist() == [12, 12, 7]
    assert update_sizes(loader, 100).tolist() == [31]
