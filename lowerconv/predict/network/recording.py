"""The messages of a collective, recorded from the generator that the engine runs.

A generator never looks at numbers, so each rank's can be run alone, with a link that notes what it
sends and receives and arrays that have a size but no memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lowerconv.parallel.comm.collectives import Routine
from lowerconv.parallel.comm.link import Link, Requests
from lowerconv.predict.network.schedule import Schedule

Collective = Callable[[Link, Any], Routine]


class _Messages(NamedTuple):
    """Messages that are sent, or received: the stage of who does so, the other rank, and bytes."""

    stages: array
    others: array
    nbytes: array


class _Log:
    """What all ranks do, one after the other."""

    def __init__(self) -> None:
        self.first = array("q")  # stage of each rank
        self.added = array("d")  # bytes before each stage
        self.sent = _Messages(array("q"), array("q"), array("d"))
        self.received = _Messages(array("q"), array("q"), array("d"))

    def begin(self) -> None:
        """Begin with the next rank."""
        self.first.append(len(self.added))
        self.added.append(0.0)


class SizedArray:
    """A one-dimensional array without memory, as far as collectives use arrays.

    Parameters
    ----------
    size : int
        Items.
    dtype : dtype
    log : object
        Notes the bytes of sums.
    """

    __slots__ = ("_log", "dtype", "size")

    def __init__(self, size: int, dtype: np.dtype, log: _Log) -> None:
        self.size, self.dtype = size, dtype
        self._log = log

    @property
    def itemsize(self) -> int:
        """Bytes of an item."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all items."""
        return self.size * self.dtype.itemsize

    def reshape(self, shape: int) -> SizedArray:
        """Return the array, which is flat."""
        if shape != -1:
            raise ValueError(f"shape: got {shape}, expected -1")
        return self

    def __getitem__(self, part: slice) -> SizedArray:
        begin, end, step = part.indices(self.size)
        if step != 1:
            raise ValueError(f"part: got a step of {step}, expected 1")
        return SizedArray(max(end - begin, 0), self.dtype, self._log)

    def __setitem__(self, part: slice, value: object) -> None:
        """Take a copy, whose time counts for nothing beside sums and messages."""

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: tuple[SizedArray, ...] = ()
    ) -> SizedArray:
        if ufunc is not np.add or method != "__call__" or len(out) != 1:
            return NotImplemented
        one, other = inputs
        if not one.size == other.size == self.size:
            raise ValueError(f"arrays: got {one.size} and {other.size} items, expected as many")
        self._log.added[-1] += self.nbytes
        return out[0]


class RecordingLink(Link):
    """A link of one of many ranks, which notes its messages instead of sending them.

    Parameters
    ----------
    rank, ranks : int
    hosts : sequence of sequence of int
        The ranks of each host.
    log : object
        Notes the messages.
    """

    def __init__(self, rank: int, ranks: int, hosts: Sequence[Sequence[int]], log: _Log) -> None:
        super().__init__(None, 0)
        self.rank, self.ranks = rank, ranks
        self.hosts = hosts  # type: ignore[assignment]  # not changed, and shared by all ranks
        self._members = range(ranks)
        self._log = log

    def among(self, members: Sequence[int]) -> RecordingLink:
        """Return a link for some of the ranks, this one included, numbered as they come."""
        ranks = len(members)
        part = RecordingLink(
            list(members).index(self.rank), ranks, [[r] for r in range(ranks)], self._log
        )
        part._members = [self._members[m] for m in members]  # type: ignore[assignment]
        return part

    def send(self, array: Any, to: int) -> Requests:
        """Note a message; its request is no more than something to wait for."""
        return self._note(self._log.sent, to, array.nbytes)

    def receive(self, array: Any, source: int) -> Requests:
        """Note that a message is waited for."""
        return self._note(self._log.received, source, array.nbytes)

    def _note(self, messages: _Messages, other: int, nbytes: int) -> Requests:
        if nbytes == 0:
            return []
        messages.stages.append(len(self._log.added) - 1)
        messages.others.append(self._members[other])
        messages.nbytes.append(nbytes)
        return [None]

    def scratch(self, size: int, dtype: Any) -> Any:
        """Return an array without memory."""
        return SizedArray(size, np.dtype(dtype), self._log)


def record(
    collective: Collective,
    ranks: int,
    size: int,
    dtype: Any = np.float32,
    hosts: Sequence[Sequence[int]] | None = None,
) -> Schedule:
    """Return all messages of a collective.

    Parameters
    ----------
    collective : callable
        Takes a link and an array, and yields what it waits for.
    ranks : int
    size : int
        Items of the array of each rank.
    dtype : dtype
    hosts : sequence of sequence of int, optional
        The ranks of each host; by default each has a host of its own.

    Returns
    -------
    Schedule

    Raises
    ------
    ValueError
        Where messages that are sent are not those that are waited for.
    """
    each = hosts or [[r] for r in range(ranks)]
    log = _Log()
    for rank in range(ranks):
        log.begin()
        link = RecordingLink(rank, ranks, each, log)
        for requests in collective(link, SizedArray(size, np.dtype(dtype), log)):
            if requests:  # what waits for nothing goes on at once
                log.added.append(0.0)
    return _schedule(log)


def _schedule(log: _Log) -> Schedule:
    """Return what all ranks have noted as one schedule."""
    first, added = np.array(log.first), np.array(log.added)
    stages = np.diff(first, append=added.size)
    rank_of = np.repeat(np.arange(first.size), stages)
    source_stage, target, nbytes = map(np.array, log.sent)
    target_stage, sender, expected = map(np.array, log.received)
    source, receiver = rank_of[source_stage], rank_of[target_stage]
    # Messages between two ranks arrive in the order in which they are sent.
    sent = np.argsort(source * first.size + target, kind="stable")
    received = np.argsort(sender * first.size + receiver, kind="stable")
    if not (
        np.array_equal(source[sent], sender[received])
        and np.array_equal(target[sent], receiver[received])
        and np.array_equal(nbytes[sent], expected[received])
    ):
        raise ValueError("collective: messages are sent that nobody waits for, or not as they are")
    matched = np.empty_like(target_stage)
    matched[sent] = target_stage[received]
    return Schedule(
        first=first,
        last=first + stages - 1,
        added=added,
        source=source,
        target=target,
        source_stage=source_stage,
        target_stage=matched,
        nbytes=nbytes,
        messages=np.ones(source.size, np.int64),
    )
