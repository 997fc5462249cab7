"""What this rank does in some training steps, and when: recorded in memory, gathered on rank 0.

::

    main thread    | forward ...  loss  backward ...  wait  update |
                   '-- each event begins where the one before ended
    communication           | bucket 0 --------- |
                                  | bucket 1 ---------- |

Nothing is kept of other steps: a run of any length costs the same.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from lowerconv.conv.plan import ConvPlan
from lowerconv.copying import not_copied
from lowerconv.nn.frame import Frame
from lowerconv.nn.hooks import HookHandle
from lowerconv.nn.layer import Layer
from lowerconv.nn.module import Module
from lowerconv.parallel.comm.communicator import Communicator
from lowerconv.parallel.comm.engine import Task
from lowerconv.parallel.comm.listener import NOTHING, PROGRESS, Listener
from lowerconv.parallel.trace.chrome import (
    DATA,
    WAIT,
    Event,
    RankTrace,
    Step,
    Trace,
    Transfer,
)
from lowerconv.parallel.trace.clocks import Alignment, Reading, compare_clocks
from lowerconv.parallel.trace.lowering_share import lowering_share

BRIEF = 10_000  # nanoseconds: after most layers there is nothing to move along

Clock = Callable[[], int]


@not_copied("make another from its arguments")
class Timeline(Listener):
    """Records the events of this rank.

    Parameters
    ----------
    first, count : int
        Steps to record, counted from 0 where the run begins.
    clock : callable
        Nanoseconds, the clock of `Task.times`.

    Raises
    ------
    ValueError
        `first` or `count` out of its range.
    """

    def __init__(self, first: int, count: int, clock: Clock = time.monotonic_ns) -> None:
        if first < 0:
            raise ValueError(f"first: got {first}, expected 0 or more")
        if count < 1:
            raise ValueError(f"count: got {count}, expected 1 or more")
        self.first, self.count = first, count
        self._clock = clock
        self._number = 0  # of the next step
        self._steps: list[Step] = []
        self._events: list[tuple[str, str, int, int]] = []
        self._transfers: list[Transfer] = []
        self._recording = False
        self._begin = 0  # of the step
        self._since = 0  # what comes next in the main thread began here
        self._open: list[tuple[str, str]] = []  # contexts that the main thread is in
        self._parts: list[tuple[int, int]] = []  # of a layer that is not done yet
        self._window = (0, 0)  # from the first step that was recorded to the last
        self._plans: dict[tuple[str, str], dict[str, ConvPlan]] = {}
        self._start = Reading(clock(), 0, 0)
        self._handles: list[HookHandle] = []

    @property
    def empty(self) -> bool:
        """Whether no step has been recorded."""
        return not self._steps

    @property
    def complete(self) -> bool:
        """Whether all steps that were asked for have been recorded."""
        return len(self._steps) == self.count

    # --- the main thread ---

    def attach(self, network: Module) -> None:
        """Listen to a network; what its other watches do is no part of its layers."""
        self._handles += [
            network.register_watch(self._layer_done, first=True),
            network.register_watch(self._watches_done),
        ]

    def detach(self) -> None:
        """Listen to no network any more."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def begin_step(self) -> None:
        """Begin a step, before its batch is loaded."""
        if self.first <= self._number and not self.complete:
            self._begin = self._since = now = self._clock()
            if not self._steps:
                self._window = (now, now)
            self._recording = True

    def batch_loaded(self) -> None:
        """Keep how long the batch was waited for."""
        if self._recording:
            self._note(DATA, "")

    def end_step(self, images: int) -> None:
        """End a step, in which this rank had `images` images."""
        if self._recording:
            now = self._clock()
            self._steps.append(Step(self._number, images, self._begin, now))
            self._window = (self._window[0], now)
            self._parts.clear()
            self._recording = False
        self._number += 1

    def _note(self, kind: str, name: str) -> None:
        """Keep what has ended now."""
        now = self._clock()
        if now - self._since > (BRIEF if kind == PROGRESS else 0):
            self._events.append((kind, name, self._since, now))
        self._since = now

    def _layer_done(self, layer: Layer, frame: Frame, phase: str) -> None:
        """Keep what a layer did, in one piece or around what it has waited for."""
        if not self._recording:
            return
        self._events += [(phase, frame.name, *part) for part in self._parts]
        self._parts.clear()
        self._note(phase, frame.name)
        plans = {key: plan for key, plan in frame.prepared.items() if isinstance(plan, ConvPlan)}
        if plans:
            self._plans[frame.name, phase] = {
                op: plan for op, plan in plans.items() if (op == "forward") == (phase == "forward")
            }
        self._enter(PROGRESS, "")

    def _watches_done(self, layer: Layer, frame: Frame, phase: str) -> None:
        """Keep what the other watches took."""
        if self._recording:
            self._leave()

    def doing(self, kind: str, name: str = "") -> AbstractContextManager[None]:
        """Return a context in which the main thread computes something that is no layer."""
        return self._context(kind, name) if self._recording else NOTHING

    @contextmanager
    def _context(self, kind: str, name: str) -> Iterator[None]:
        self._enter(kind, name)
        try:
            yield
        finally:
            self._leave()

    def _enter(self, kind: str, name: str) -> None:
        if self._open:
            self._note(*self._open[-1])  # that one is cut in two
        else:
            self._parts.clear()  # what came before was no layer
            self._since = self._clock()
        self._open.append((kind, name))

    def _leave(self) -> None:
        self._note(*self._open.pop())

    def waited(self, name: str, begin: int, end: int) -> None:
        """Keep that the main thread has waited for a task, and what it did before."""
        if not self._recording:
            return
        if begin > self._since:
            if self._open:
                self._events.append((*self._open[-1], self._since, begin))
            else:  # perhaps a layer, that tells its name later
                self._parts.append((self._since, begin))
        self._events.append((WAIT, name, begin, end))
        self._since = end

    # --- communication ---

    def task_finished(self, task: Task) -> None:
        """Keep a task if a part of it lies in the recorded steps."""
        submitted, started, finished = task.times
        begin, end = self._window
        if finished >= begin and (self._recording or started < end):
            self._transfers.append(
                Transfer(task.name, task.nbytes, task.sent, submitted, started, finished)
            )

    # --- all ranks together ---

    def start(self, comm: Any) -> None:
        """Compare clocks for the first time, before what is recorded; all ranks together.

        Parameters
        ----------
        comm : mpi4py.MPI.Comm or None
            As for `compare_clocks`.
        """
        self._start = compare_clocks(comm, clock=self._clock)

    def finish(self, communicator: Communicator, comm: Any, about: str) -> Trace | None:
        """Gather what all ranks have recorded; all ranks together, with nothing in flight.

        Parameters
        ----------
        communicator : Communicator
        comm : mpi4py.MPI.Comm or None
            As for `compare_clocks`.
        about : str
            What is trained, for titles.

        Returns
        -------
        Trace or None
            On rank 0.

        Raises
        ------
        ValueError
            The run ended before the first step that should have been recorded.
        """
        alignment = Alignment(self._start, compare_clocks(comm, clock=self._clock))
        if communicator.ranks == 1:  # it has summed with nobody
            self._transfers.clear()
        ranks = communicator.gather(self._aligned(communicator.rank, alignment))
        if not all(rank.steps for rank in ranks):
            raise ValueError(
                f"timeline: got a run of {self._number} steps, expected more than the "
                f"{self.first} that are left out at the beginning"
            )
        return Trace(about, ranks) if communicator.rank == 0 else None

    def _aligned(self, rank: int, clock: Alignment) -> RankTrace:
        """Return what was recorded, by the clock of rank 0."""
        shares = self._lowering_shares()
        return RankTrace(
            rank,
            socket.gethostname(),
            clock.uncertainty,
            [Step(*step[:2], clock(step.begin), clock(step.end)) for step in self._steps],
            [
                Event(kind, name, clock(begin), clock(end), shares.get((name, kind), {}))
                for kind, name, begin, end in sorted(self._events, key=lambda event: event[2])
            ],
            [
                Transfer(*sent[:3], *(clock(at) for at in sent[3:]))
                for sent in sorted(self._transfers, key=lambda sent: sent.started)
            ],
        )

    def _lowering_shares(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Return what is known of the convolutions of each layer and phase."""
        return {
            place: {
                "algorithm": {op: plan.algorithm for op, plan in plans.items()},
                "lowering_share": {op: lowering_share(plan) for op, plan in plans.items()},
            }
            for place, plans in self._plans.items()
        }
