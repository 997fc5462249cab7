"""Run by mpiexec: train a small network in 16 bits; rank 0 saves what came out.

usage: precise.py OUT.npz RUNS

RUNS is JSON: by name, the precision, the scale that the loss begins with, and the options of
`ParallelOptions`.
"""

import json
import sys

import numpy as np

from lowerconv import nn, set_num_threads
from lowerconv.data import Dataset
from lowerconv.data.loader import Loader
from lowerconv.data.normalizer import Normalizer
from lowerconv.parallel import world
from lowerconv.parallel.options import ParallelOptions
from lowerconv.parallel.strategies import STRATEGIES
from lowerconv.train.loop import train_epoch

SEED = 11
SAMPLES, BATCH = 31, 7  # the last batch has 3


def train(precision: str, scale: float, options: ParallelOptions) -> dict[str, np.ndarray]:
    """Return what came out, on rank 0."""
    rng = np.random.default_rng(SEED)
    images = rng.integers(0, 256, (SAMPLES, 2, 9, 9)).astype(np.uint8)
    dataset = Dataset("random", images, rng.integers(0, 4, SAMPLES), ("a", "b", "c", "d"))
    network = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5, 11),
        nn.Linear(11, 4),
    )
    network.initialize(rng)
    network.precision = precision

    def optimizer(net: nn.Module) -> nn.Optimizer:
        made = nn.SGD(net, 0.05, 0.9, 1e-3)
        if scale:
            made.scale_loss(nn.LossScale(scale, good=4))
        return made

    strategy = STRATEGIES[options.strategy](
        network, optimizer, communicator, options, dataset.image_shape
    )
    strategy.start()
    loader = Loader(dataset, Normalizer(images), BATCH, *strategy.loader_share)
    found = [train_epoch(strategy, loader, e, SEED, lambda _: 0.05, [])[0] for e in range(2)]
    kept = {n: p.data for n, p in network.parameters().items()}
    if strategy.optimizer.scaling is not None:
        kept["scale"] = strategy.optimizer.scaling.state
    kept["updates"] = np.array(strategy.optimizer.updates)
    everyone = communicator.gather(b"".join(array.tobytes() for array in kept.values()))
    assert len(set(everyone)) == 1, "weights or scales differ between ranks"
    strategy.close()
    return {"losses": np.concatenate(found)} | kept


communicator = world()
set_num_threads(communicator.threads)
results = {
    f"{name}/{key}": array.copy()
    for name, (precision, scale, options) in json.loads(sys.argv[2]).items()
    for key, array in train(precision, scale, ParallelOptions(**options)).items()
}
if communicator.rank == 0:
    np.savez(sys.argv[1], **results)
