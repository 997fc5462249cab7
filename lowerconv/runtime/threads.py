"""How many threads the kernels use, and the one lock under which parallel kernels are entered.

Python handles signals between any two calls, and Ctrl-C raises an error there.  So whatever has to
be undone is undone by a single call of a function in C: the ``__exit__`` of a lock, or its
``release`` in the frame that has acquired it.  A function in Python could be interrupted before it
has done anything.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from lowerconv.checks import integer
from lowerconv.copying import not_copied
from lowerconv.machine.topology import usable_threads
from lowerconv.machine.variables import THREADS_MAX, requested
from lowerconv.runtime.affinity import bind
from lowerconv.runtime.native import RLock, warn_refused
from lowerconv.runtime.team import PATIENCE, TeamHandle, end, max_threads, set_max_threads, team

LONGEST = 60.0  # seconds that a thread that forks waits for a convolution

CORES, CALLED = "the cores of this process", "lowerconv.set_num_threads"  # what has decided

_num_threads: int | None = None


class _FairLock:
    """A lock that threads get in the order in which they come.

    Python's own goes to whoever is quickest, which is the thread that has just released it: one
    that convolves in a loop kept another one waiting for minutes.
    """

    def __init__(self) -> None:
        # Both know their owner, whenever that is interrupted.
        self._queue: Any = RLock()  # held by the one that is next
        self.inside: Any = RLock()

    def enter(self, timeout: float = -1) -> bool:
        """Wait to be inside, return whether this thread is; after an interrupt it may be."""
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


_lock = _FairLock()
_forks = 0  # that this process comes from
_ended = False


def _before_fork() -> None:
    """Wait for the convolution that runs: OpenBLAS ends its threads now, and hangs if they work."""
    _lock.enter(LONGEST)


def _renew() -> None:
    """Make a new lock in a forked child: a thread that it lacks may hold that of its parent."""
    global _forks
    _lock.renew()
    _forks += 1


def _end() -> None:
    """End the team when Python ends, before it unloads the code that threads run.

    It waits for a daemon thread of the program that is inside.  No other gets in after that, since
    this thread stays inside; it may still convolve at exit.
    """
    global _ended
    if _lock.enter(PATIENCE):
        _ended = True
        end()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_lock.inside.release, after_in_child=_renew
    )
atexit.register(_end)


def get_num_threads() -> int:
    """Return the number of threads that kernels run on.

    It is that of :func:`set_num_threads`; until that is called, what the environment variable
    ``LOWERCONV_NUM_THREADS`` says, else ``OMP_NUM_THREADS``, else the number of cores this process
    may use, within its affinity mask and its CPU quota.  The variables are read when the number is
    first needed, and no others are: kernels run neither on numba's threads nor on those of BLAS,
    and limits set through `threadpoolctl` do not change the number.  It is smaller where the system
    refuses to start so many.

    Returns
    -------
    int
        From 1 to 1024.

    Raises
    ------
    ValueError
        ``LOWERCONV_NUM_THREADS`` is no number from 1 to 1024.
    """
    chosen = _num_threads
    return min(_default_threads()[0] if chosen is None else chosen, max_threads())


def threads_source() -> str:
    """Return what has decided on :func:`get_num_threads`, in words."""
    return _default_threads()[1] if _num_threads is None else CALLED


@lru_cache
def _default_threads() -> tuple[int, str]:
    """Return how many threads there are until somebody sets the number, and why.

    Apart from what is set: who asks first must not undo what another thread sets meanwhile.
    """
    return requested() or (min(usable_threads(), THREADS_MAX), CORES)


def set_num_threads(n: int) -> None:
    """Set the number of threads that kernels run on, whatever the environment says.

    Where the system has refused to start so many, it is asked again.

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
    if n > THREADS_MAX:
        raise ValueError(f"n: got {n} threads, expected at most {THREADS_MAX}")
    _num_threads = n
    set_max_threads(THREADS_MAX)


def _accept(threads: int, wanted: int, refusal: Exception) -> None:
    """Go on with fewer threads than wanted, as the system starts no more."""
    set_max_threads(threads)
    if not _ended:  # then nobody can do anything about it
        warn_refused(
            refusal,
            f"kernels run on {threads} of {wanted} threads, with the same results; "
            "lowerconv.set_num_threads tries again",
        )


class _Holding:
    """Be the one thread that holds a lock; released as `parallel_region` is."""

    def __init__(self, lock: _FairLock, what: str) -> None:
        self._lock, self._what = lock, what

    def __enter__(self) -> None:
        if _lock.mine() and not _ended:  # another thread that holds this lock may wait for that one
            raise RuntimeError("a thread that is inside a convolution cannot begin another one")
        if self._lock.mine() and self._lock is not _lock:
            raise RuntimeError(f"a thread that is inside {self._what} cannot enter it once more")
        try:
            # A thread that Python has ended may be inside: who is left waits only so long for it.
            if not self._lock.enter(PATIENCE if _ended else -1):
                raise RuntimeError(f"a thread that has ended is inside {self._what}")
        except BaseException:
            try:  # noqa: SIM105 - as in `_FairLock.enter`
                self._lock.inside.release()
            except RuntimeError:  # it did not get in
                pass
            raise

    @property
    def __exit__(self) -> Callable[..., None]:
        return self._lock.inside.__exit__


@not_copied("make another from its arguments")
class FairMutex:
    """A mutex that Python threads get in the order in which they come.

    ``with mutex.hold():`` outside of any convolution; a thread that is inside already gets a
    RuntimeError.  A forked child finds nobody inside.

    Parameters
    ----------
    what : str
        What it is, for errors, such as "a network".
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._locks: dict[int, _FairLock] = {}  # by the forks: an older one is the parent's

    def hold(self) -> _Holding:
        """Return a context in which this thread holds the mutex."""
        lock = self._locks.get(_forks) or self._locks.setdefault(_forks, _FairLock())
        return _Holding(lock, self._what)


def between_kernels() -> _Holding:
    """Return a context in which no kernel runs.

    To kernels, all that is read or written in it happens at once.
    """
    return _Holding(_lock, "a convolution")


@not_copied("make another from its arguments")
class parallel_region:
    """Enter compiled parallel code, to run on `threads` threads, in `pairs` if so.

    One Python thread at a time: there is one team, and whoever is inside owns it and the shared
    workspace.  The handle that it gives may be of fewer threads, where the system has no more.
    """

    def __init__(self, threads: int, pairs: bool = False) -> None:
        self.threads = threads
        self.pairs = pairs
        self._lock = _lock

    def __enter__(self) -> TeamHandle:
        if self._lock.mine() and not _ended:  # in a signal's handler, or a finalizer
            raise RuntimeError("a thread that is inside a convolution cannot begin another one")
        try:
            self._lock.enter()
            everybody = team()
            handle = everybody.handle(min(self.threads, max_threads()))
            bind(everybody, handle.threads, self.pairs)
            refusal, everybody.refusal = everybody.refusal, None
            if refusal is not None:
                _accept(handle.threads, self.threads, refusal)
            return handle
        except BaseException:
            try:  # noqa: SIM105 - as in `_FairLock.enter`
                self._lock.inside.release()
            except RuntimeError:  # it did not get in
                pass
            raise

    @property
    def __exit__(self) -> Callable[..., None]:
        return self._lock.inside.__exit__


def run(kernel: Callable[..., object], *arguments: Any, **options: Any) -> None:
    """Call ``kernel(team, *arguments)`` on :func:`get_num_threads` threads."""
    with parallel_region(get_num_threads()) as team:
        kernel(team, *arguments, **options)
