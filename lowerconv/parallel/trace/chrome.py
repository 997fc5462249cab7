"""What all ranks did in some training steps, as a file that https://ui.perfetto.dev opens.

The format is the "Trace Event Format" of Chromium: complete events ("X"), times in microseconds, a
process for each rank.  Its threads are lanes, in which nothing overlaps: the steps, what the main
thread did, and one lane for as many pieces of communication as were under way at once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lowerconv.files import write_atomically
from lowerconv.parallel.comm.listener import LOSS, PROGRESS, UPDATE

FORMAT = "lowerconv timeline 1"
FORWARD, BACKWARD, DATA, WAIT = "forward", "backward", "data", "wait"
KINDS = (DATA, FORWARD, LOSS, BACKWARD, UPDATE, PROGRESS, WAIT)
STEP, TRANSFER = "step", "communication"
LANES = 1000  # thread numbers of a process
COMPUTE = 1  # its lane; 0 is that of the steps, those behind are communication


class TraceError(ValueError):
    """A file that `write` has not written; the message begins with its path."""


class Step(NamedTuple):
    """A training step: its number since this run began, and this rank's images in it."""

    number: int
    images: int
    begin: int
    end: int


class Event(NamedTuple):
    """What the main thread did, from `begin` to `end` in nanoseconds.

    Attributes
    ----------
    kind : str
        One of `KINDS`; "progress" is moving communication along between two layers.
    name : str
        The layer, or the piece of communication.
    about : dict
        Whatever else is known.
    """

    kind: str
    name: str
    begin: int
    end: int
    about: dict[str, Any]


class Transfer(NamedTuple):
    """A piece of communication.

    Attributes
    ----------
    name : str
    nbytes : int
        Of the arrays concerned.
    sent : int or None
        Bytes that this rank put on the wire; None where the MPI library did.
    submitted, started, finished : int
        Nanoseconds.
    """

    name: str
    nbytes: int
    sent: int | None
    submitted: int
    started: int
    finished: int


@dataclass
class RankTrace:
    """What one rank did.

    Attributes
    ----------
    rank : int
    host : str
    uncertainty : int
        By how many nanoseconds its times may differ from those of rank 0.
    steps, events, transfers : list
        Ascending; events do not overlap, nor do steps.
    """

    rank: int
    host: str
    uncertainty: int = 0
    steps: list[Step] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    transfers: list[Transfer] = field(default_factory=list)


@dataclass
class Trace:
    """What all ranks did, by one clock.

    Attributes
    ----------
    about : str
        What was trained, for a title.
    ranks : list of RankTrace
    """

    about: str
    ranks: list[RankTrace]


def lanes(transfers: Sequence[Transfer]) -> list[int]:
    """Return a lane for each transfer, from 0, such that those of a lane do not overlap."""
    ends: list[int] = []  # of the last one in each lane
    result = [0] * len(transfers)
    for i in sorted(range(len(transfers)), key=lambda i: transfers[i].started):
        free = [lane for lane, end in enumerate(ends) if end <= transfers[i].started]
        if not free:
            free = [len(ends)]
            ends.append(0)
        result[i] = free[0]
        ends[free[0]] = transfers[i].finished
    return result


