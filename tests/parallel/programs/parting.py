"""Run by mpiexec: a weight of the last rank changes by a bit; the run ends, naming its layer."""

import numpy as np

from lowerconv import nn
from lowerconv.data import Dataset
from lowerconv.data.loader import Loader
from lowerconv.data.normalizer import Normalizer
from lowerconv.parallel import world
from lowerconv.parallel.comm.agreement import DisagreementError
from lowerconv.parallel.options import ParallelOptions
from lowerconv.parallel.strategies.data import DataParallel
from lowerconv.train.callback import AgreementCheck, Callback
from lowerconv.train.loop import train_epoch

communicator = world()
rng = np.random.default_rng(3)
images = rng.integers(0, 256, (40, 1, 6, 6)).astype(np.uint8)
dataset = Dataset("random", images, rng.integers(0, 3, 40), ("a", "b", "c"))
network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
network.initialize(rng)
options = ParallelOptions(deterministic=True, check_every=2)
strategy = DataParallel(network, lambda net: nn.SGD(net, 0.01), communicator, options, (1, 6, 6))
strategy.start()
loader = Loader(dataset, Normalizer(images), 4, *strategy.loader_share)
done = 0


class Flip(Callback):
    def on_batch_end(self, samples, result, left):
        global done
        done += 1
        if done == 4 and communicator.rank == communicator.ranks - 1:
            network.parameters()["3.weight"].data.view(np.int32)[1, 5] ^= 1


callbacks = [AgreementCheck(strategy, options.checked_every), Flip()]
try:
    train_epoch(strategy, loader, 0, 1, lambda update: 0.01, callbacks)
except DisagreementError as error:
    assert "3.weight" in str(error), error
    assert done == 5, done  # the update after the change, the 6th, was compared
    print("named")
strategy.close()
