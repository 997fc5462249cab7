"""The messages of a collective, recorded from the generator that the engine runs.

A generator never looks at numbers, so each rank's can be run alone, with a link that notes what it
sends and receives and arrays that have a size but no memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lowerconv.parallel.comm.collectives import Routine
from lowerconv.parallel.comm.link import Link, Requests
from lowerconv.predict.network.schedule import Schedule

Collective = Callable[[Link, Any], Routine]


class _Log:
    """What one rank does: the bytes that it adds up before each stage, and its messages."""

    def __init__(self) -> None:
        self.added = array("d", [0.0])
        self.sent: tuple[array, ...] = (array("i"), array("i"), array("d"))  # to, stage, bytes
        self.received: tuple[array, ...] = (array("i"), array("i"), array("d"))  # from, ...

    @property
    def stage(self) -> int:
        return len(self.added) - 1

    def note(self, messages: tuple[array, ...], other: int, nbytes: int) -> None:
        if nbytes:
            for values, value in zip(messages, (other, self.stage, nbytes), strict=True):
                values.append(value)


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
        return SizedArray(len(range(*part.indices(self.size))), self.dtype, self._log)

    def __setitem__(self, part: slice, value: object) -> None:
        """Take a copy, whose time counts for nothing beside sums and messages."""

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: tuple[SizedArray, ...] = ()
    ) -> SizedArray:
        if ufunc is not np.add or method != "__call__" or len(out) != 1:
            return NotImplemented
        sizes = {operand.size for operand in (*inputs, *out)}
        if len(sizes) != 1:
            raise ValueError(f"arrays: got sizes {sorted(sizes)}, expected one size")
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
        self._log.note(self._log.sent, self._members[to], array.nbytes)
        return [None] if array.nbytes else []

    def receive(self, array: Any, source: int) -> Requests:
        """Note that a message is waited for."""
        self._log.note(self._log.received, self._members[source], array.nbytes)
        return [None] if array.nbytes else []

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
    logs = []
    for rank in range(ranks):
        log = _Log()
        link = RecordingLink(rank, ranks, each, log)
        for requests in collective(link, SizedArray(size, np.dtype(dtype), log)):
            if requests:  # what waits for nothing goes on at once
                log.added.append(0.0)
        logs.append(log)
    return _schedule(logs)


def _schedule(logs: list[_Log]) -> Schedule:
    """Return what all ranks have noted as one schedule."""
    stages = np.array([len(log.added) for log in logs])
    first = np.cumsum(stages) - stages

    def all_of(which: str) -> tuple[np.ndarray, ...]:
        """Return the ranks that have noted messages, the others, stages and bytes."""
        messages = [getattr(log, which) for log in logs]
        mine = np.repeat(np.arange(len(logs)), [len(m[0]) for m in messages])
        other, stage, nbytes = (np.concatenate([m[i] for m in messages]) for i in range(3))
        return mine, other.astype(np.int64), first[mine] + stage.astype(np.int64), nbytes

    source, target, source_stage, nbytes = all_of("sent")
    receiver, sender, target_stage, expected = all_of("received")
    # Messages between two ranks arrive in the order in which they are sent.
    sent = np.lexsort((target, source))
    received = np.lexsort((receiver, sender))
    if not (
        np.array_equal(source[sent], sender[received])
        and np.array_equal(target[sent], receiver[received])
        and np.array_equal(nbytes[sent], expected[received])
    ):
        raise ValueError("collective: messages are sent that nobody waits for, or not as they are")
    matched = np.empty_like(target_stage)
    matched[sent] = target_stage[received]
    nothing = np.empty(0, np.int64)
    return Schedule(
        first=first,
        last=first + stages - 1,
        added=np.concatenate([log.added for log in logs]),
        source=source,
        target=target,
        source_stage=source_stage,
        target_stage=matched,
        nbytes=nbytes,
        messages=np.ones(source.size, np.int64),
        after=nothing,
        before=nothing,
    )
