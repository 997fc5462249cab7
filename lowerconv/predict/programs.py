"""What main threads do in the steps of strategies, replayed: in step, or with late sums."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from lowerconv.parallel.comm.overlap import has_thread
from lowerconv.parallel.options import ParallelOptions
from lowerconv.predict.calibration import Calibration, ParameterFacts, StepSeconds
from lowerconv.predict.collective_costs import Cluster
from lowerconv.predict.replay import Compute, Look, Message, Replay, Request, Sum, Wait
from lowerconv.predict.stages import (
    Stage,
    backward_stages,
    choose,
    forward_stages,
    make_buckets,
)

Marks: TypeAlias = list[tuple[float, float, float]]  # seconds, exposed and in flight
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
    sums : list of (tuple of Message, float or None, int)
        Messages of each bucket's sum, its priority, and its bytes.
    deferred : bool
        Whether layers are updated when the next step needs them.
    algorithms : tuple of str
        By which each bucket is summed.
    """

    before: float
    loss: float
    forward: list[Stage]
    backward: list[Stage]
    updates: list[float]
    sums: list[tuple[tuple[Message, ...], float | None, int]]
    deferred: bool
    algorithms: tuple[str, ...] = ()

    def sum(self, number: int) -> Sum:
        """Return a new sum of a bucket."""
        return Sum(f"bucket {number}", *self.sums[number])


def make_work(
    calibration: Calibration,
    parameters: Sequence[ParameterFacts],
    step: StepSeconds,
    slower: float,
    before: float,
    cluster: Cluster,
    options: ParallelOptions,
) -> Work:
    """Return the work of a rank that computes its share of a batch.

    Parameters
    ----------
    calibration : Calibration
    parameters : sequence of ParameterFacts
        Whose gradients are summed.
    step : StepSeconds
        Of the layers that these belong to, and of their update.
    slower : float
        By which all parts of the step are.
    before : float
        Seconds before the first layer.
    cluster : Cluster
    options : ParallelOptions

    Raises
    ------
    ValueError
        Links of which nothing is known.
    """
    at, links = cluster.at, cluster.links
    largest = bucket_bytes(options)
    threaded = has_thread(options, cluster.spare, at.hosts)
    overlap = options.overlap != "none"
    deferred = overlap and options.strategy != "async"
    chosen = choose(options, links, at, largest)
    buckets = make_buckets(parameters, calibration.network.itemsize, largest, threaded)
    names = [chosen.name_of(bucket.nbytes) for bucket in buckets]
    stages = (
        forward_stages(step.forward, buckets, not threaded),
        backward_stages(step.backward, buckets, not threaded, overlap),
    )
    forward, backward = (
        [Stage(slower * stage.seconds, stage.buckets) for stage in some] for some in stages
    )
    return Work(
        before=before,
        loss=slower * step.loss,
        forward=forward,
        backward=backward,
        updates=[slower * step.update * bucket.part for bucket in buckets],
        sums=[
            (
                links.messages(name, at, bucket.nbytes),
                bucket.number + 1.0 if deferred and name != "library" else None,
                bucket.nbytes,
            )
            for name, bucket in zip(names, buckets, strict=True)
        ],
        deferred=deferred,
        algorithms=tuple(names),
    )


def bucket_bytes(options: ParallelOptions) -> int:
    """Return the bytes of most buckets."""
    return int(options.bucket_mib * (1 << 20))


def replay_in_step(
    steps: Callable[[Replay, Marks], Iterator[Request]], threaded: bool, spare: bool
) -> tuple[float, float, float, dict[float, float]]:
    """Return seconds, exposed and in flight of a step, where all ranks have the same weights.

    Parameters
    ----------
    steps : callable
        Returns what the main thread does in ``SETTLE + STEPS`` steps, and marks where each begins.
    threaded, spare : bool
        As of `Replay`.
    """
    replay = Replay(threaded, spare)
    marks: Marks = []
    replay.run(steps(replay, marks))
    begin, end = marks[SETTLE], marks[-1]
    seconds, exposed, in_flight = ((b - a) / STEPS for a, b in zip(begin, end, strict=True))
    return seconds, exposed, in_flight, {}


def mark(replay: Replay, marks: Marks) -> None:
    """Keep where a step begins, or the last one ends."""
    marks.append((replay.now, replay.exposed(), replay.in_flight))


def in_step(work: Work, replay: Replay, marks: Marks) -> Iterator[Request]:
    """Yield what the main thread of `DataParallel` does."""
    missing: dict[int, Sum] = {}
    for _ in range(SETTLE + STEPS):
        mark(replay, marks)
        yield from forward(work, missing)
        yield Compute(work.loss)
        yield from backward(work, replay, missing)
    mark(replay, marks)


def forward(work: Work, missing: dict[int, Sum]) -> Iterator[Request]:
    """Yield what comes before the loss; sums of the step before are waited for where needed."""
    yield Compute(work.before)
    for stage in work.forward:
        for number in stage.buckets:
            if number in missing:
                yield Wait(missing.pop(number))
                yield Compute(work.updates[number])
        yield Compute(stage.seconds)
        yield Look()


def backward(work: Work, replay: Replay, missing: dict[int, Sum]) -> Iterator[Request]:
    """Yield what comes after the loss; sums that the next step waits for are `missing` then."""
    tasks: list[Sum] = []
    for stage in work.backward:
        yield Compute(stage.seconds)
        yield Look()
        for number in stage.buckets:
            tasks.append(work.sum(number))
            replay.submit(tasks[-1])
    if work.deferred:
        missing.update(enumerate(tasks))
        return
    for number, task in enumerate(tasks):
        yield Wait(task)
        yield Compute(work.updates[number])


def replay_late(
    work: Work, threaded: bool, spare: bool, ranks: int, options: ParallelOptions, spread: float
) -> tuple[float, float, float, dict[float, float]]:
    """Return the same, and the shares of staleness, where sums may be late: by chance, seeded."""
    mains = min(ranks, MOST_MAINS)
    replay = Replay(threaded, spare, mains)
    marks: Marks = []
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
    marks: Marks | None,
) -> Iterator[Request]:
    """Yield what the main thread of `Asynchronous` does; note how many updates are missing."""
    pending: deque[list[Sum]] = deque()
    for step, factor in enumerate(factors.tolist()):
        if marks is not None:
            mark(replay, marks)
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
        mark(replay, marks)
    for tasks in pending:
        for task in tasks:
            yield Wait(task)
