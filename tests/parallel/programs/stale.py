"""Run by one process: what `steps.py` computes, with gradients that are exactly s steps stale.

The slow reference of strategy ``async``: old weights are kept, and each gradient is computed for
those of s steps ago; SGD is written out in numpy.

usage: stale.py OUT.npz RUNS, as of `steps.py`; ``staleness`` in them is s
"""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from lowerconv.nn.loss import network_loss
from lowerconv.parallel import strategies
from lowerconv.parallel.strategies.strategy import Strategy

MOMENTUM, DECAY = 0.9, 1e-3  # as steps.py has them


class Reference(Strategy):
    def start(self):
        self.optimizers = [SimpleNamespace(updates=0)]
        self.parameters = self.network.parameters().values()
        self.newest = [[p.data.copy() for p in self.parameters]]
        self.velocity = [np.zeros_like(p.data) for p in self.parameters]

    def train(self, work):
        stale = self.newest[max(0, len(self.newest) - 1 - self.options.staleness)]
        for parameter, weights in zip(self.parameters, stale, strict=True):
            parameter.data[...] = weights
        results = self.network.run(work.images, work.step)
        result, gradients = network_loss(results, work.labels, work.size)
        self.network.backward(*gradients)
        if work.first:
            self.sums = [np.zeros_like(p.data) for p in self.parameters]
        for total, parameter in zip(self.sums, self.parameters, strict=True):
            total += parameter.grad
        if work.last:
            weights = []
            for w, v, g in zip(self.newest[-1], self.velocity, self.sums, strict=True):
                v[...] = MOMENTUM * v + g + (DECAY * w if w.ndim > 1 else 0)
                weights.append(w - work.lr * v)
            self.newest.append(weights)
        return result

    def finish(self):
        self.newest = self.newest[-1:]  # an epoch begins with nothing on its way
        for parameter, weights in zip(self.parameters, self.newest[0], strict=True):
            parameter.data[...] = weights


strategies.STRATEGIES["async"] = Reference
runpy.run_path(str(Path(__file__).with_name("steps.py")), run_name="__main__")
