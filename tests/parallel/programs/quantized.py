"""Run by mpiexec: train a small network with few bits; rank 0 saves what came out.

In float64: in float32 the order of a sum now and then decides to which step a number is rounded.

usage: quantized.py OUT.npz RUNS

RUNS is JSON: by name, the options of `Quantization`, and those of `ParallelOptions`.
"""

import json
import sys
from dataclasses import replace

import numpy as np

from lowerconv import nn, quant, set_num_threads
from lowerconv.data import Dataset
from lowerconv.data.loader import Loader
from lowerconv.data.normalizer import Normalizer
from lowerconv.parallel import world
from lowerconv.parallel.options import ParallelOptions
from lowerconv.parallel.strategies import STRATEGIES
from lowerconv.train.loop import train_epoch

SEED = 11
SAMPLES, BATCH = 30, 7  # the last batch has 2: of three ranks one has nothing


class Float64Loader(Loader):
    def batches(self, *arguments):
        for batch in super().batches(*arguments):
            yield replace(batch, images=batch.images.astype(np.float64))


def train(bits: quant.Quantization, options: ParallelOptions) -> dict[str, np.ndarray]:
    """Return what came out, on rank 0."""
    rng = np.random.default_rng(SEED)
    images = rng.integers(0, 256, (SAMPLES, 2, 9, 9)).astype(np.uint8)
    dataset = Dataset("random", images, rng.integers(0, 4, SAMPLES), ("a", "b", "c", "d"))
    network = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, dtype=np.float64),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3, stride=2, dtype=np.float64),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5, 11, dtype=np.float64),
        nn.Linear(11, 4, dtype=np.float64),
    )
    network.initialize(rng)
    quant.prepare(network, bits)

    def optimizer(net: nn.Module) -> nn.Optimizer:
        made = nn.SGD(net, 0.05, 0.9, 1e-3)
        made.rounding = bits.rounded_updates(SEED)
        return made

    strategy = STRATEGIES[options.strategy](
        network, optimizer, communicator, options, dataset.image_shape
    )
    strategy.start()
    loader = Float64Loader(dataset, Normalizer(images), BATCH, *strategy.loader_share)
    found = [train_epoch(strategy, loader, e, SEED, lambda _: 0.05, [])[0] for e in range(2)]
    weights = {n: p.data for n, p in network.parameters().items()}
    everyone = communicator.gather(b"".join(array.tobytes() for array in weights.values()))
    assert len(set(everyone)) == 1, "weights differ between ranks"
    strategy.close()
    return {"losses": np.concatenate(found)} | weights


communicator = world()
set_num_threads(communicator.threads)
results = {
    f"{name}/{key}": array.copy()
    for name, (bits, options) in json.loads(sys.argv[2]).items()
    for key, array in train(quant.Quantization(**bits), ParallelOptions(**options)).items()
}
if communicator.rank == 0:
    np.savez(sys.argv[1], **results)
