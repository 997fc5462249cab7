"""Run by mpiexec: train a small network with dropout for some steps; rank 0 saves what came out.

In float64: training amplifies the rounding that the order of a sum decides, and in float32 soon
nobody could tell it from a mistake.

usage: steps.py OUT.npz SAMPLES BATCH OPTIONS [ACCUMULATE], those of `ParallelOptions` as JSON
"""

import json
import sys
from dataclasses import replace

import numpy as np

from lowerconv import nn, set_num_threads
from lowerconv.data import Dataset
from lowerconv.data.loader import Loader, Normalizer
from lowerconv.parallel import world
from lowerconv.parallel.options import ParallelOptions
from lowerconv.parallel.strategies import STRATEGIES
from lowerconv.train.loop import evaluate, train_epoch

SEED = 11

out, samples, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
communicator = world()
set_num_threads(communicator.threads)

rng = np.random.default_rng(SEED)


class Float64Loader(Loader):
    def batches(self, *arguments):
        for batch in super().batches(*arguments):
            yield replace(batch, images=batch.images.astype(np.float64))


images = rng.integers(0, 256, (samples, 2, 9, 9)).astype(np.uint8)
dataset = Dataset("random", images, rng.integers(0, 4, samples), ("a", "b", "c", "d"))
network = nn.Sequential(
    nn.Conv2d(2, 6, 3, padding=1),
    nn.MaxPool2d(2),
    nn.ReLU(),
    nn.Dropout(0.3),
    nn.Conv2d(6, 5, 3, stride=2),
    nn.Flatten(),
    nn.Dropout(0.2),
    nn.Linear(5, 4),
)
network.initialize(rng)
for parameter in network.parameters().values():
    parameter.data, parameter.grad = (a.astype(float) for a in (parameter.data, parameter.grad))
options = ParallelOptions(**json.loads(sys.argv[4]))
strategy = STRATEGIES[options.strategy](
    network, lambda network: nn.SGD(network, 0.05, 0.9, 1e-3), communicator, options, (2, 9, 9)
)
strategy.start()
loader = Float64Loader(dataset, Normalizer(images), batch, *strategy.loader_share)
shares = []
losses, right = [], []
for epoch in range(2):
    epoch_losses, epoch_right = train_epoch(
        strategy,
        loader,
        epoch,
        SEED,
        lambda step: 0.05,
        lambda n, *_: shares.append(n),
        accumulate=int(sys.argv[5]) if len(sys.argv) > 5 else 1,
    )
    losses.extend(epoch_losses)
    right.append(epoch_right)
test = evaluate(strategy.infer, loader, communicator, strategy.copies)
own = {name: p.data for name, p in strategy.network.parameters().items()}
weights = strategy.whole(own)

alike = b"".join(array.tobytes() for array in strategy.replicated().values())
everyone = communicator.gather((alike, shares))
assert len({weights for weights, _ in everyone}) == 1, "weights differ between ranks"
strategy.close()
if communicator.rank == 0:
    np.savez(
        out,
        losses=losses,
        right=right,
        test=test,
        weights=np.concatenate([array.reshape(-1) for array in weights.values()]),
        shares=np.array([share for _, share in everyone]),
    )
