"""Run by mpiexec: train a small network with dropout for some steps; rank 0 saves what came out.

In float64: training amplifies the rounding that the order of a sum decides, and in float32 soon
nobody could tell it from a mistake.

usage: steps.py OUT.npz RUNS

RUNS is JSON: by name, how many samples, the batch, the options of `ParallelOptions`, and, unless
it is one, how many batches make an update.
"""

import json
import sys
from dataclasses import replace

import numpy as np

from lowerconv import nn, set_num_threads
from lowerconv.data import Dataset
from lowerconv.data.loader import Loader
from lowerconv.data.normalizer import Normalizer
from lowerconv.parallel import world
from lowerconv.parallel.options import ParallelOptions
from lowerconv.parallel.strategies import STRATEGIES
from lowerconv.train.callback import Callback
from lowerconv.train.loop import evaluate, train_epoch

SEED = 11


class Shares(Callback):
    def __init__(self, shares: list[int]) -> None:
        self.shares = shares

    def on_batch_end(self, samples, result, left):
        self.shares.append(samples)


class Float64Loader(Loader):
    def batches(self, *arguments):
        for batch in super().batches(*arguments):
            yield replace(batch, images=batch.images.astype(np.float64))


def train(
    samples: int, batch: int, options: ParallelOptions, accumulate: int
) -> dict[str, np.ndarray]:
    """Return what came out, on rank 0."""
    rng = np.random.default_rng(SEED)
    images = rng.integers(0, 256, (samples, 2, 9, 9)).astype(np.uint8)
    dataset = Dataset("random", images, rng.integers(0, 4, samples), ("a", "b", "c", "d"))
    network = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, dtype=np.float64),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Conv2d(6, 5, 3, stride=2, dtype=np.float64),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(5, 11, dtype=np.float64),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(11, 4, dtype=np.float64),
    )
    network.initialize(rng)
    strategy = STRATEGIES[options.strategy](
        network, lambda net: nn.SGD(net, 0.05, 0.9, 1e-3), communicator, options, (2, 9, 9)
    )
    strategy.start()
    loader = Float64Loader(dataset, Normalizer(images), batch, *strategy.loader_share)
    shares, losses, right = [], [], []
    for epoch in range(2):
        epoch_losses, epoch_right = train_epoch(
            strategy,
            loader,
            epoch,
            SEED,
            lambda step: 0.05,
            [Shares(shares)],
            accumulate=accumulate,
        )
        losses.extend(epoch_losses)
        right.append(epoch_right)
    test = evaluate(strategy.infer, loader, communicator, strategy.loss_copies)
    weights = strategy.gather_whole({n: p.data for n, p in strategy.network.parameters().items()})
    alike = b"".join(array.tobytes() for array in strategy.replicated().values())
    everyone = communicator.gather((alike, shares))
    assert len({weights for weights, _ in everyone}) == 1, "weights differ between ranks"
    strategy.close()
    return {
        "losses": np.array(losses),
        "right": np.array(right),
        "test": np.array(test),
        "weights": np.concatenate([array.reshape(-1) for array in weights.values()]),
        "shares": np.array([share for _, share in everyone]),
    }


communicator = world()
set_num_threads(communicator.threads)
results = {}
for name, (samples, batch, options, *accumulate) in json.loads(sys.argv[2]).items():
    results[name] = train(samples, batch, ParallelOptions(**options), *(accumulate or [1]))
if communicator.rank == 0:
    np.savez(
        sys.argv[1],
        **{
            f"{name}/{key}": array
            for name, found in results.items()
            for key, array in found.items()
        },
    )
