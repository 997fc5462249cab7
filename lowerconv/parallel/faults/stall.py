"""Who is waited for, when waiting takes long.

A rank that has waited for long asks all others what they do. A thread of each answers, whatever the
main thread is at: so a rank that does not answer is stopped, starved of memory or cut off, and one
that does says which layer it computes or whom it waits for itself.
"""

from __future__ import annotations

import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lowerconv.copying import not_copied
from lowerconv.parallel.comm.status import Status
from lowerconv.runtime import native

NOTICE = 60.0  # seconds of waiting after which it is said who is waited for
ANSWER = 3.0  # seconds that an answer may take
GRACE = 2.0  # seconds by which all but the first of those who wait leave the last word to it
COMPILING = 300.0  # seconds that compilation may take without being a stall
LOOK = 0.05  # seconds between two looks for questions
# kind, number of the question; step, whether it waits, whether it compiles, for how many seconds it
# has waited or been busy, seconds since it went on; what it does
MESSAGE = struct.Struct("=BqqBBdd200s")
QUESTION, REPLY = 1, 2
TAG = 0


class StallError(RuntimeError):
    """Waiting any longer is in vain; the message names the ranks that do not go on."""


@dataclass(frozen=True)
class Answer:
    """What a rank says of itself.

    Attributes
    ----------
    step : int
    waits, compiles : bool
    seconds : float
        For which it has waited.
    idle : float
        Seconds since it went on to something else.
    doing : str
    """

    step: int
    waits: bool
    compiles: bool
    seconds: float
    idle: float
    doing: str

    @classmethod
    def of(cls, status: Status) -> Answer:
        """Return that of this rank."""
        now = time.monotonic()
        waiting = status.waiting
        seconds = now - status.waiting_since if waiting is not None else 0.0
        return cls(
            status.step,
            waiting is not None,
            status.compiling,
            seconds,
            now - status.moved,
            waiting if waiting is not None else status.doing,
        )

    def pack(self, number: int) -> bytes:
        """Return the message."""
        facts = (self.step, self.waits, self.compiles, self.seconds, self.idle)
        return MESSAGE.pack(
            REPLY, number, *facts, self.doing.encode(errors="backslashreplace")[:200]
        )

    @classmethod
    def unpack(cls, message: bytes) -> Answer:
        """Return what a message says."""
        _, _, step, waits, compiles, seconds, idle, text = MESSAGE.unpack(message)
        doing = text.rstrip(b"\0").decode(errors="replace")
        return cls(step, bool(waits), bool(compiles), seconds, idle, doing)

    def stalls(self, limit: float) -> bool:
        """Return whether the rank has been busy with one thing for too long."""
        return not self.waits and self.idle > (max(COMPILING, limit) if self.compiles else limit)

    def __str__(self) -> str:
        if self.waits:
            return f"step {self.step}, waiting for {self.doing} since {self.seconds:.0f} s"
        doing = f"compiling, or {self.doing}" if self.compiles else self.doing
        return f"step {self.step}, {doing}, since {self.idle:.0f} s"


