"""An exponential average of the weights, which often predicts better than the last ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, TypeVar

import numpy as np

from lowerconv.codegen.compiled import njit
from lowerconv.codegen.ranges import share
from lowerconv.copying import Reference
from lowerconv.nn.module import Module
from lowerconv.runtime.launch import run_on_team
from lowerconv.runtime.threads import get_num_threads, parallel_region
from lowerconv.train.checkpoint import state

T = TypeVar("T")


@njit(cache=True, nogil=True)
def _approach_share(worker, workers, average, data, part):
    first, last = share(data.size, worker, workers)
    a, w = average[first:last], data[first:last]
    for i in range(w.size):
        a[i] += part * (w[i] - a[i])


@njit(cache=True, nogil=True)
def _approach(team, average, data, part):
    run_on_team(team, _approach_share, (average, data, part))


class WeightAverage:
    """``average = decay average + (1 - decay) weights`` after each update, from the first on.

    Polyak, Juditsky, "Acceleration of stochastic approximation by averaging" (1992), with weights
    that fade, as PyTorch's ``AveragedModel`` with ``get_ema_multi_avg_fn(decay)`` has them.

    A network and its average are copied and pickled together.

    Parameters
    ----------
    network : Module
        All of whose `checkpoint.state` is averaged.
    decay : float
        From 0 and below 1; 0.999 remembers some thousand updates.

    Attributes
    ----------
    values : dict of str to ndarray
        The average, as `checkpoint.state` has the weights.
    """

    def __init__(self, network: Module, decay: float) -> None:
        self._network, self.decay = Reference(network), decay
        self.values = {name: array.copy() for name, array in state(network).items()}

    def __copy__(self) -> NoReturn:
        raise TypeError(
            "WeightAverage can have no shallow copy, which would write to the same average: copy "
            "the network along, copy.deepcopy((network, average))"
        )

    def _weights(self) -> dict[str, np.ndarray]:
        """Return the arrays of the network.

        Raises
        ------
        RuntimeError
            It does not exist any more, or has others than when the average was made.
        """
        network = self._network()
        if network is None:
            raise RuntimeError(
                "average: a copy whose network does not exist; a network and its average are "
                "copied and pickled together, as in copy.deepcopy((network, average))"
            )
        weights = state(network)
        for name in weights | self.values:
            mine, theirs = (found.get(name) for found in (self.values, weights))
            if mine is None or theirs is None or mine.shape != theirs.shape:
                raise RuntimeError(
                    f"average: {name!r} of its network was added, removed or has another shape "
                    "since the average was made; make another average"
                )
        return weights

    def update(self, updates: int) -> None:
        """Take in the weights after an update, the first of which has number 1."""
        if updates <= 1:  # the initial weights, drawn at random, do not count
            _copy(self._weights(), self.values)
            return
        weights = self._weights()
        with parallel_region(get_num_threads()) as team:
            for name, array in weights.items():
                part = array.dtype.type(1 - self.decay)
                _approach(team, self.values[name].reshape(-1), array.reshape(-1), part)

    def in_place(self, compute: Callable[[], T]) -> T:
        """Return what a function returns while the network computes with the average."""
        weights = self._weights()
        kept = {name: array.copy() for name, array in weights.items()}
        try:
            _copy(self.values, weights)
            return compute()
        finally:
            try:
                _copy(kept, weights)
            except BaseException:  # interrupted: it can be done again from the beginning
                _copy(kept, weights)
                raise


def _copy(source: dict[str, np.ndarray], target: dict[str, np.ndarray]) -> None:
    for name, array in target.items():
        array[...] = source[name]