def write(trace: Trace, path: Path) -> None:
    """Write a trace atomically.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    zero = min((step.begin for rank in trace.ranks for step in rank.steps), default=0)
    lines = [line for rank in trace.ranks for line in _lines(rank, zero)]
    content = {
        "otherData": {
            "format": FORMAT,
            "about": trace.about,
            "ranks": [
                {"rank": rank.rank, "host": rank.host, "clock_uncertainty_ns": rank.uncertainty}
                for rank in trace.ranks
            ],
        },
        "displayTimeUnit": "ns",
        "traceEvents": lines,
    }
    write_atomically(path, json.dumps(content, separators=(",", ":")).encode())


def _lines(rank: RankTrace, zero: int) -> list[dict[str, Any]]:
    """Return the events of a rank as they stand in the file."""
    process = rank.rank + 1  # 0 is the system's
    made: list[dict[str, Any]] = []

    def name(what: str, thread: int, **arguments: Any) -> None:
        made.append({"ph": "M", "name": what, "pid": process, "tid": thread, "args": arguments})

    def event(
        lane: int, kind: str, title: str, begin: int, end: int, arguments: dict[str, Any]
    ) -> None:
        place = {"pid": process, "tid": process * LANES + lane}
        when = {"ts": (begin - zero) / 1e3, "dur": (end - begin) / 1e3}
        made.append({"ph": "X", "cat": kind, "name": title, **place, **when, "args": arguments})

    where = lanes(rank.transfers)
    count = 1 + max(where, default=0)
    titles = ["steps", "compute", TRANSFER, *(f"{TRANSFER} {i}" for i in range(2, count + 1))]
    name("process_name", process * LANES, name=f"rank {rank.rank} on {rank.host}")
    name("process_sort_index", process * LANES, sort_index=rank.rank)
    for lane, title in enumerate(titles):
        name("thread_name", process * LANES + lane, name=title)
        name("thread_sort_index", process * LANES + lane, sort_index=lane)
    for step in rank.steps:
        about = {"number": step.number, "images": step.images}
        event(0, STEP, f"step {step.number}", step.begin, step.end, about)
    for kind, what, begin, end, about in rank.events:
        event(COMPUTE, kind, _title(kind, what), begin, end, {"of": what, **about})
    for lane, sent in zip(where, rank.transfers, strict=True):
        queued = (sent.started - sent.submitted) / 1e3
        numbers = {"bytes": sent.nbytes, "bytes_sent": sent.sent, "queued_us": queued}
        event(COMPUTE + 1 + lane, TRANSFER, sent.name, sent.started, sent.finished, numbers)
    return made


def _title(kind: str, what: str) -> str:
    """Return what an event is called on the screen."""
    if kind == FORWARD:
        return what
    if kind == BACKWARD:
        return f"{what} backward"
    if kind == WAIT:
        return f"wait for {what}"
    if kind == PROGRESS:
        return "move communication along"
    return f"{kind} {what}".strip()


def read(path: Path) -> Trace:
    """Read what `write` has written.

    Raises
    ------
    TraceError
        The file is damaged, or something else.
    OSError
        It cannot be read.
    """
    try:
        content = json.loads(path.read_bytes())
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise TraceError(f"{path}: damaged or no JSON ({error})") from None
    about = content.get("otherData") if isinstance(content, dict) else None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise TraceError(f"{path}: not written by this version's lowerconv train --timeline")
    try:
        trace = _trace(content, about)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise TraceError(f"{path}: damaged ({type(error).__name__}: {error})") from None
    return trace


def _trace(content: dict[str, Any], about: dict[str, Any]) -> Trace:
    """Return a trace whose parts are of the kinds that all readers rely on."""
    ranks = {
        int(rank["rank"]) + 1: RankTrace(
            int(rank["rank"]), str(rank["host"]), int(rank["clock_uncertainty_ns"])
        )
        for rank in about["ranks"]
    }
    for line in content["traceEvents"]:
        if line["ph"] != "X":
            continue
        rank, kind, more = ranks[line["pid"]], line["cat"], line["args"]
        begin = round(line["ts"] * 1e3)
        end = begin + round(line["dur"] * 1e3)
        if end < begin:
            raise ValueError(f"dur: got {line['dur']}, expected no negative time")
        if kind == STEP:
            rank.steps.append(Step(int(more["number"]), int(more["images"]), begin, end))
        elif kind == TRANSFER:
            queued = round(more["queued_us"] * 1e3)
            sent = None if more["bytes_sent"] is None else int(more["bytes_sent"])
            rank.transfers.append(
                Transfer(line["name"], int(more["bytes"]), sent, begin - queued, begin, end)
            )
        elif kind in KINDS:
            rest = {key: value for key, value in more.items() if key != "of"}
            rank.events.append(Event(kind, str(more["of"]), begin, end, rest))
        else:
            raise ValueError(f"cat: got {kind!r}, expected one of {', '.join(KINDS)}")
    trace = Trace(str(about["about"]), list(ranks.values()))
    for rank in trace.ranks:
        if not any(step.end > step.begin for step in rank.steps):
            raise ValueError(f"rank {rank.rank}: got no step, expected one at least")
    if not trace.ranks:
        raise ValueError("ranks: got none, expected one at least")
    return trace
