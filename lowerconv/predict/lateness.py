"""By how much ranks are late that take unequal times by chance, and what that costs the others."""

from __future__ import annotations

import statistics

import numpy as np

from lowerconv.parallel.comm.engine import NAP
from lowerconv.parallel.comm.waiting import pause_after
from lowerconv.predict.collective_costs import Placement, messages_of


def slowest_of(ranks: int) -> float:
    """Return by how many standard deviations the slowest of some ranks is late on average.

    Blom, "Statistical estimates and transformed beta-variables" (1958).
    """
    return max(0.0, statistics.NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25)))


def spread_of(seconds: np.ndarray) -> float:
    """Return the standard deviation of steps over their mean: of those normal ones that would do.

    It is that with which the slower one of two ranks is as late on average as it is with these
    steps; so steps that something else has held up count for as much as they cost.
    """
    ascending = np.sort(seconds)
    count = ascending.size
    # Half of the mean difference of two: the slower one is late by it.
    ranks = np.arange(1 - count, count, 2)
    late = float(ranks @ ascending) / max(1, count * (count - 1))
    return min(1.0, late / float(ascending.mean()) / slowest_of(2))


def woken_late(algorithm: str, at: Placement, skew: float, threaded: bool) -> float:
    """Return by how much the sum that all wait for is late because those who wait sleep.

    They have waited for the slowest rank, and look now and then.  A look ends no message that it
    has begun: the first one comes half a pause late on average, and each message needs another.

    Parameters
    ----------
    algorithm : str
        Of the sum that is waited for first.
    at : Placement
    skew : float
        Seconds by which the slowest rank is behind the average.
    threaded : bool
        Whether a thread looks, too.
    """
    waited = skew * at.ranks / (at.ranks - 1)  # on average, by all but the slowest
    pause = pause_after(waited)
    if threaded:
        pause = min(pause, NAP)
    return (sum(times for _, times in messages_of(algorithm, at)) - 0.5) * pause
