"""The engine's rules, replayed on a clock of its own: who moves which messages, and when.

The same rules as `lowerconv.parallel.comm.engine`: at most two sums move at a time, those that are
needed first, and beside them what is urgent; a message that is under way arrives, but a sum that
was overtaken begins no further one; without a thread messages move on only when somebody looks.
What a message takes is known beforehand (`collective_costs`), and messages that are on the wire
together share it evenly.

A main thread is a generator of what it does: `Compute`, `Look` and `Wait`.  It submits a `Sum`
itself, between two of these.  Main threads of several ranks can be replayed together: a sum begins
when all of them have submitted it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from lowerconv.copying import not_copied
from lowerconv.parallel.comm.engine import AT_ONCE, URGENT

TINY = 1e-12  # seconds: rounding of sums of times


@dataclass(frozen=True)
class Message:
    """One of the messages that a sum consists of, one after the other.

    Attributes
    ----------
    latency : float
        Seconds before it is on the wire; those of several messages pass at the same time.
    wire : float
        Seconds on the wire, which messages share.
    cpu : float
        Seconds of whoever moves it: copying, and adding what has come.
    """

    latency: float
    wire: float
    cpu: float


@dataclass(frozen=True)
class Compute:
    """The main thread computes.

    Attributes
    ----------
    seconds : float
    """

    seconds: float


@dataclass(frozen=True)
class Look:
    """The main thread moves messages on, where no other thread does, and waits for nothing."""


@not_copied("make another from its arguments")
@dataclass(eq=False)
class Sum:
    """A sum over all ranks, or another collective.

    Attributes
    ----------
    name : str
    messages : tuple of Message
    priority : float or None
        As of `Engine.submit`.
    nbytes : int
        Of the arrays concerned, to be shown.
    started, finished : float
        When it left its queue, and when it was done; NaN before.
    """

    name: str
    messages: tuple[Message, ...]
    priority: float | None = None
    nbytes: int = 0
    started: float = math.nan
    finished: float = math.nan
    _submitted: int = 0
    _next: int = 0  # number of the message that is to begin
    _left: list[float] = field(default_factory=list)  # of the message under way: see `_flow`
    _look: int = 0  # by which it was begun

    @property
    def done(self) -> bool:
        """Whether it has been summed."""
        return not math.isnan(self.finished)


@dataclass(frozen=True, eq=False)
class Wait:
    """The main thread waits for a sum, and moves messages meanwhile.

    Attributes
    ----------
    task : Sum
    """

    task: Sum


Request: TypeAlias = "Compute | Look | Wait"
LATENCY, WIRE, CPU = range(3)  # what a message does, one after the other


@dataclass(eq=False)
class _Main:
    """A main thread: what it does now, and for how long it has computed and waited."""

    program: Iterator[Request]
    doing: Request | None = None
    left: float = 0.0
    computed: float = 0.0
    exposed: float = 0.0


@not_copied("make another from its arguments")
class Replay:
    """A clock, an engine, and the main threads of some ranks.

    Ranks are taken to move messages alike; where no thread does, the first main thread's looks
    count.

    Parameters
    ----------
    threaded : bool
        Whether a thread moves messages.
    spare : bool
        Whether that has a core of its own; else layers stand still while it copies and adds.
    mains : int
        How many main threads there are.

    Attributes
    ----------
    now : float
        Seconds since the beginning.
    in_flight : float
        Seconds during which some sum was under way.
    """

    def __init__(self, threaded: bool, spare: bool = False, mains: int = 1) -> None:
        self.threaded, self.spare, self.mains = threaded, spare, mains
        self.now = self.in_flight = 0.0
        self._waiting: deque[Sum] = deque()
        self._free: deque[Sum] = deque()
        self._active: list[Sum] = []
        self._threads: list[_Main] = []
        self._looks = 0  # number of the one that is made

    # --- main threads ---

    def submit(self, task: Sum) -> None:
        """Begin a sum, once all main threads have submitted it."""
        task._submitted += 1
        if task._submitted == self.mains:
            (self._waiting if task.priority is None else self._free).append(task)
            self._begin()
            self._start_messages()

    def run(self, *programs: Iterator[Request]) -> None:
        """Run the main threads until all of them end.

        Raises
        ------
        RuntimeError
            One waits for a sum that another has not submitted.
        """
        self._threads = [_Main(program) for program in programs]
        for main in self._threads:
            self._resume(main)
        while any(main.doing is not None for main in self._threads):
            seconds = min(self._until_event(), self._until_resumed())
            if seconds == math.inf:
                raise RuntimeError("replay: a main thread waits for a sum that never begins")
            self._flow(seconds)
            self._move()
            for main in self._threads:
                self._resume_if_ready(main)

    def computed(self, number: int = 0) -> float:
        """Return the seconds that a main thread has computed."""
        return self._threads[number].computed

    def exposed(self, number: int = 0) -> float:
        """Return the seconds that a main thread has waited, stood still or moved messages."""
        return self._threads[number].exposed

    def _resume(self, main: _Main) -> None:
        """Have a main thread go on to what takes time."""
        for request in main.program:
            main.doing, main.left = request, 0.0
            if isinstance(request, Compute):
                main.left = request.seconds
                if main.left > TINY:
                    return
            elif isinstance(request, Wait):
                self._move()
                if not request.task.done:
                    return
            elif not self.threaded and main is self._threads[0]:
                self._looks += 1
                self._move()
                if self._moving_by_cpu:
                    return
        main.doing = None

    def _resume_if_ready(self, main: _Main) -> None:
        request = main.doing
        if isinstance(request, Compute):
            ready = main.left <= TINY
        elif isinstance(request, Wait):
            ready = request.task.done
        else:
            ready = request is not None and not self._moving_by_cpu
        if ready:
            self._resume(main)

    def _until_resumed(self) -> float:
        """Return the seconds until a main thread has computed what it computes now."""
        if self._stalled:
            return math.inf
        computing = (m.left for m in self._threads if isinstance(m.doing, Compute))
        return min(computing, default=math.inf)

    # --- the engine ---

    @property
    def _attended(self) -> bool:
        """Whether somebody moves messages now."""
        first = self._threads[0].doing if self._threads else None
        return self.threaded or isinstance(first, (Look, Wait))

    @property
    def _moving_by_cpu(self) -> bool:
        """Whether whoever moves messages is copying or adding."""
        return any(
            task._left and self._phase(task) == CPU and not self._is_new(task)
            for task in self._active
        )

    def _is_new(self, task: Sum) -> bool:
        """Whether a message was begun by the look that is made now, which does not wait for it."""
        looking = not self.threaded and isinstance(self._threads[0].doing, Look)
        return looking and task._look == self._looks

    @property
    def _stalled(self) -> bool:
        """Whether layers stand still, as the thread that moves messages takes their core."""
        return self.threaded and not self.spare and self._moving_by_cpu

    @staticmethod
    def _phase(task: Sum) -> int:
        return next((phase for phase in (LATENCY, WIRE) if task._left[phase] > TINY), CPU)

    def _begin(self) -> None:
        """Take up what was submitted, where it is its turn: as `Engine._begin`."""
        in_turn = sum(task.priority is None for task in self._active)
        begun = list(self._free)
        self._free.clear()
        while self._waiting and in_turn < AT_ONCE:
            begun.append(self._waiting.popleft())
            in_turn += 1
        for task in begun:
            task.started = self.now
        self._active = sorted(self._active + begun, key=lambda task: -(task.priority or 0.0))

    def _those_to_move(self) -> list[Sum]:
        """Return the sums that may begin messages: as `Engine._those_to_move`."""
        urgent = [task for task in self._active[AT_ONCE:] if task.priority == URGENT]
        return self._active[:AT_ONCE] + urgent

    def _start_messages(self) -> None:
        """Begin the next message of those sums that may move."""
        for task in self._those_to_move():
            if not task._left and task._next < len(task.messages):
                message = task.messages[task._next]
                task._left = [message.latency, message.wire, message.cpu]
                task._look = self._looks
                task._next += 1

    def _move(self) -> None:
        """End messages that have arrived, and begin others, where somebody looks."""
        if not self._attended:
            return
        while True:
            self._begin()
            self._start_messages()
            ended = False
            for task in self._active[:]:
                if task._left and max(task._left) <= TINY and not self._is_new(task):
                    task._left = []
                if not task._left and task._next == len(task.messages):
                    task.finished = self.now
                    self._active.remove(task)
                    ended = True
                elif not task._left and task in self._those_to_move():
                    ended = True  # its next message begins at once
            if not ended:
                return

    def _rates(self) -> Iterator[tuple[Sum, int, float]]:
        """Yield what moves: the sum, what its message does, and seconds of it in a second."""
        phases = [(task, self._phase(task)) for task in self._active if task._left]
        on_wire = sum(phase == WIRE for _, phase in phases)
        by_cpu = sum(phase == CPU and not self._is_new(task) for task, phase in phases)
        for task, phase in phases:
            if phase == LATENCY:
                yield task, phase, 1.0
            elif phase == WIRE:
                yield task, phase, 1.0 / on_wire
            elif self._attended and not self._is_new(task):  # else it has arrived; nobody looks
                yield task, phase, 1.0 / by_cpu

    def _until_event(self) -> float:
        moments = (max(0.0, task._left[phase]) / rate for task, phase, rate in self._rates())
        return min(moments, default=math.inf)

    def _flow(self, seconds: float) -> None:
        """Let time pass, in which nothing begins or ends."""
        stalled = self._stalled
        for task, phase, rate in list(self._rates()):
            task._left[phase] -= seconds * rate
        for main in self._threads:
            if isinstance(main.doing, Compute) and not stalled:
                main.left -= seconds
                main.computed += seconds
            elif main.doing is not None:
                main.exposed += seconds
        if self._active:
            self.in_flight += seconds
        self.now += seconds


def run_alone(messages: Sequence[Message]) -> float:
    """Return the seconds of a sum that is waited for, with nothing else under way."""
    replay = Replay(threaded=True)
    task = Sum("alone", tuple(messages))

    def main() -> Iterator[Request]:
        replay.submit(task)
        yield Wait(task)

    replay.run(main())
    return replay.now
