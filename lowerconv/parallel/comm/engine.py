"""What moves messages while layers are computed.

Collectives are generators (`collectives`). The engine moves a few of them at a
time, those that are needed first, whenever somebody asks: a communication thread, the main thread
after each layer, or whoever waits.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lowerconv.copying import not_copied
from lowerconv.parallel.comm.collectives import Routine
from lowerconv.parallel.comm.link import Link, MessageMemory, Requests, abandon
from lowerconv.parallel.comm.listener import SILENT, Listener
from lowerconv.parallel.comm.waiting import Patience, wait_until
from lowerconv.runtime import native

# Collectives at a time: one waits for its neighbours while the other fills the wire. More would
# share the wire, and the first to be needed would arrive with the last.
AT_ONCE = 2
TAGS = 1 << 14  # MPI has at least twice as many; so many are never in flight
NAP = 3e-4  # seconds between two looks of the communication thread while layers are computed
IDLE_AFTER = 0.03  # seconds; see `Engine.idle_after`
URGENT = math.inf  # priority of what layers wait for at this moment


@not_copied("submit another")
class Task:
    """A collective under way.

    Attributes
    ----------
    name : str
    nbytes : int
        Of the arrays concerned, to be shown.
    done : bool
    times : list of int
        When it was submitted, started and finished, ``time.monotonic_ns()``; as far as it got.
    point_to_point : bool
        Whether it is no collective, but messages between some ranks.
    priority : float or None
    waiting_since : float
        When its present wait began, ``time.monotonic()``.
    """

    def __init__(
        self,
        name: str,
        nbytes: int,
        routine: Routine,
        link: Link,
        *,
        point_to_point: bool = False,
        priority: float | None = None,
    ) -> None:
        self.name, self.nbytes, self.priority = name, nbytes, priority
        self.point_to_point = point_to_point
        self.times = [time.monotonic_ns()]
        self.waiting_since = -math.inf
        self.done = False
        self.error: Exception | None = None
        self._routine, self._link = routine, link
        self._requests: Requests = []

    @property
    def sent(self) -> int | None:
        """Bytes that this rank has put on the wire; None where the MPI library does that."""
        sent = self._link.sent
        return sent.nbytes if sent.known else None

    def advance(self) -> bool:
        """Go on as far as messages have come; return whether the task is done."""
        if len(self.times) == 1:
            self.times.append(time.monotonic_ns())
        try:
            while _all_done(self._requests):
                requests = next(self._routine)
                self.waiting_since = time.monotonic()
                if requests is None:
                    break  # at the next move
                self._requests = requests
        except StopIteration:
            self._link.close()
            self._end()
        except Exception as error:
            self.error = error
            abandon(self)
            self._end()
        return self.done

    def _end(self) -> None:
        self.times.append(time.monotonic_ns())
        self.done = True


def _all_done(requests: Requests) -> bool:
    if not requests:
        return True
    from mpi4py import MPI

    return MPI.Request.Testall(requests)


@not_copied("ask the communicator for another")
class Engine:
    """Moves the messages of one rank.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm or None
        The engine's own, that nobody else sends on; None for a process alone.
    threaded : bool
        Have a thread of its own; else messages move on when `progress` or `wait` is called.
    cpus : collection of int, optional
        Where the thread runs; by default wherever the system puts it.
    hosts : sequence of sequence of int, optional
        The ranks of each host.
    patience : Patience, optional
        Who is told when a wait gets long.
    listener : Listener, optional

    Attributes
    ----------
    rank, ranks : int
    threaded : bool
        Whether a thread moves messages.
    refusal : Exception or None
        Why the system has not started one that was asked for.
    idle_after : float
        Seconds after which a collective that has not moved no longer counts as under way: it waits
        for a rank that is late, and the wire is free for others. More than a message may take.
    """

    def __init__(
        self,
        comm: Any = None,
        *,
        threaded: bool = False,
        cpus: Sequence[int] | None = None,
        hosts: Sequence[Sequence[int]] | None = None,
        patience: Patience | None = None,
        listener: Listener = SILENT,
    ) -> None:
        self.comm, self.hosts, self.listener, self.patience = comm, hosts, listener, patience
        self.rank: int = 0 if comm is None else comm.Get_rank()
        self.ranks: int = 1 if comm is None else comm.Get_size()
        self.threaded = threaded and comm is not None
        self.idle_after = IDLE_AFTER
        self._cpus = cpus
        self._scratch = MessageMemory()
        self._number = 0
        self._waiting: deque[Task] = deque()  # for their turn
        self._free: deque[Task] = deque()  # to move when they like, or their priority lets them
        self._active: list[Task] = []  # the first to be needed first
        self._error: Exception | None = None  # of a task that nobody may be waiting for
        self._moving = native.allocate_lock()
        self._wake = native.Signal()
        self._ended = False
        self._failure: Exception | None = None
        self._thread = native.make(self._serve, "lowerconv-communication")
        self.refusal: Exception | None = None
        if self.threaded:
            try:
                native.start(self._thread)
            except (RuntimeError, MemoryError) as error:
                self.threaded, self.refusal = False, error

    def submit(
        self,
        routine: Callable[[Link], Routine],
        name: str,
        nbytes: int = 0,
        tag: int | None = None,
        *,
        priority: float | None = None,
    ) -> Task:
        """Begin a collective; all ranks submit the same ones in the same order.

        Parameters
        ----------
        routine : callable
            Given a `Link`, returns the generator.
        name : str
        nbytes : int
        tag : int, optional
            From 0: not a collective, but messages between some ranks, that have a tag of their own.
            It begins at once, whatever else is under way, and may last.
        priority : float, optional
            Above 0: while collectives of a higher priority move, which are needed earlier, this one
            begins no further messages; one that is ``URGENT`` always does.  By default collectives
            take turns, in the order of submission: the MPI library's own have to.
        """
        point_to_point = tag is not None
        number = TAGS + tag if tag is not None else self._number % TAGS
        self._number += 0 if point_to_point else 1
        link = Link(self.comm, number, self.hosts, self._scratch)
        task = Task(
            name, nbytes, routine(link), link, point_to_point=point_to_point, priority=priority
        )
        (self._waiting if priority is None and not point_to_point else self._free).append(task)
        if self.threaded:
            self._wake.set()
        else:
            self.progress()
        return task

    def progress(self) -> bool:
        """Move all that is under way; return whether anything still is."""
        if not (self._active or self._waiting or self._free):
            return False  # between most layers
        with self._moving:
            while True:
                self._begin()
                ended = [task for task in self._those_to_move() if task.advance()]
                self._active = [task for task in self._active if not task.done]
                for task in ended:
                    if task.point_to_point and task.error is not None:
                        self._error = task.error
                    # What lasts as long as others like, and is nobody's message, is not told.
                    if task.nbytes or not task.point_to_point:
                        self.listener.task_finished(task)
                if not ended and not self._free:
                    return bool(self._active)

    def _begin(self) -> None:
        """Take up what was submitted, where it is its turn."""
        in_turn = sum(task.priority is None and not task.point_to_point for task in self._active)
        begun = []
        while self._free:
            begun.append(self._free.popleft())
        while self._waiting and in_turn < AT_ONCE:
            begun.append(self._waiting.popleft())
            in_turn += 1
        if begun:
            self._active = sorted(self._active + begun, key=lambda task: -(task.priority or 0.0))

    def _those_to_move(self) -> Iterator[Task]:
        """Yield the tasks that may move; of collectives, at most two that are not idle."""
        idle = time.monotonic() - self.idle_after
        moving = 0
        for task in self._active:
            if task.point_to_point or task.priority == URGENT or moving < AT_ONCE:
                yield task
                moving += not task.point_to_point and not task.done and task.waiting_since > idle

    def wait(self, task: Task) -> None:
        """Return when a task is done.

        Raises
        ------
        Exception
            Of the task; StallError where it takes longer than the patience lasts.
        """
        if not task.done:
            begin = time.monotonic_ns()
            wait_until(lambda: self._moved(task), task.name, self.patience)
            self.listener.waited(task.name, begin, time.monotonic_ns())
        if task.error is not None:
            raise task.error

    def run(self, routine: Callable[[Link], Routine], name: str, nbytes: int = 0) -> None:
        """Submit a collective and wait for it."""
        self.wait(self.submit(routine, name, nbytes))

    def _moved(self, task: Task) -> bool:
        # Whoever waits looks more often than the thread, which gives the layers room.
        if self._failure is not None:
            raise self._failure
        if not task.done:
            self.progress()
            if self._error is not None:
                raise self._error
        return task.done

    def _serve(self) -> None:
        if self._cpus and hasattr(os, "sched_setaffinity"):
            with contextlib.suppress(OSError):  # it runs unbound
                os.sched_setaffinity(0, self._cpus)
        try:
            while not self._ended:
                if self.progress():
                    native.sleep(NAP)
                elif not self._waiting and not self._free:
                    self._wake.wait(0.1)
        except Exception as error:  # whoever waits raises it: a thread that dies tells nobody
            self._failure = error

    def end_thread(self) -> None:
        """Have messages move when `progress` or `wait` is called, from now on."""
        self._ended = True
        self._wake.set()
        if self.threaded:
            self._thread.join(1.0)
        self.threaded = False

    def close(self) -> None:
        """End the thread; what is under way is not waited for."""
        self.end_thread()
        abandon(*self._active)
