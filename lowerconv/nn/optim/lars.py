"""LARS: for batches of many thousands of samples."""

from __future__ import annotations

import numpy as np

from lowerconv.codegen.compiled import internal, njit
from lowerconv.codegen.ranges import share
from lowerconv.nn.module import Module
from lowerconv.nn.optim.optimizer import Optimizer, Weights, check_range
from lowerconv.runtime.launch import run_on_team
from lowerconv.runtime.team import TeamHandle

# Squares are summed in blocks of so many, each by one thread: a norm has the same bits whatever the
# number of threads, and the ranks of a job agree on it.
BLOCK = 1 << 14


# Additions may be reordered, which lets them be vector code.
@internal(fastmath={"reassoc"})
def _squares(worker, workers, blocks, data, grad, squares):
    first, last = share(len(blocks), worker, workers)
    for block in range(first, last):
        begin, end = blocks[block, 1], blocks[block, 2]
        w, g = data[begin:end], grad[begin:end]
        weights, gradients = 0.0, 0.0
        for i in range(end - begin):
            weights += np.float64(w[i]) * np.float64(w[i])
            gradients += np.float64(g[i]) * np.float64(g[i])
        squares[block, 0], squares[block, 1] = weights, gradients


@internal
def _steps(worker, workers, weights, rates, velocity, momentum):
    data, grad, bounds, decays, _, _ = weights
    first, last = share(data.size, worker, workers)
    for p in range(decays.size):
        decay, rate = decays[p], rates[p]
        begin, end = max(first, bounds[p]), min(last, bounds[p + 1])
        w, g, v = data[begin:end], grad[begin:end], velocity[begin:end]
        for i in range(end - begin):
            v[i] = momentum * v[i] + rate * (g[i] + decay * w[i])
            w[i] -= v[i]


@njit(cache=True, nogil=True)
def _lars(team, weights, blocks, velocity, lr, momentum, trust):
    data, grad, _, decays, _, _ = weights
    squares = np.empty((len(blocks), 2))
    run_on_team(team, _squares, (blocks, data, grad, squares))
    norms = np.zeros((decays.size, 2))
    for block in range(len(blocks)):
        norms[blocks[block, 0]] += squares[block]
    rates = np.empty_like(decays)
    for p in range(decays.size):
        weight, gradient = np.sqrt(norms[p, 0]), np.sqrt(norms[p, 1])
        rates[p] = lr
        if weight > 0 and gradient > 0:
            rates[p] = lr * trust * weight / (gradient + decays[p] * weight)
    run_on_team(team, _steps, (weights, rates, velocity, momentum))


class LARS(Optimizer):
    """SGD whose steps are a set fraction of each parameter's norm.

    ``rate = lr trust |w| / (|grad| + weight_decay |w|)`` for each parameter;
    ``v = momentum v + rate (grad + weight_decay w);  w = w - v``

    You, Gitman, Ginsburg, "Large batch training of convolutional networks" (2017), algorithm 1.
    Parameters of one dimension, and those that are all zeros, take ``rate = lr``, as usual since.

    Parameters
    ----------
    network : Module
    lr, momentum, weight_decay : float
    trust : float
        The trust coefficient, eta.
    decay_biases : bool
        As for :class:`Optimizer`.

    Attributes
    ----------
    velocity : ndarray, (parameters,)
    """

    whole = True  # norms are those of whole parameters

    def __init__(
        self,
        network: Module,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
        *,
        decay_biases: bool = False,
    ) -> None:
        check_range("momentum", momentum, 1.0)
        check_range("trust", trust)
        super().__init__(network, lr, weight_decay, decay_biases)
        self.momentum, self.trust = momentum, trust
        self.velocity = np.zeros_like(self.data)
        # (parameter, begin, end) of each block
        self._blocks = np.array(
            [
                (p, begin, min(begin + BLOCK, self.bounds[p + 1]))
                for p, parameter in enumerate(network.parameters().values())
                if parameter.data.ndim > 1
                for begin in range(self.bounds[p], self.bounds[p + 1], BLOCK)
            ],
            np.int64,
        ).reshape(-1, 3)

    def state(self) -> dict[str, np.ndarray]:
        """Return the velocity."""
        return {"velocity": self.velocity}

    def _update(self, team: TeamHandle, weights: Weights) -> None:
        momentum = self.data.dtype.type(self.momentum)
        _lars(
            team, weights, self._blocks, self.velocity, float(self.lr), momentum, float(self.trust)
        )
