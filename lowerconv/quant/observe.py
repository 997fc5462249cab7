"""Calibration: which range of numbers codes stand for, found from what a network computes.

``minmax``      from the smallest number to the largest
``percentile``  without the few numbers that are farthest from zero
``entropy``     the range whose codes lose the least information: Migacz, "8-bit inference with
                TensorRT" (2017), which chooses the Kullback-Leibler divergence as a measure

The last two count numbers in bins whose width is a power of two.  Where numbers leave them, bins
are put together in pairs: so counts do not depend on the order of the batches.
"""

from __future__ import annotations

from math import frexp

import numpy as np

METHODS = ("minmax", "percentile", "entropy")
BINS = 2048  # on each side of zero
LEVELS = 128  # of the codes of one side, as far as the divergence is concerned
PERCENTILE = 99.99


class Observer:
    """The numbers of one tensor, as far as calibration needs them.

    Parameters
    ----------
    counts : bool
        Whether they are counted in bins.

    Attributes
    ----------
    low, high : float
    bins : ndarray, (2 * BINS,), int64
        Numbers from ``(i - BINS) * width`` to the next one.
    width : float
    """

    def __init__(self, counts: bool) -> None:
        self.low, self.high = np.inf, -np.inf
        self.bins = np.zeros(2 * BINS if counts else 0, np.int64)
        self.width = 0.0

    def see(self, x: np.ndarray) -> None:
        """Note the numbers of an array.

        Parameters
        ----------
        x : ndarray, float32

        Raises
        ------
        ValueError
            One of them is NaN or infinite.
        """
        if not x.size:
            return
        low, high = float(x.min()), float(x.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError("got NaN or infinite numbers, expected finite ones")
        self.low, self.high = min(self.low, low), max(self.high, high)
        if not self.bins.size:
            return
        self._reach(max(-low, high))
        if self.width:
            at = np.floor(x.reshape(-1) / np.float32(self.width)).astype(np.int64) + BINS
            self.bins += np.bincount(at, minlength=2 * BINS)

    def _reach(self, most: float) -> None:
        """Make bins so wide that they reach a number."""
        least = float(np.finfo(np.float32).tiny)
        if most < least:
            most = least
        needed = 2.0 ** frexp(most / BINS)[1]
        while 0 < self.width < needed:
            self.bins = np.concatenate(
                [
                    np.zeros(BINS // 2, np.int64),
                    self.bins.reshape(-1, 2).sum(1),
                    np.zeros(BINS // 2, np.int64),
                ]
            )
            self.width *= 2
        self.width = max(self.width, needed)

    def range(self, method: str, percentile: float = PERCENTILE) -> tuple[float, float]:
        """Return the range that codes stand for.

        Parameters
        ----------
        method : str
            One of `METHODS`.
        percentile : float
            How many of 100 numbers are within it, as far as that decides.

        Returns
        -------
        (float, float)
        """
        if method == "minmax" or not self.bins.any():
            return self.low, self.high
        if method == "percentile":
            return self._percentile(percentile)
        bound = self._entropy()
        return max(self.low, -bound), min(self.high, bound)

    def _percentile(self, percentile: float) -> tuple[float, float]:
        """Return the range without a share of the numbers, as many on both sides of two."""
        left = (1 - percentile / 100) * self.bins.sum()
        sides = (self.low < 0) + (self.high > 0)
        below = np.searchsorted(np.cumsum(self.bins), left / max(1, sides), side="right")
        above = np.searchsorted(np.cumsum(self.bins[::-1]), left / max(1, sides), side="right")
        low, high = (below - BINS) * self.width, (BINS - above) * self.width
        return max(self.low, low) if self.low < 0 else self.low, min(self.high, high)

    def _entropy(self) -> float:
        """Return the magnitude beyond which numbers are clipped."""
        counts = (self.bins[BINS:] + self.bins[BINS - 1 :: -1]).astype(np.float64)
        counts[0] = counts[1]  # zeros are exact, and a ReLU makes many of them
        used = int(np.max(np.nonzero(counts)[0], initial=LEVELS - 1)) + 1
        best, found = np.inf, used
        for end in range(LEVELS, used + 1):
            divergence = _divergence(counts[:used], end)
            if divergence < best:
                best, found = divergence, end
        return found * self.width


def _divergence(counts: np.ndarray, end: int) -> float:
    """Return what is lost where bins from `end` on are clipped, and the others share codes."""
    kept = counts[:end]
    p = kept.copy()
    p[-1] += counts[end:].sum()
    edges = np.arange(LEVELS) * end // LEVELS
    sums = np.add.reduceat(kept, edges)
    filled = np.add.reduceat((kept > 0).astype(np.float64), edges)
    level = np.repeat(np.arange(LEVELS), np.diff([*edges, end]))
    q = np.where(kept > 0, (sums / np.maximum(filled, 1))[level], 0)
    p, q = p / max(p.sum(), 1), q / max(q.sum(), 1)
    where = p > 0
    return float(np.sum(p[where] * np.log(p[where] / np.maximum(q[where], 1e-12))))
