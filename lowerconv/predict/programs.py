"""What main threads do in the steps of data parallelism, replayed: in step, or with late sums."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lowerconv.parallel.options import ParallelOptions
from lowerconv.predict.replay import Compute, Look, Message, Replay, Request, Sum, Wait
from lowerconv.predict.schedule import Stage

SETTLE, STEPS = 4, 8  # steps that are replayed: the first ones, and those that count
LATE_SETTLE, LATE_STEPS = 16, 96  # of runs whose sums may be late, which chance decides
MOST_MAINS = 16  # ranks whose main threads are replayed together
COPIED = 2 / 5  # arrays of a copy, over those of an update with momentum


@dataclass(frozen=True)
class Work:
    """A step of one rank, ready to be replayed.

    Attributes
    ----------
    before, loss : float
        Seconds before the first layer, and between forward and backward.
    forward, backward : list of Stage
    updates : list of float
        Seconds of each bucket's update.
    sums : list of (tuple of Message, float or None)
        Messages of each bucket's sum, and its priority.
    """

    before: float
    loss: float
    forward: list[Stage]
    backward: list[Stage]
    updates: list[float]
    sums: list[tuple[tuple[Message, ...], float | None]]

    def sum(self, number: int) -> Sum:
        """Return a new sum of a bucket."""
        return Sum(f"bucket {number}", *self.sums[number])


def replay_in_step(
    work: Work, threaded: bool, spare: bool, deferred: bool
) -> tuple[float, float, float, dict[float, float]]:
    """Return seconds, exposed and in flight of a step, where all ranks have the same weights."""
    replay = Replay(threaded, spare)
    marks: list[tuple[float, float, float]] = []
    replay.run(_in_step(replay, work, deferred, marks))
    begin, end = marks[SETTLE], marks[-1]
    seconds, exposed, in_flight = ((b - a) / STEPS for a, b in zip(begin, end, strict=True))
    return seconds, exposed, in_flight, {}


def _in_step(
    replay: Replay, work: Work, deferred: bool, marks: list[tuple[float, float, float]]
) -> Iterator[Request]:
    """Yield what the main thread of `DataParallel` does."""
    missing: dict[int, Sum] = {}
    for _ in range(SETTLE + STEPS):
        marks.append((replay.now, replay.exposed(), replay.in_flight))
        yield Compute(work.before)
        for stage in work.forward:
            for number in stage.buckets:
                if number in missing:
                    yield Wait(missing.pop(number))
                    yield Compute(work.updates[number])
            yield Compute(stage.seconds)
            yield Look()
        yield Compute(work.loss)
        tasks: list[Sum] = []
        for stage in work.backward:
            yield Compute(stage.seconds)
            yield Look()
            for number in stage.buckets:
                tasks.append(work.sum(number))
                replay.submit(tasks[-1])
        if deferred:
            missing = dict(enumerate(tasks))
            continue
        for number, task in enumerate(tasks):
            yield Wait(task)
            yield Compute(work.updates[number])
    marks.append((replay.now, replay.exposed(), replay.in_flight))


def replay_late(
    work: Work, threaded: bool, spare: bool, ranks: int, options: ParallelOptions, spread: float
) -> tuple[float, float, float, dict[float, float]]:
    """Return the same, and the shares of staleness, where sums may be late: by chance, seeded."""
    mains = min(ranks, MOST_MAINS)
    replay = Replay(threaded, spare, mains)
    marks: list[tuple[float, float, float]] = []
    noted: list[int] = []
    sums: dict[tuple[int, int], Sum] = {}
    rng = np.random.default_rng(0)
    factors = np.maximum(0.5, 1 + spread * rng.standard_normal((mains, LATE_SETTLE + LATE_STEPS)))
    replay.run(
        *(
            _late(replay, work, options, sums, factors[rank], noted, marks if rank == 0 else None)
            for rank in range(mains)
        )
    )
    begin, end = marks[LATE_SETTLE], marks[-1]
    seconds, exposed, in_flight = ((b - a) / LATE_STEPS for a, b in zip(begin, end, strict=True))
    counts: Counter[float] = Counter(noted)
    return seconds, exposed, in_flight, {n: counts[n] / len(noted) for n in sorted(counts)}


def _late(
    replay: Replay,
    work: Work,
    options: ParallelOptions,
    sums: dict[tuple[int, int], Sum],
    factors: np.ndarray,
    noted: list[int],
    marks: list[tuple[float, float, float]] | None,
) -> Iterator[Request]:
    """Yield what the main thread of `Asynchronous` does; note how many updates are missing."""
    pending: deque[list[Sum]] = deque()
    for step, factor in enumerate(factors.tolist()):
        if marks is not None:
            marks.append((replay.now, replay.exposed(), replay.in_flight))
        yield Compute(factor * work.before)
        yield Look()
        while pending and (
            len(pending) > options.staleness
            or (not options.deterministic and all(task.done for task in pending[0]))
        ):
            for number, task in enumerate(pending.popleft()):
                yield Wait(task)
                yield Compute(work.updates[number])
        if step >= LATE_SETTLE:
            noted.append(len(pending))
        for stage in work.forward:
            yield Compute(factor * stage.seconds)
            yield Look()
        yield Compute(factor * work.loss)
        tasks: list[Sum] = []
        for stage in work.backward:
            yield Compute(factor * stage.seconds)
            yield Look()
            for number in stage.buckets:
                yield Compute(COPIED * work.updates[number])
                task = sums.setdefault((step, number), work.sum(number))
                tasks.append(task)
                replay.submit(task)
        pending.append(tasks)
    if marks is not None:
        marks.append((replay.now, replay.exposed(), replay.in_flight))
    for tasks in pending:
        for task in tasks:
            yield Wait(task)
