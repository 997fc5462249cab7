"""Work that is done ahead of its use, on threads of its own, and how long its user had to wait."""

from __future__ import annotations

import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from lowerconv.copying import not_copied
from lowerconv.data.pool import Job, Pool
from lowerconv.runtime.native import allocate_lock

T = TypeVar("T")


@dataclass
class Waiting:
    """How long results were waited for.

    Attributes
    ----------
    results : int
        Results taken.
    waits : int
        How many of them were not ready when they were asked for, the first of each stream aside.
    seconds : float
        How long these were waited for.
    first_seconds : float
        How long the first ones of all streams were waited for, which nothing was ahead of.
    busy_seconds : float
        How long threads have worked, all of them together.
    """

    results: int = 0
    waits: int = 0
    seconds: float = 0.0
    first_seconds: float = 0.0
    busy_seconds: float = 0.0


@not_copied("make another from its arguments")
class Threads:
    """Threads that work ahead; they start with the first job and end with this object.

    Parameters
    ----------
    count : int
        0 to do everything on the thread that asks, at the time when it asks.
    cpus : collection of int, optional
        The only CPUs they run on.
    """

    def __init__(self, count: int, cpus: Collection[int] | None = None) -> None:
        self.count, self.cpus = count, cpus
        self.waiting = Waiting()
        self._lock = allocate_lock()
        self._pool: Pool | None = None
        self._process = os.getpid()

    def locked(self) -> Any:
        """Return the lock under which `waiting` is changed, of this process."""
        if self._process != os.getpid():  # a forked child has no threads: one may hold the lock
            self._lock, self._pool, self._process = allocate_lock(), None, os.getpid()
        return self._lock

    def submit(self, job: Callable[[], T]) -> Job[T]:
        """Have a job done by one of the threads."""
        with self.locked():
            if self._pool is None:
                # Nothing of this object goes into the threads: they end when it is forgotten.
                self._pool = Pool(self.count, "lowerconv-data", partial(_bind, self.cpus))
            return self._pool.submit(partial(self.timed, job))

    def timed(self, job: Callable[[], T]) -> T:
        """Do a job here, and count how long it takes."""
        begin = time.perf_counter()
        try:
            return job()
        finally:
            with self.locked():
                self.waiting.busy_seconds += time.perf_counter() - begin

    def close(self) -> None:
        """End the threads, when they have done what they are at."""
        if self._pool is not None and self._process == os.getpid():
            self._pool.close()
        self._pool = None


def _bind(cpus: Collection[int] | None) -> None:
    if cpus is not None and hasattr(os, "sched_setaffinity"):
        try:
            os.sched_setaffinity(0, cpus)  # of this thread alone
        except OSError as error:
            warnings.warn(
                f"lowerconv: the kernel refuses to bind a thread that loads data to CPUs "
                f"{sorted(cpus)} ({error}); it runs unbound",
                RuntimeWarning,
                stacklevel=2,
            )


@not_copied("make another from its arguments")
class Stream(Generic[T]):
    """Results of jobs, in their order.

    Parameters
    ----------
    threads : Threads
    jobs : iterator of callables
        Drawn from when a result is taken.
    depth : int
        How many jobs are done ahead at most.
    """

    def __init__(self, threads: Threads, jobs: Iterator[Callable[[], T]], depth: int) -> None:
        self._threads, self._jobs = threads, jobs
        self._pending: deque[Job[T]] = deque()
        self._first = True
        self.process = os.getpid()
        if threads.count:
            for job in _some(jobs, depth):
                self._pending.append(threads.submit(job))

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        waiting = self._threads.waiting
        begin = time.perf_counter()
        if self._threads.count:
            if not self._pending:
                raise StopIteration
            future = self._pending.popleft()
            ready = future.done()
            result = future.result()
        else:
            ready = False
            result = self._threads.timed(next(self._jobs))
        waited = time.perf_counter() - begin
        with self._threads.locked():
            if self._first:
                waiting.first_seconds += waited
            elif not ready:
                waiting.waits += 1
                waiting.seconds += waited
            waiting.results += 1
        self._first = False
        for job in _some(self._jobs, 1 if self._threads.count else 0):
            self._pending.append(self._threads.submit(job))
        return result

    def close(self) -> None:
        """Drop what is not begun yet."""
        for future in self._pending:
            future.cancel()
        self._pending.clear()


def _some(jobs: Iterator[Callable[[], T]], count: int) -> Iterator[Callable[[], T]]:
    """Yield the next jobs, as many as there are of `count`."""
    for _ in range(count):
        job = next(jobs, None)
        if job is None:
            return
        yield job
