"""Run by mpiexec: batch norm over the batches of all ranks is that of one process.

usage: normalising.py RANKS BATCH...

A batch is that of all ranks: some may have nothing of it.
"""

import sys

import numpy as np

from lowerconv import nn
from lowerconv.data.order import share
from lowerconv.parallel import world

c = world()
assert c.ranks == int(sys.argv[1])


class Block(nn.Module):
    """Batch norm alone, with a ReLU, and with a residual and a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1, dtype=np.float64)
        self.norms = nn.Sequential(*(nn.BatchNorm2d(5, dtype=np.float64) for _ in range(3)))

    def forward(self, x):
        first, second, third = self.norms.children().values()
        x = first(self.conv(x))
        y = nn.relu(second(x))
        return nn.relu(third(y) + x)


def step(synchronized: bool, batch: int, begin: int, end: int) -> tuple[np.ndarray, nn.Module]:
    """Return the result of a part of the batch; gradients stay in the network."""
    network = Block()
    rng = np.random.default_rng(3)
    for parameter in network.parameters().values():
        parameter.data[...] = rng.standard_normal(parameter.data.shape)
    for _, module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.synchronized = synchronized
    x = rng.standard_normal((batch, 3, 6, 7)) * 3 + 1
    dy = rng.standard_normal((batch, 5, 6, 7))
    y = network.run(x[begin:end], nn.Step(training=True, communicator=c)).copy()
    network.backward(dy[begin:end])
    return y, network


for batch in map(int, sys.argv[2:]):
    mine = share(batch, c.rank, c.ranks)
    begin, end = mine.start, mine.stop
    whole, expected = step(False, batch, 0, batch)
    part, network = step(True, batch, begin, end)
    np.testing.assert_allclose(part, whole[begin:end], rtol=1e-9, atol=1e-12)
    for name, array in network.buffers().items():
        np.testing.assert_allclose(array, expected.buffers()[name], rtol=1e-10, err_msg=name)
    for name, parameter in network.parameters().items():
        total = parameter.grad.copy()
        c.sum_array(total)
        right = expected.parameters()[name].grad
        np.testing.assert_allclose(total, right, rtol=1e-8, atol=1e-10, err_msg=name)
print("right")
