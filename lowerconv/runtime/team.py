"""The threads that kernels run on: started once, asleep when there is nothing to do.

They are Python threads, so that debuggers and profilers name them, but they never come back from
generated code (`lowerconv.codegen.fork_join`) and never hold Python's lock.  Not numba's threads:
those are OpenMP's where there is OpenMP, one team for every Python thread that calls; they share
their settings with PyTorch's, and end the process when a forked child uses them.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from typing import Any, NamedTuple

from lowerconv.codegen import fork_join
from lowerconv.copying import not_copied
from lowerconv.machine.variables import THREADS_MAX
from lowerconv.runtime import native
from lowerconv.runtime.uninterrupted import start_uninterrupted

PATIENCE = 1.0  # seconds that the end of the process waits for threads

_I64 = ctypes.c_int64


@not_copied("enter `parallel_region` to get one")
class TeamHandle(NamedTuple):
    """A team as compiled code takes it: where to launch, on whom, and on how many threads."""

    launch: int
    state: int
    threads: int

    @property
    def captures(self) -> bool:
        """Whether `launch` is `codegen.fork_join`'s ``capture``."""
        return self.launch != fork_join.address("launch")


@not_copied("ask for `team()`")
class Team:
    """Threads 1, 2, ... beside the one that calls, which is thread 0.

    Attributes
    ----------
    words, state : ndarray, int
        What `codegen.fork_join` reads and writes, and its address.
    started : list of threading.Thread or native.Thread
        ``started[0]`` is thread 1.
    refusal : Exception or None
        Why the system has not started as many as it was asked for last.
    capturing : RLock
        Held by a thread whose launches are captured (`lowerconv.runtime.capture`).
    places : tuple of int or None
        CPUs that the first of them are bound to, thread 0 first (`lowerconv.runtime.affinity`);
        None where none is.
    """

    def __init__(self) -> None:
        self.words = fork_join.new_state(THREADS_MAX)
        self.state = self.words.ctypes.data
        self.launch_address = fork_join.address("launch")
        self._handles: dict[int, TeamHandle] = {}
        self._capture_address = fork_join.address("capture")
        self.capturing = native.RLock()
        self._launch = ctypes.CFUNCTYPE(None, *[_I64] * len(fork_join.LAUNCH_ARGUMENTS))(
            self.launch_address
        )
        self._serve = ctypes.CFUNCTYPE(None, _I64, _I64)(fork_join.address("serve"))
        self.started: list[threading.Thread | native.Thread] = []
        self.refusal: Exception | None = None
        self._joining = native.allocate_lock()
        self.places: tuple[int, ...] | None = None

    def handle(self, threads: int) -> TeamHandle:
        """Return the team with `threads` threads, the caller counted, or as many as there can be.

        Its `launch` is ``capture`` for the thread that holds `capturing`.
        """
        known = self._handles.get(threads) or self._start_all(threads)
        if self.capturing._is_owned():
            return known._replace(launch=self._capture_address)
        return known

    def _start_all(self, threads: int) -> TeamHandle:
        """Start threads until there are `threads`, or the system starts no more."""
        self.refusal = None
        try:
            while len(self.started) < threads - 1:
                self._start(len(self.started) + 1)
        except (RuntimeError, MemoryError) as error:
            self.refusal, threads = error, len(self.started) + 1
        handle = TeamHandle(self.launch_address, self.state, threads)
        return self._handles.setdefault(threads, handle)

    def _start(self, number: int) -> None:
        """Start one more thread; another one follows where that is interrupted."""
        ready = native.allocate_lock()  # and no event: an interrupt would leave that locked
        ready.acquire()
        thread = native.make(
            lambda: self._work(number, thread, ready),
            f"lowerconv-{number}",  # `stop` ends them, and Python does not wait for them before
        )
        start_uninterrupted(thread)  # for the same reason
        ready.acquire()

    def _work(self, number: int, thread: threading.Thread | native.Thread, ready: Any) -> None:
        with self._joining:
            joins = len(self.started) < number
            if joins:
                self.started.append(thread)
        ready.release()
        if joins:
            self._serve(self.state, number)  # and as long as that lasts, so does the state

    def stop(self) -> None:
        """End the threads."""
        self._launch(self.state, 0, 0, len(self.started) + 1, 0)
        end = time.monotonic() + PATIENCE
        for thread in self.started:
            thread.join(max(0.0, end - time.monotonic()))


_max_threads = THREADS_MAX
_team: Team | None = None
_alone: Team | None = None


def alone() -> TeamHandle:
    """Return a team without threads and with a state of its own: for the communication thread.

    One thread at a time may use it.
    """
    global _alone
    if _alone is None:
        _alone = Team()
    return _alone.handle(1)


def team() -> Team:
    """Return the team of this process."""
    global _team
    if _team is None:
        _team = Team()
    return _team


def max_threads() -> int:
    """Return how many threads there can be, as far as is known."""
    return _max_threads


def set_max_threads(threads: int) -> None:
    """Set how many threads there can be; with ``THREADS_MAX`` the system is asked again."""
    global _max_threads
    _max_threads = threads


def _forget() -> None:
    """Make a forked child start threads of its own: it does not have its parent's."""
    global _team
    _team = None
    set_max_threads(THREADS_MAX)


def end() -> None:
    """End the threads; whoever needs a team afterwards gets another."""
    global _team
    if _team is not None:
        ended, _team = _team, None  # first: nobody may be given one that is ending
        ended.stop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
