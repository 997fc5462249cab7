"""Jobs that are done ahead of their use, on threads of the system."""

from __future__ import annotations

import atexit
import contextlib
import time
import weakref
from _queue import Empty, SimpleQueue  # not that of `queue`, which gevent replaces
from collections.abc import Callable
from concurrent.futures import CancelledError
from functools import partial
from typing import Any, Generic, TypeVar

from lowerconv.copying import not_copied
from lowerconv.runtime.native import allocate_lock, make, warn_refused
from lowerconv.runtime.uninterrupted import start_uninterrupted

T = TypeVar("T")

PATIENCE = 1.0  # seconds that the end of the process waits for jobs that are under way


@not_copied("make another from its arguments")
class Job(Generic[T]):
    """What is to be done, and what came of it."""

    def __init__(self, work: Callable[[], T], ahead: bool) -> None:
        self._work: Callable[[], T] | None = work
        self._ahead = ahead
        self._taken, self._over = allocate_lock(), allocate_lock()
        self._over.acquire()
        self._error: BaseException | None = None

    def do(self, failure: BaseException | None = None) -> None:
        """Do it, unless another thread does or has; or have it fail."""
        if not self._taken.acquire(blocking=False):
            return
        try:
            if failure is not None:
                raise failure
            assert self._work is not None
            self._result = self._work()
        except BaseException as error:
            self._error = error
        finally:
            self._work = None
            self._over.release()

    def cancel(self) -> None:
        """Have nobody begin it."""
        self.do(CancelledError())

    def done(self) -> bool:
        """Return whether nobody needs to wait for it."""
        return not self._over.locked()

    def result(self) -> T:
        """Return what came of it, when it is done; where no thread could be started, do it here.

        Raises
        ------
        BaseException
            The job's own; CancelledError where it has been cancelled.
        """
        if not self._ahead:
            self.do()
        with self._over:
            pass
        if self._error is None:
            return self._result
        try:
            raise self._error
        finally:
            del self  # the error knows this frame


@not_copied("make another from its arguments")
class Pool:
    """Threads that do jobs in the order in which they are submitted.

    They start with the jobs, and end with this object, which has to be closed or forgotten.

    Parameters
    ----------
    count : int
        Of threads at most, from 1.
    name : str
        Of the threads, which are numbered.
    begin : callable, optional
        What each thread does first. An error is that of its first job.
    """

    def __init__(self, count: int, name: str, begin: Callable[[], object] | None = None) -> None:
        self._count, self._name, self._begin = count, name, begin
        self._queue: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._threads: list[Any] = []
        _pools.add(self)
        # Nothing of this object goes into the threads, so that they end when it is forgotten.
        weakref.finalize(self, _end, self._queue, self._threads).atexit = False

    def submit(self, work: Callable[[], T]) -> Job[T]:
        """Have a job done by one of the threads."""
        if len(self._threads) < self._count:
            serve = partial(_serve, self._queue, self._begin)
            thread = make(serve, f"{self._name}_{len(self._threads)}")
            try:
                start_uninterrupted(thread, partial(self._threads.append, thread))
            except (RuntimeError, MemoryError) as error:
                self._count = len(self._threads)  # and no more are tried
                others = f"on {self._count} of them" if self._count else "when it is asked for"
                warn_refused(error, f"the work of {self._name} is done {others}")
        job = Job(work, bool(self._threads))
        if self._threads:
            self._queue.put(job)
        return job

    def close(self, patience: float | None = None) -> None:
        """End the threads when they have done what they are at; cancel the rest.

        Parameters
        ----------
        patience : float, optional
            Seconds that are waited for them at most.
        """
        with contextlib.suppress(Empty):
            while True:
                job = self._queue.get_nowait()
                if job is not None:
                    job.cancel()
        _end(self._queue, self._threads)
        end = None if patience is None else time.monotonic() + patience
        for thread in self._threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        self._threads.clear()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _serve(queue: SimpleQueue[Job[Any] | None], begin: Callable[[], object] | None) -> None:
    failure = None
    try:
        if begin is not None:
            begin()
    except BaseException as error:
        failure = error
    while (job := queue.get()) is not None:
        job.do(failure)
        del job  # while this thread waits
        failure = None


def _end(queue: SimpleQueue[Job[Any] | None], threads: list[Any]) -> None:
    for _ in threads:
        queue.put(None)


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """End the threads before Python does: they may be in code that it unloads."""
    for pool in list(_pools):
        pool.close(PATIENCE)
