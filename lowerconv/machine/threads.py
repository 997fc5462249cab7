"""How many threads the kernels use, and the one door through which parallel kernels are entered.

Python handles signals between any two calls, and Ctrl-C raises an error there.  So whatever has to
be undone is undone by a single call of a function in C: the ``__exit__`` of a lock, or its
``release`` in the frame that has acquired it.  A function in Python could be interrupted before it
has done anything.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from typing import Any

from lowerconv.checks import integer
from lowerconv.machine.affinity import bind
from lowerconv.machine.team import MOST, PATIENCE, Handle, end, team
from lowerconv.machine.topology import usable_threads

LONGEST = 60.0  # seconds that a thread that forks waits for a convolution

_num_threads: int | None = None


class _Door:
    """A lock that threads get in the order in which they come.

    Python's own goes to whoever is quickest, which is the thread that has just released it: one
    that convolves in a loop kept another one waiting for minutes.
    """

    def __init__(self) -> None:
        # Both know their owner, whenever that is interrupted.
        self._queue: Any = threading.RLock()  # held by the one that is next
        self.inside: Any = threading.RLock()

    def enter(self, timeout: float = -1) -> bool:
        """Return whether this thread is inside now; where it is interrupted, it may be."""
        if self.mine():
            return self.inside.acquire()
        if timeout < 0:
            with self._queue:
                return self.inside.acquire()
        try:
            return self._queue.acquire(timeout=timeout) and self.inside.acquire(timeout=timeout)
        finally:
            try:  # noqa: SIM105 - a context of Python's could be interrupted
                self._queue.release()
            except RuntimeError:  # the time was over
                pass

    def mine(self) -> bool:
        """Return whether it is this thread that is inside."""
        return self.inside._is_owned()

    def renew(self) -> None:
        """Let everybody out: who was inside is not in this process."""
        self._queue._at_fork_reinit()
        self.inside._at_fork_reinit()


_door = _Door()
_ended = False


def _before_fork() -> None:
    """Wait for the convolution that runs: OpenBLAS ends its threads now, and hangs if they work."""
    _door.enter(LONGEST)


def _end() -> None:
    """End the team when Python ends, before it unloads the code that threads run.

    Not under the feet of a daemon thread of the program that is inside; and none gets in any more,
    because this thread stays inside, where it may still convolve at exit.
    """
    global _ended
    if _door.enter(PATIENCE):
        _ended = True
        end()


if hasattr(os, "register_at_fork"):
    # A forked child has nobody inside: behind its parent's door may be a thread that it lacks.
    os.register_at_fork(
        before=_before_fork, after_in_parent=_door.inside.release, after_in_child=_door.renew
    )
atexit.register(_end)


def get_num_threads() -> int:
    """Return the number of threads that kernels run on.

    Until :func:`set_num_threads` is called it is the number of cores this process may use, the
    affinity mask and the CPU quota counted.
    """
    global _num_threads
    if _num_threads is None:
        _num_threads = min(usable_threads(), MOST)
    return _num_threads


def set_num_threads(n: int) -> None:
    """Set the number of threads that kernels run on.

    Parameters
    ----------
    n : int
        From 1 to 1024.

    Raises
    ------
    TypeError, ValueError
        `n` is no integer, or out of that range.
    """
    global _num_threads
    n = integer(n, "n", 1)
    if n > MOST:
        raise ValueError(f"n: got {n} threads, expected at most {MOST}")
    _num_threads = n


class parallel_region:
    """Enter compiled parallel code, to run on `threads` threads, in `pairs` if so.

    One Python thread at a time: there is one team, and whoever is inside owns it and the shared
    workspace.
    """

    def __init__(self, threads: int, pairs: bool = False) -> None:
        self.threads = threads
        self.pairs = pairs
        self._door = _door

    def __enter__(self) -> Handle:
        if self._door.mine() and not _ended:  # in a signal's handler, or a finalizer
            raise RuntimeError("a thread that is inside a convolution cannot begin another one")
        try:
            self._door.enter()
            crew = team()
            handle = crew.handle(self.threads)
            bind(crew, self.threads, self.pairs)
            return handle
        except BaseException:
            try:  # noqa: SIM105 - as in `_Door.enter`
                self._door.inside.release()
            except RuntimeError:  # it did not get in
                pass
            raise

    @property
    def __exit__(self) -> Callable[..., None]:
        return self._door.inside.__exit__
