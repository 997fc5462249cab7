"""Run by mpiexec: train a small network with dropout for some steps; rank 0 saves what came out.

usage: steps.py OUT.npz SAMPLES BATCH
"""

import sys

import numpy as np

from lowerconv import nn, set_num_threads
from lowerconv.data import Dataset
from lowerconv.data.loader import Loader, Normalizer
from lowerconv.parallel import world
from lowerconv.train.loop import evaluate, train_epoch

SEED = 11

out, samples, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
communicator = world()
set_num_threads(communicator.threads)

rng = np.random.default_rng(SEED)
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
optimizer = nn.SGD(network, 0.05, 0.9, 1e-3)
loader = Loader(dataset, Normalizer(images), batch, communicator.rank, communicator.ranks)
shares = []
losses, right = [], []
for epoch in range(2):
    epoch_losses, epoch_right = train_epoch(
        network,
        optimizer,
        loader,
        epoch,
        SEED,
        lambda step: 0.05,
        communicator,
        lambda n, *_: shares.append(n),
    )
    losses.extend(epoch_losses)
    right.append(epoch_right)
test = evaluate(network, loader, communicator)

everyone = communicator.gather((optimizer.data.tobytes(), shares))
assert len({weights for weights, _ in everyone}) == 1, "weights differ between ranks"
if communicator.rank == 0:
    np.savez(
        out,
        losses=losses,
        right=right,
        test=test,
        weights=optimizer.data,
        shares=np.array([share for _, share in everyone]),
    )
