"""The clocks of all ranks, aligned with that of rank 0.

A rank asks rank 0 for the time and looks at its own clock before and after.  The answer was given
somewhere in between: so the clock of rank 0 is ahead by the answer less the middle of the two, to
within half of the round trip (F. Cristian, "Probabilistic clock synchronization", Distributed
Computing 3, 1989; NTP filters its samples in the same way, RFC 5905, section 10).  Of many
exchanges the quickest tells most.  Clocks drift apart, by up to 0.1 ms in a second: `Alignment`
goes in a straight line from one measurement to another.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

ROUNDS = 32  # exchanges with each rank: most are disturbed on a busy host, few have to be quick
TIMEOUT = 60.0  # seconds without an answer
SPIN = 2e-3  # seconds of looking without a break: a pause would be a part of the round trip
PAUSE = 2e-4  # seconds between two looks, later on
ASK, ANSWER = 29001, 29002  # tags


class ClockError(RuntimeError):
    """A rank did not answer; the message names it."""


class Reading(NamedTuple):
    """What a rank has found out about its clock at one time.

    Attributes
    ----------
    at : int
        When, by its own clock, in nanoseconds.
    offset : int
        Nanoseconds to add to its own clock for that of rank 0.
    uncertainty : int
        By how much `offset` may be wrong, in either direction.
    """

    at: int
    offset: int
    uncertainty: int


class Alignment(NamedTuple):
    """A clock that was compared with rank 0's before and after what it has timed."""

    first: Reading
    last: Reading

    def __call__(self, at: int) -> int:
        """Return the time of rank 0 for a time of this rank."""
        span = self.last.at - self.first.at
        drift = self.last.offset - self.first.offset
        # Integers: a float64 does not hold the nanoseconds of a host that is up for months.
        return at + self.first.offset + (drift * (at - self.first.at) // span if span > 0 else 0)

    @property
    def uncertainty(self) -> int:
        """By how much a time may be wrong, in nanoseconds."""
        return max(self.first.uncertainty, self.last.uncertainty)


def compare_clocks(
    comm: Any,
    rounds: int = ROUNDS,
    timeout: float = TIMEOUT,
    clock: Callable[[], int] = time.monotonic_ns,
) -> Reading:
    """Compare the clock of each rank with that of rank 0; all ranks call this together.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm or None
        On which nothing else uses the tags 29001 and 29002; None for a process alone.
    rounds : int
        Exchanges with each rank.
    timeout : float
        Seconds that a rank is waited for.
    clock : callable
        Nanoseconds.

    Returns
    -------
    Reading
        Of this rank.

    Raises
    ------
    ClockError
        A rank did not answer within `timeout`.
    ValueError
        `rounds` is below 1.
    """
    if rounds < 1:
        raise ValueError(f"rounds: got {rounds}, expected 1 or more")
    if comm is None or comm.Get_rank() == 0:
        for rank in range(1, comm.Get_size() if comm is not None else 1):
            _answer(comm, rank, rounds, timeout, clock)
        return Reading(clock(), 0, 0)
    # Rank 0 comes to us when it is done with those before: the longer for each of them.
    return _ask(comm, rounds, timeout * comm.Get_rank(), clock)


def _answer(comm: Any, rank: int, rounds: int, timeout: float, clock: Callable[[], int]) -> None:
    """Tell a rank the time, as often as it asks."""
    question, now = np.empty(1, np.int64), np.empty(1, np.int64)
    for _ in range(rounds):
        _finish(comm.Irecv(question, rank, ASK), rank, timeout)
        now[0] = clock()
        _finish(comm.Isend(now, rank, ANSWER), rank, timeout)


def _ask(comm: Any, rounds: int, timeout: float, clock: Callable[[], int]) -> Reading:
    """Ask rank 0 for the time, and return what the quickest answer tells."""
    question, answer = np.zeros(1, np.int64), np.empty(1, np.int64)
    best: Reading | None = None
    for _ in range(rounds):
        expected = comm.Irecv(answer, 0, ANSWER)
        begin = clock()
        _finish(comm.Isend(question, 0, ASK), 0, timeout)
        _finish(expected, 0, timeout)
        end = clock()
        found = Reading(end, int(answer[0]) - (begin + end) // 2, (end - begin + 1) // 2)
        if best is None or found.uncertainty < best.uncertainty:
            best = found
    assert best is not None  # there is a round at least
    return best


def _finish(request: Any, rank: int, timeout: float) -> None:
    """Wait for a request, and raise ClockError where a rank keeps us waiting."""
    begin = time.monotonic()
    while not request.Test():
        waited = time.monotonic() - begin
        if waited > timeout:
            request.Cancel()
            raise ClockError(
                f"rank {rank} has not answered for {waited:.0f} s while clocks were compared"
            )
        # A rank that shares our core cannot answer while we look.
        time.sleep(0 if waited < SPIN else PAUSE)
