"""Fair timing on a noisy machine: candidates take turns, and their times are compared in pairs."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from math import exp, log

SECONDS = 0.4  # for all candidates of one comparison together
LEAST, MOST = 5, 200  # rounds


def times(candidates: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Return the seconds that each candidate took, round by round, once all are warm."""
    first = 0.0
    for run in candidates.values():
        run()  # compiles, and faults pages in
        begin = time.perf_counter()
        run()
        first += time.perf_counter() - begin
    rounds = max(LEAST, min(MOST, int(SECONDS / first)))
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    order, rng = list(candidates.items()), random.Random(0)
    for _ in range(rounds):
        rng.shuffle(order)  # nobody always comes after the one that empties the caches
        for name, run in order:
            begin = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - begin)
    return taken


def median_ratio(taken: list[float], reference: list[float]) -> float:
    """Return the median over the rounds of taken / reference."""
    return statistics.median(a / b for a, b in zip(taken, reference, strict=True))


def geometric_mean(values: list[float]) -> float:
    """Return the geometric mean."""
    return exp(sum(map(log, values)) / len(values))
