"""Messages of one collective: where they go, what tells them apart, and the memory they need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lowerconv.copying import not_copied

# Longer arrays travel in pieces: counts of most MPI libraries are 32 bits wide.
LONGEST = 1 << 30
Requests = list[Any]


_abandoned: list[Any] = []


def abandon(*under_way: Any) -> None:
    """Keep what nobody waits for any more: MPI may still write into its memory."""
    _abandoned.extend(under_way)


class MessageMemory:
    """Memory that collectives use in turns: fresh pages at each call would cost more than sums."""

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []

    def take(self, nbytes: int) -> np.ndarray:
        """Return an array of at least `nbytes` bytes."""
        fits = [piece for piece in self._free if piece.nbytes >= nbytes]
        if not fits:
            return np.empty(nbytes, np.uint8)
        piece = min(fits, key=lambda piece: piece.nbytes)
        self._free = [other for other in self._free if other is not piece]
        return piece

    def give_back(self, pieces: Sequence[np.ndarray]) -> None:
        """Let others use memory again."""
        self._free += pieces


@dataclass
class SentBytes:
    """Bytes that this rank has sent for a collective; not known where the MPI library sends."""

    nbytes: int = 0
    known: bool = True


@not_copied("every collective is given its own")
class Link:
    """The ranks of a collective, and its messages among those of others.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm or None
        None for a process alone, which sends nothing.
    tag : int
        Of this collective alone, as long as it lasts.
    hosts : sequence of sequence of int, optional
        The ranks of each host; by default each has a host of its own.
    scratch : MessageMemory, optional

    Attributes
    ----------
    rank, ranks : int
    hosts : list of list of int
    sent : SentBytes
    """

    def __init__(
        self,
        comm: Any,
        tag: int,
        hosts: Sequence[Sequence[int]] | None = None,
        scratch: MessageMemory | None = None,
    ) -> None:
        self.comm, self.tag = comm, tag
        self.rank = comm.Get_rank() if comm is not None else 0
        self.ranks = comm.Get_size() if comm is not None else 1
        self.hosts = [list(h) for h in hosts] if hosts else [[r] for r in range(self.ranks)]
        self._members = range(self.ranks)
        self._pool = scratch or MessageMemory()
        self._taken: list[np.ndarray] = []
        self.sent = SentBytes()

    def among(self, members: Sequence[int]) -> Link:
        """Return a link for some of the ranks, this one included, numbered as they come."""
        part = Link.__new__(Link)
        part.comm, part.tag, part.ranks = self.comm, self.tag, len(members)
        part.rank = list(members).index(self.rank)
        part._members = [self._members[m] for m in members]  # type: ignore[assignment]
        part.hosts = [[r] for r in range(part.ranks)]
        part._pool, part._taken, part.sent = self._pool, self._taken, self.sent
        return part

    def tagged(self, tag: int) -> Link:
        """Return a link for the same ranks and messages of another kind."""
        other = self.among(range(self.ranks))
        other.tag = tag
        return other

    def send(self, array: np.ndarray, to: int) -> Requests:
        """Begin to send a contiguous array; return what has to be waited for."""
        self.sent.nbytes += array.nbytes
        return [self.comm.Isend(p, self._members[to], self.tag) for p in _pieces(array)]

    def receive(self, array: np.ndarray, source: int) -> Requests:
        """Begin to receive into a contiguous array; return what has to be waited for."""
        return [self.comm.Irecv(p, self._members[source], self.tag) for p in _pieces(array)]

    def scratch(self, size: int, dtype: Any) -> np.ndarray:
        """Return an uninitialised array (size,) that is the caller's until the collective ends."""
        kind = np.dtype(dtype)
        memory = self._pool.take(size * kind.itemsize)
        self._taken.append(memory)
        return memory[: size * kind.itemsize].view(kind)

    def close(self) -> None:
        """Let others have the memory."""
        self._pool.give_back(self._taken)
        self._taken.clear()


def _pieces(array: np.ndarray) -> list[np.ndarray]:
    """Return the bytes of an array in pieces that one message can hold; of nothing, none."""
    if not array.flags.c_contiguous:
        raise ValueError("array: not contiguous, expected memory that one message can take")
    flat = array.reshape(-1).view(np.uint8)
    return [flat[begin : begin + LONGEST] for begin in range(0, flat.size, LONGEST)]
