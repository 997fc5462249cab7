"""Traces that nobody has recorded, with known answers."""

from collections.abc import Iterable, Iterator
from typing import Any

from lowerconv.parallel.trace.chrome import Event, RankTrace, Step, Trace, Transfer
from lowerconv.parallel.trace.timeline import Timeline

MS = 1_000_000


def rank_trace(rank: int, steps: int = 3, late: float = 0.0) -> RankTrace:
    """Return steps of 100 ms, each rank `late` ms behind the one before, in milliseconds::

    0      10         40    45            80        90     98  100
    | data | forward  | loss | backward   | wait    | update |
                                55..............90  bucket 0, 4 MB
                                      60......85    bucket 1, 2 MB
    """
    made = RankTrace(rank, f"host{rank // 2}", 0 if rank == 0 else 2000 + rank)
    for number in range(5, 5 + steps):
        zero = round((100 * (number - 5) + rank * late) * MS) + 10**15

        def at(ms: float, zero: int = zero) -> int:
            return zero + round(ms * MS)

        made.steps.append(Step(number, 8 + rank, at(0), at(100)))
        shares = {"lowering_share": {"forward": 0.125}}
        for kind, name, begin, end, about in (
            ("data", "", 0, 10, {}),
            ("forward", "features.0 Conv2d", 10, 30, shares),
            ("forward", "classifier.1 Linear", 30, 40, {}),
            ("loss", "", 40, 45, {}),
            ("backward", "classifier.1 Linear", 45, 55, {}),
            ("backward", "features.0 Conv2d", 55, 80, {"lowering_share": {"weight_grad": None}}),
            ("wait", "bucket 0", 80, 90, {}),
            ("update", "bucket 0", 90, 98, {}),
        ):
            made.events.append(Event(kind, name, at(begin), at(end), about))
        made.transfers += [
            Transfer("bucket 0", 4_000_000, 6_000_000, at(54), at(55), at(90)),
            Transfer("bucket 1", 2_000_000, 3_000_000, at(55), at(60), at(85)),
        ]
    return made


def made_up_trace(ranks: int = 3, steps: int = 3, late: float = 0.25) -> Trace:
    """Return the trace of so many ranks."""
    return Trace("a net on data", [rank_trace(rank, steps, late) for rank in range(ranks)])


def over(timeline: Timeline, batches: Iterable[Any]) -> Iterator[Any]:
    """Yield batches, each of which is a step of a timeline."""
    source = iter(batches)
    while True:
        timeline.begin_step()
        batch = next(source, None)
        if batch is None:
            timeline._recording = False  # who trains knows how many there are, and begins no step
            return
        timeline.batch_loaded()
        try:
            yield batch
        finally:
            timeline.end_step(len(batch.labels))
