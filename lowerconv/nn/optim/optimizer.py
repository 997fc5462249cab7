"""What every optimizer is: one flat array of parameters, one of gradients, and a step."""

from __future__ import annotations

from math import inf

import numpy as np

from lowerconv.machine.team import Handle
from lowerconv.machine.threads import get_num_threads, parallel_region
from lowerconv.nn.module import Module
from lowerconv.nn.sharing import use_gradients


class Optimizer:
    """All parameters of a network in one flat array, all gradients in another.

    One loop updates them, and one message sums the gradients of all ranks::

        data   | 0.weight .......... | 0.bias | 3.weight ..... | 3.bias |
               0                 bounds[1]  bounds[2]      bounds[3]  bounds[4]

    Parameters
    ----------
    network : Module
    lr, weight_decay : float
    decay_biases : bool
        Decay parameters of one dimension too: biases, and the scales and shifts of normalisation.
        They are few, and pulling them to zero gains nothing (Goyal et al., "Accurate, large
        minibatch SGD" (2017), section 5.1).

    Attributes
    ----------
    data, grad : ndarray, (parameters,)
        `Parameter.data` and `Parameter.grad` of the network are views of them.
    bounds : ndarray, (number of parameters + 1,), int64
        Where each parameter begins, and where the last one ends.
    updates : int
        How many steps have been made.
    whole : bool
        Whether a step has to see all gradients at once; else it may come in ranges.
    """

    whole = False

    def __init__(
        self, network: Module, lr: float, weight_decay: float = 0.0, decay_biases: bool = False
    ) -> None:
        check_range("lr", lr)
        check_range("weight_decay", weight_decay)
        self.lr, self.weight_decay = lr, weight_decay
        parameters = network.parameters()
        self._layers = [module for _, module in network.modules() if module.own_parameters()]
        self._shapes = {name: p.data.shape for name, p in parameters.items()}
        self.bounds = np.cumsum([0, *(p.data.size for p in parameters.values())])
        self.decayed = np.array([decay_biases or len(shape) > 1 for shape in self._shapes.values()])
        self.data = np.concatenate([p.data.reshape(-1) for p in parameters.values()])
        self.grad = np.zeros_like(self.data)
        self.updates = 0
        datas, grads = self.by_name(self.data), self.by_name(self.grad)
        for name, parameter in parameters.items():
            parameter.data, parameter.grad = datas[name], grads[name]

    def by_name(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """Return views of an array as long as `data`, one for each parameter, in its shape."""
        return {
            name: flat[begin:end].reshape(shape)
            for (name, shape), begin, end in zip(
                self._shapes.items(), self.bounds[:-1], self.bounds[1:], strict=True
            )
        }

    def state(self) -> dict[str, np.ndarray]:
        """Return what is kept from one step to the next: arrays as long as `data`, by name.

        With `data`, `updates` and `lr` they decide all steps to come.
        """
        return {}

    def step(self) -> None:
        """Update the parameters from their gradients.

        Raises
        ------
        RuntimeError
            Another thread has trained the network since this one computed the gradients, or is
            inside a step of it.
        """
        use_gradients(self._layers)
        self.begin_step()
        self.update(0, self.data.size)

    def begin_step(self) -> None:
        """Begin a step that is made of ranges, each updated once."""
        self.updates += 1

    def update(
        self, begin: int, end: int, grad: np.ndarray | None = None, team: Handle | None = None
    ) -> None:
        """Update the items of a range of `data` from their gradients.

        Parameters
        ----------
        begin, end : int
        grad : ndarray, (parameters,), optional
            Of which the range is read; by default `grad`.
        team : Handle, optional
            Who computes; by default the team of all threads, which one thread can have at a time.
        """
        if grad is None:
            grad = self.grad
        if team is not None:
            self._update(team, begin, end, grad)
            return
        with parallel_region(get_num_threads()) as everybody:
            self._update(everybody, begin, end, grad)

    def _update(self, team: Handle, begin: int, end: int, grad: np.ndarray) -> None:
        raise NotImplementedError

    def _decays(self) -> np.ndarray:
        """Return the weight decay of each parameter."""
        return (self.decayed * self.weight_decay).astype(self.data.dtype)


def check_range(name: str, value: float, below: float = inf) -> None:
    """Raise ValueError unless ``0 <= value < below``."""
    if not 0 <= value < below:
        raise ValueError(f"{name}: got {value}, expected 0 <= {name} < {below:g}")
