"""How much of the communication was hidden, and where the time of a step went."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lowerconv.parallel.comm.listener import LOSS, PROGRESS, UPDATE
from lowerconv.parallel.trace.chrome import BACKWARD, DATA, FORWARD, WAIT, RankTrace, Trace

COMPUTE = (FORWARD, BACKWARD, LOSS, UPDATE)
EXPOSED = (WAIT, PROGRESS)

Span = tuple[int, int]


@dataclass(frozen=True)
class Summary:
    """The recorded steps of a rank, or of all.

    Attributes
    ----------
    steps : int
    seconds : float
        Of a step, from its batch being asked for; `compute`, `exposed`, `data` and `other` add up
        to it.
    compute : float
        Seconds of a step in layers, loss and update.
    exposed : float
        Seconds of a step in which the main thread waited for communication, or moved it along.
    data : float
        Seconds of a step in which it waited for its batch.
    in_flight : float
        Seconds of a step during which there was communication under way.
    nbytes : float
        Of the arrays that were communicated in a step.
    sent : float or None
        Bytes that the rank put on the wire in a step; None where the MPI library did.
    images_per_second : float
    """

    steps: int
    seconds: float
    compute: float
    exposed: float
    data: float
    in_flight: float
    nbytes: float
    sent: float | None
    images_per_second: float

    @property
    def other(self) -> float:
        """Seconds of a step that nothing accounts for: Python between the layers, and so on."""
        return self.seconds - self.compute - self.exposed - self.data

    @property
    def hidden(self) -> float | None:
        """The share of the time in flight that cost the main thread none; None without any.

        A wait that no communication explains, such as for a task that had not begun, counts against
        it: this is the least that may be claimed.
        """
        if not self.in_flight:
            return None
        return max(0.0, 1 - self.exposed / self.in_flight)


def merged(spans: Iterable[Span]) -> list[Span]:
    """Return the union of spans as spans that do not touch, ascending."""
    result: list[Span] = []
    for begin, end in sorted(spans):
        if result and begin <= result[-1][1]:
            result[-1] = result[-1][0], max(end, result[-1][1])
        else:
            result.append((begin, end))
    return result


def overlap(spans: Sequence[Span], others: Sequence[Span]) -> int:
    """Return for how long two unions of spans overlap; each is `merged`."""
    total = i = j = 0
    while i < len(spans) and j < len(others):
        total += max(0, min(spans[i][1], others[j][1]) - max(spans[i][0], others[j][0]))
        if spans[i][1] < others[j][1]:
            i += 1
        else:
            j += 1
    return total


def summarize(rank: RankTrace, number: int | None = None) -> Summary:
    """Return the summary of a rank, of all its steps or of one."""
    steps = [step for step in rank.steps if number in (None, step.number)]
    windows = merged((step.begin, step.end) for step in steps)
    scale = 1e-9 / len(steps)

    def spent(*kinds: str) -> float:
        spans = merged((e.begin, e.end) for e in rank.events if e.kind in kinds)
        return scale * overlap(spans, windows)

    transfers = merged((sent.started, sent.finished) for sent in rank.transfers)
    # Each transfer counts once, for the step that it ends in.
    ended = [t for t in rank.transfers if any(begin < t.finished <= end for begin, end in windows)]
    known = all(t.sent is not None for t in ended)
    seconds = scale * overlap(windows, windows)
    return Summary(
        steps=len(steps),
        seconds=seconds,
        compute=spent(*COMPUTE),
        exposed=spent(*EXPOSED),
        data=spent(DATA),
        in_flight=scale * overlap(transfers, windows),
        nbytes=sum(t.nbytes for t in ended) / len(steps),
        sent=sum(t.sent or 0 for t in ended) / len(steps) if known else None,
        images_per_second=sum(step.images for step in steps) / (seconds * len(steps)),
    )


def summarize_all(trace: Trace, number: int | None = None) -> tuple[Summary, list[Summary]]:
    """Return the mean of all ranks, with all their images, and the summary of each."""
    ranks = [summarize(rank, number) for rank in trace.ranks]

    def mean(name: str) -> float:
        return sum(getattr(rank, name) for rank in ranks) / len(ranks)

    known = all(rank.sent is not None for rank in ranks)
    whole = Summary(
        steps=ranks[0].steps,
        **{name: mean(name) for name in ("seconds", "compute", "exposed", "data", "in_flight")},
        nbytes=mean("nbytes"),
        sent=mean("sent") if known else None,
        images_per_second=sum(rank.images_per_second for rank in ranks),
    )
    return whole, ranks


def describe(trace: Trace) -> str:
    """Return the summary in one line."""
    whole, ranks = summarize_all(trace)
    hidden = [rank.hidden for rank in ranks if rank.hidden is not None]
    parts = [
        f"{whole.steps} steps of {1e3 * whole.seconds:.1f} ms: {1e3 * whole.compute:.1f} compute, "
        f"{1e3 * whole.exposed:.1f} waiting for communication, "
        f"{1e3 * (whole.data + whole.other):.1f} data and other",
        f"{whole.images_per_second:,.0f} images/s",
    ]
    if whole.hidden is not None:
        sent = "" if whole.sent is None else f" ({whole.sent / 1e6:,.2f} MB sent by a rank)"
        parts.append(
            f"communication under way for {1e3 * whole.in_flight:.1f} ms{sent}, "
            f"{whole.hidden:.0%} of it hidden ({min(hidden):.0%} to {max(hidden):.0%})"
        )
    else:
        parts.append("no communication")
    return "; ".join(parts)
