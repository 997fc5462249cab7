"""An exponential average of the weights, which often predicts better than the last ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from numba import njit

from lowerconv.kernels.call import share, spread
from lowerconv.machine.threads import get_num_threads, parallel_region
from lowerconv.nn.optim import Optimizer


@njit(cache=True, nogil=True)
def _approach_share(worker, workers, average, data, part):
    first, last = share(data.size, worker, workers)
    a, w = average[first:last], data[first:last]
    for i in range(w.size):
        a[i] += part * (w[i] - a[i])


@njit(cache=True, nogil=True)
def _approach(team, average, data, part):
    spread(team, _approach_share, (average, data, part))


class WeightAverage:
    """``average = decay average + (1 - decay) weights`` after each update, from the first on.

    Polyak, Juditsky, "Acceleration of stochastic approximation by averaging" (1992), with weights
    that fade, as PyTorch's ``AveragedModel`` with ``get_ema_multi_avg_fn(decay)`` has them.

    Parameters
    ----------
    optimizer : Optimizer
        Whose parameters are averaged.
    decay : float
        From 0 and below 1; 0.999 remembers some thousand updates.

    Attributes
    ----------
    values : ndarray
        As long as ``optimizer.data``.
    """

    def __init__(self, optimizer: Optimizer, decay: float) -> None:
        self._optimizer, self.decay = optimizer, decay
        self.values = optimizer.data.copy()

    def update(self) -> None:
        """Take in the weights after an update."""
        data = self._optimizer.data
        if self._optimizer.updates <= 1:  # the initial weights, drawn at random, do not count
            self.values[:] = data
            return
        with parallel_region(get_num_threads()) as team:
            _approach(team, self.values, data, data.dtype.type(1 - self.decay))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Have the network compute with the average for a while."""
        data = self._optimizer.data
        weights = data.copy()
        data[:] = self.values
        try:
            yield
        finally:
            data[:] = weights
