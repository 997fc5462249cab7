"""Fair timing on a noisy machine: candidates take turns, and their times are compared in pairs.

On one thread a turn is one call.  On several it must not be: idle threads of a library spin after a
call and hold the core that the next candidate needs.  Measured on two cores, 3x3 filters of
GoogLeNet's 3a, a millisecond of work: PyTorch's threads (GNU OpenMP) spin 5 to 8 ms and make ONNX
Runtime 1.9 times slower, whose threads spin 30 ms and make the others up to 6 times slower, call by
call.  Sleeping between the turns costs more than it mends: after 5 ms of sleep a virtual machine
has halted its idle cores, and where threads are not bound to cores the kernel may wake all of them
on one, where they take twice as long for tens of milliseconds.  So a turn begins with `SETTLE`
seconds of calls that do not count, and ends with `rest` where a candidate has it, which ends its
threads.  Every candidate then takes as long as it does alone, within 2%.  Its data is in the
caches, where they fit; on one thread the candidates before it have evicted some of it.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from math import exp, log

Run = Callable[[], object]

SECONDS = 0.4  # for all candidates of one comparison together
LEAST, MOST = 5, 200  # rounds
SETTLE = 0.010  # longer than threads of OpenMP spin; those of ONNX Runtime are ended


def _turn(run: Run, settle: float) -> float:
    """Return the seconds of a call: of one, or the median of several once the machine is its."""
    rests = settle > 0 and hasattr(run, "rest")
    prepare = getattr(run, "prepare", None)
    if rests:
        run()  # begins again what `rest` has ended
    until = time.perf_counter() + settle
    while time.perf_counter() < until:
        if prepare:
            prepare()
        run()
    taken: list[float] = []
    until += settle / 2
    while not taken or time.perf_counter() < until:
        if prepare:
            prepare()
        begin = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begin)
    if rests:
        run.rest()  # type: ignore[attr-defined]
    return statistics.median(taken)


def times(
    candidates: Mapping[str, Run],
    seconds: float = SECONDS,
    settle: float = 0.0,
    least: int = LEAST,
) -> dict[str, list[float]]:
    """Return the seconds that each candidate took, round by round, once all are warm.

    Parameters
    ----------
    candidates : mapping of str to callable
        What a call needs each time, and does not count, is its attribute ``prepare`` where it has
        one.
    seconds : float
        For all candidates together.
    least : int
        Rounds that there are even where they take longer.
    settle : float
        `SETTLE` where candidates run on several threads.
    """
    first = 0.0
    for run in candidates.values():
        if hasattr(run, "prepare"):
            run.prepare()
        run()  # compiles, and faults pages in
        begin = time.perf_counter()
        _turn(run, settle)
        first += time.perf_counter() - begin
    rounds = max(least, min(MOST, int(seconds / first)))
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    order, rng = list(candidates.items()), random.Random(0)
    for _ in range(rounds):
        rng.shuffle(order)  # nobody always comes after the one that empties the caches
        for name, run in order:
            taken[name].append(_turn(run, settle))
    return taken


def median_ratio(taken: list[float], reference: list[float]) -> float:
    """Return the median over the rounds of taken / reference."""
    return statistics.median(a / b for a, b in zip(taken, reference, strict=True))


def geometric_mean(values: list[float]) -> float:
    """Return the geometric mean."""
    return exp(sum(map(log, values)) / len(values))
