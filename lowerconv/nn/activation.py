"""Elementwise layers: ReLU and dropout."""

from __future__ import annotations

import numpy as np
from numba import njit

from lowerconv.kernels.call import share, spread
from lowerconv.machine.threads import get_num_threads, parallel_region
from lowerconv.nn.module import Layer, Step


@njit(cache=True, nogil=True)
def _relu_share(worker, workers, x, y):
    first, last = share(x.size, worker, workers)
    x, y = x[first:last], y[first:last]  # counted from 0, loops become vector code
    for i in range(x.size):
        y[i] = x.dtype.type(0) if x[i] < 0 else x[i]  # so written, NaN stays NaN


@njit(cache=True, nogil=True)
def _relu(team, x, y):
    spread(team, _relu_share, (x, y))


@njit(cache=True, nogil=True)
def _relu_grad_share(worker, workers, y, dy, dx):
    first, last = share(y.size, worker, workers)
    y, dy, dx = y[first:last], dy[first:last], dx[first:last]
    for i in range(y.size):
        dx[i] = dy[i] if y[i] > 0 else y.dtype.type(0)


@njit(cache=True, nogil=True)
def _relu_grad(team, y, dy, dx):
    spread(team, _relu_grad_share, (y, dy, dx))


@njit(cache=True, nogil=True)
def _mix(z):
    """Scramble 64 bits: the output function of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(cache=True, nogil=True)
def _dropout_share(worker, workers, x, number, key, threshold, scale, y):
    """Keep what draws at least `threshold` out of 2^64; elements draw `number` and following."""
    first, last = share(x.size, worker, workers)
    x, y = x[first:last], y[first:last]
    for i in range(x.size):
        draw = _mix(key + np.uint64(number + first + i) * np.uint64(0x9E3779B97F4A7C15))
        y[i] = x[i] * scale if draw >= threshold else x.dtype.type(0)


@njit(cache=True, nogil=True)
def _dropout(team, x, number, key, threshold, scale, y):
    spread(team, _dropout_share, (x, number, key, threshold, scale, y))


class ReLU(Layer):
    """``max(x, 0)``."""

    def forward(self, x: np.ndarray, step: Step) -> np.ndarray:
        """Return the positive part of `x`."""
        self._y = y = self._array("y", x.shape, x.dtype)
        with parallel_region(get_num_threads()) as team:
            _relu(team, x.reshape(-1), y.reshape(-1))
        return y

    def backward(self, dy: np.ndarray, need_dx: bool = True) -> np.ndarray | None:
        """Return `dy` where the output was positive."""
        dx = self._array("dx", dy.shape, dy.dtype)
        with parallel_region(get_num_threads()) as team:
            _relu_grad(team, self._y.reshape(-1), dy.reshape(-1), dx.reshape(-1))
        return dx


class Dropout(Layer):
    """Zero a fraction of the activations in training, and scale the rest to keep their mean.

    What is dropped depends on the run's seed, the step, the layer and the place in the global
    batch alone: not on the number of threads or ranks.

    Parameters
    ----------
    p : float
        Fraction dropped, 0 <= p < 1.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"p: got {p}, expected 0 <= p < 1")
        self.p = float(p)
        self.stream = 0  # tells the dropout layers of a network apart; set by Sequential
        self._drawn: tuple[int, np.uint64] | None = None

    def forward(self, x: np.ndarray, step: Step) -> np.ndarray:
        """Return `x` with its dropped elements zeroed; `x` itself at inference."""
        if not step.training or self.p == 0:
            self._drawn = None
            return x
        words = np.random.SeedSequence([step.seed, step.number, self.stream]).generate_state(2)
        key = np.uint64(int(words[0]) << 32 | int(words[1]))
        self._drawn = step.first_sample * (x.size // max(1, len(x))), key
        return self._apply(x, "y")

    def backward(self, dy: np.ndarray, need_dx: bool = True) -> np.ndarray | None:
        """Return `dy` with the same elements zeroed."""
        return dy if self._drawn is None else self._apply(dy, "dx")

    def _apply(self, x: np.ndarray, name: str) -> np.ndarray:
        assert self._drawn is not None
        first, key = self._drawn
        y = self._array(name, x.shape, x.dtype)
        threshold = np.uint64(int(self.p * 2.0**64))
        scale = x.dtype.type(1 / (1 - self.p))
        with parallel_region(get_num_threads()) as team:
            _dropout(team, x.reshape(-1), first, key, threshold, scale, y.reshape(-1))
        return y
