"""Stochastic gradient descent."""

from __future__ import annotations

import numpy as np

from lowerconv.nn.module import Module
from lowerconv.nn.optim.optimizer import Optimizer, Weights, check_range, share_of
from lowerconv.runtime.launch import parallel
from lowerconv.runtime.team import TeamHandle


@parallel
def _sgd(worker, workers, weights, velocity, lr, momentum, nesterov):
    data, grad, bounds, decays, _, _ = weights
    first, last = share_of(weights, worker, workers)
    for p in range(decays.size):
        decay = decays[p]
        low, high = max(first, bounds[p]), min(last, bounds[p + 1])
        # Indices into slices are known not to be negative, and the loop becomes vector code.
        w, g, v = data[low:high], grad[low:high], velocity[low:high]
        for i in range(high - low):
            change = g[i] + decay * w[i]
            v[i] = momentum * v[i] + change
            if nesterov:
                w[i] -= lr * (change + momentum * v[i])
            else:
                w[i] -= lr * v[i]


class SGD(Optimizer):
    """Stochastic gradient descent with momentum and weight decay, as PyTorch defines them.

    ``v = momentum v + grad + weight_decay w;  w = w - lr v``

    With `nesterov` the velocity is that of the step to come: ``w = w - lr (grad + weight_decay w +
    momentum v)``. Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and
    momentum in deep learning" (2013), section 2.

    Parameters
    ----------
    network : Module
    lr, momentum, weight_decay : float
    nesterov : bool
    decay_biases : bool
        As for :class:`Optimizer`.

    Attributes
    ----------
    velocity : ndarray, (parameters,)
    """

    def __init__(
        self,
        network: Module,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        decay_biases: bool = False,
    ) -> None:
        check_range("momentum", momentum, 1.0)
        if nesterov and not momentum:
            raise ValueError("nesterov: got True with momentum 0, expected a momentum above 0")
        super().__init__(network, lr, weight_decay, decay_biases)
        self.momentum, self.nesterov = momentum, nesterov
        self.velocity = np.zeros_like(self.data)

    def state(self) -> dict[str, np.ndarray]:
        """Return the velocity."""
        return {"velocity": self.velocity}

    def _update(self, team: TeamHandle, weights: Weights) -> None:
        kind = self.data.dtype.type
        _sgd(team, weights, self.velocity, kind(self.lr), kind(self.momentum), self.nesterov)