@not_copied("every process has its own")
class StallWatch:
    """A `Patience` that asks all ranks what they do before it raises an error.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        Its own; an MPI that several threads may call.
    status : Status
        Of this rank.
    places : sequence of str
        Names of the hosts, by rank.

    Attributes
    ----------
    timeout : float or None
        Seconds of waiting after which an error names the ranks that do not answer, or have been
        busy with a single thing for as long; with None these are only reported.
    refusal : Exception or None
        Why the system has not started the thread that answers.
    """

    def __init__(self, comm: Any, status: Status, places: Sequence[str]) -> None:
        self.timeout: float | None = None
        self.status = status
        self._comm, self._places = comm, places
        self._rank, self._ranks = comm.Get_rank(), comm.Get_size()
        self._sent: list[tuple[Any, np.ndarray]] = []
        self._sending = native.allocate_lock()
        self._number = 0
        self._answers: dict[int, Answer] = {}
        self._last: dict[int, Answer] = {}
        self._asked: float | None = None
        self._next: float | None = None  # seconds of waiting after which to ask
        self._ended = False
        self.refusal: Exception | None = None
        self._thread = native.make(self._serve, "lowerconv-stall")
        try:
            native.start(self._thread)
        except (RuntimeError, MemoryError) as error:
            self.refusal = error

    def check(self, what: str, seconds: float) -> None:
        """Ask all ranks what they do, from time to time.

        Raises
        ------
        StallError
            A rank does not go on.
        """
        status, now = self.status, time.monotonic()
        if status.waiting is None:
            status.waiting_since = now - seconds
            status.waiting = what
        if self._asked is None:
            if seconds < (self._limit if self._next is None else self._next):
                return
            self._ask()
            self._asked = now
        late = now - self._asked
        if len(self._answers) < self._ranks - 1 and late < ANSWER:
            return
        problem = self._judge(what, seconds)
        first = not any(a.waits and a.seconds > self._limit for a in self._lower())
        if problem and self.timeout is not None:
            if first or late > ANSWER + GRACE:
                raise StallError(problem)
            return
        if first and (problem or self.timeout is None):
            text = problem or f"has waited {seconds:.0f} s for {what}; {self._describe()}"
            line = f"lowerconv: rank {self._rank}: {text}\n"
            print(line, end="", file=sys.stderr, flush=True)  # in one piece
        self._asked, self._next = None, seconds + (seconds if self.timeout is None else 1.0)

    def ended(self) -> None:
        """Note that a wait is over."""
        self.status.waiting = None
        self.status.moved = time.monotonic()
        self._asked = self._next = None

    @property
    def _limit(self) -> float:
        return NOTICE if self.timeout is None else self.timeout

    def _lower(self) -> list[Answer]:
        return [answer for rank, answer in self._answers.items() if rank < self._rank]

    def _name(self, rank: int) -> str:
        return f"rank {rank} on host {self._places[rank]}"

    def _describe(self) -> str:
        answers = sorted(self._answers.items())
        return "; ".join(f"{self._name(rank)}: {answer}" for rank, answer in answers)

    def _judge(self, what: str, seconds: float) -> str:
        """Return why waiting is in vain; empty if it is not."""
        others = [rank for rank in range(self._ranks) if rank != self._rank]
        silent = [rank for rank in others if rank not in self._answers]
        wait = f"waited {seconds:.0f} s for {what} at step {self.status.step}"
        if silent:
            lines = []
            for rank in silent:
                heard = self._last.get(rank)
                last = f"; last heard of at step {heard.step}" if heard else ""
                lines.append(
                    f"{self._name(rank)} does not answer (stopped, swapping, or its network is "
                    f"gone){last}"
                )
            return f"{'; '.join(lines)}; {wait}"
        limit = self._limit
        busy = {rank: a for rank, a in sorted(self._answers.items()) if a.stalls(limit)}
        if busy:
            names = "; ".join(f"{self._name(rank)} does not go on: {a}" for rank, a in busy.items())
            return f"{names}; {wait}"
        if all(answer.waits and answer.seconds > limit for answer in self._answers.values()):
            return f"all ranks wait for each other; {self._describe()}; {wait}"
        return ""

    def _ask(self) -> None:
        self._number += 1
        self._answers = {}
        facts = (0, 0, 0, 0.0, 0.0, b"")
        message = MESSAGE.pack(QUESTION, self._number, *facts)
        for rank in range(self._ranks):
            if rank != self._rank:
                self._send(message, rank)

    def _send(self, message: bytes, to: int) -> None:
        with self._sending:
            self._sent = [(request, kept) for request, kept in self._sent if not request.Test()]
            memory = np.frombuffer(message, np.uint8).copy()
            self._sent.append((self._comm.Isend(memory, to, TAG), memory))

    def _serve(self) -> None:
        from mpi4py import MPI

        memory, envelope = np.empty(MESSAGE.size, np.uint8), MPI.Status()
        while not self._ended:
            try:
                while not self._ended and self._comm.Iprobe(MPI.ANY_SOURCE, TAG, envelope):
                    source = envelope.Get_source()
                    self._comm.Recv(memory, source, TAG)
                    self._read(memory.tobytes(), source)
            except MPI.Exception:  # of a rank that has died: whoever waits for it is told
                pass
            native.sleep(LOOK)

    def _read(self, message: bytes, source: int) -> None:
        kind, number = MESSAGE.unpack(message)[:2]
        if kind == QUESTION:
            self._send(Answer.of(self.status).pack(number), source)
        else:
            self._last[source] = Answer.unpack(message)
            if number == self._number:
                self._answers[source] = self._last[source]

    def close(self) -> None:
        """End the thread."""
        self._ended = True
        if self.refusal is None:
            self._thread.join(1.0)
