"""Optimizers: they step on one flat array, which holds all parameters."""

from __future__ import annotations

import numpy as np
from numba import njit

from lowerconv.kernels.call import share, spread
from lowerconv.machine.threads import get_num_threads, parallel_region
from lowerconv.nn.module import Layer


@njit(cache=True, nogil=True)
def _sgd_share(worker, workers, data, grad, velocity, lr, momentum, weight_decay):
    first, last = share(data.size, worker, workers)
    data, grad, velocity = data[first:last], grad[first:last], velocity[first:last]
    for i in range(data.size):
        velocity[i] = momentum * velocity[i] + grad[i] + weight_decay * data[i]
        data[i] -= lr * velocity[i]


@njit(cache=True, nogil=True)
def _sgd(team, data, grad, velocity, lr, momentum, weight_decay):
    spread(team, _sgd_share, (data, grad, velocity, lr, momentum, weight_decay))


class SGD:
    """Stochastic gradient descent with momentum and weight decay, as PyTorch defines them.

    ``v = momentum v + grad + weight_decay w;  w = w - lr v``

    All parameters of the network are moved into one flat array, and so are their gradients: one
    loop updates them, and one message sums the gradients of all ranks.

    Parameters
    ----------
    network : Layer
    lr, momentum, weight_decay : float

    Attributes
    ----------
    data, grad, velocity : ndarray, (parameters,)
        `Parameter.data` and `Parameter.grad` of the network are views of the first two.
    """

    def __init__(
        self, network: Layer, lr: float, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        for name, value, bound in (
            ("lr", lr, np.inf),
            ("momentum", momentum, 1.0),
            ("weight_decay", weight_decay, np.inf),
        ):
            if not 0 <= value < bound:
                raise ValueError(f"{name}: got {value}, expected 0 <= {name} < {bound:g}")
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        parameters = list(network.parameters().values())
        self.data = np.concatenate([p.data.reshape(-1) for p in parameters])
        self.grad = np.zeros_like(self.data)
        self.velocity = np.zeros_like(self.data)
        start = 0
        for parameter in parameters:
            stop = start + parameter.data.size
            shape = parameter.data.shape
            parameter.data = self.data[start:stop].reshape(shape)
            parameter.grad = self.grad[start:stop].reshape(shape)
            start = stop

    def step(self) -> None:
        """Update the parameters from their gradients."""
        kind = self.data.dtype.type
        with parallel_region(get_num_threads()) as team:
            _sgd(
                team,
                self.data,
                self.grad,
                self.velocity,
                kind(self.lr),
                kind(self.momentum),
                kind(self.weight_decay),
            )
