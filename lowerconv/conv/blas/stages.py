"""Two stages over a ring of slots: one core does both in turns, or two cores do one each.

A pipeline is a sequence of steps.  Its first stage fills a slot, its second empties it::

    one core     first 0 | first 1 | second 0 | first 2 | second 1 | ...
    two cores    first 0 | first 1  | first 2  | first 3  | ...
                         | second 0 | second 1 | second 2 | ...

Who runs a pipeline goes through its turns, and knows nothing of the others::

    begin, steps = span(roles, worker, cores, tasks, per_task)
    for turn in range(turns(roles, worker, steps)):
        stage, step, slot = enter(roles, worker, steps, turn)
        ...                                                        # the stage of step begin + step
        leave(roles, worker, stage)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lowerconv.codegen.compiled import njit
from lowerconv.codegen.fork_join import FIRST_SLOT, SLOT_WORDS, address, new_state
from lowerconv.codegen.ranges import share
from lowerconv.codegen.signatures import AwaitCount, Post
from lowerconv.copying import not_copied
from lowerconv.runtime.launch import call, call_for_int

FIRST, SECOND, BOTH = 0, 1, 2  # stages that a worker does
NO_LOG = (0, 3)
PATIENCE = 1e-3  # seconds that one of a pair looks for what the other is doing, before it sleeps


@not_copied("copy the ConvPlan that it is a part of")
class Roles(NamedTuple):
    """Which worker does which stage, of which core's panels.

    Attributes
    ----------
    cores : ndarray of int64
        For every worker, the number of the core, or pair of them, whose steps it does.
    stages : ndarray of int64
        For every worker: `FIRST`, `SECOND` or `BOTH`.
    slots : int
    state : ndarray of int64
        Of handing over (`codegen.fork_join`): what a pair has filled and emptied.
    await_count, post, clock : int
        Addresses.
    logs : ndarray of int64, (workers, lines, 3)
        Stage, begin and end in nanoseconds; the first line of each worker is their count.  No
        lines where nobody wants to know.
    """

    cores: np.ndarray
    stages: np.ndarray
    slots: int
    state: np.ndarray
    await_count: int
    post: int
    clock: int
    logs: np.ndarray


def alone(workers: int, slots: int) -> Roles:
    """Return the roles of workers each of which does both stages."""
    return _roles(range(workers), [BOTH] * workers, slots)


def in_pairs(workers: int, slots: int) -> Roles:
    """Return the roles of workers in pairs, 2i and 2i + 1; of an odd number the last is alone."""
    stages = [w % 2 for w in range(workers // 2 * 2)] + [BOTH] * (workers % 2)
    return _roles([w // 2 for w in range(workers)], stages, slots)


def _roles(cores, stages, slots: int) -> Roles:
    workers = len(stages)
    return Roles(
        np.array(cores, np.int64),
        np.array(stages, np.int64),
        slots,
        new_state(2 * workers, PATIENCE),
        address("await_count"),
        address("post"),
        address("clock"),
        np.zeros((workers, *NO_LOG), np.int64),
    )


def start_over(roles: Roles) -> None:
    """Set what pairs have counted back to 0, before a launch."""
    roles.state[FIRST_SLOT * SLOT_WORDS :] = 0


@njit(cache=True, nogil=True)
def span(roles, worker, cores, tasks, per_task):
    """Return the first step of a worker's core, and how many steps it does: of whole tasks."""
    core = roles.cores[worker]
    if core >= cores:
        return 0, 0
    first, last = share(tasks, core, cores)
    return first * per_task, (last - first) * per_task


@njit(cache=True, nogil=True)
def turns(roles, worker, steps):
    """Return how often this worker calls `enter`: once for each stage that it does of a step."""
    return 2 * steps if roles.stages[worker] == BOTH else steps


@njit(cache=True, nogil=True)
def _counters(roles, worker):
    """Return where a pair counts the slots it has filled, and those it has emptied."""
    filled = roles.state.ctypes.data + 8 * SLOT_WORDS * (FIRST_SLOT + 2 * roles.cores[worker])
    return np.int64(filled), np.int64(filled + 8 * SLOT_WORDS)


@njit(cache=True, nogil=True)
def enter(roles, worker, steps, turn):
    """Return stage, step and slot of a turn, once the other worker of a pair has come so far."""
    stage = roles.stages[worker]
    if stage == BOTH:  # the first stage is one step ahead
        if turn == 0 or (turn % 2 == 1 and turn < 2 * steps - 1):
            stage, step = FIRST, (turn + 1) // 2
        else:
            stage, step = SECOND, (turn - 1) // 2
    else:
        step = turn
        filled, emptied = _counters(roles, worker)
        state = np.int64(roles.state.ctypes.data)
        if stage == FIRST:
            call(roles.await_count, AwaitCount(state, emptied, step - roles.slots + 1))
        else:
            call(roles.await_count, AwaitCount(state, filled, step + 1))
    log = roles.logs[worker]
    if len(log):
        log[0, 0] = min(log[0, 0] + 1, len(log) - 1)
        log[log[0, 0], 0] = stage
        log[log[0, 0], 1] = call_for_int(roles.clock)
    return stage, step, step % roles.slots


@njit(cache=True, nogil=True)
def leave(roles, worker, stage):
    """Tell the other one of the pair that a stage is done."""
    log = roles.logs[worker]
    if len(log):
        log[log[0, 0], 2] = call_for_int(roles.clock)
    if roles.stages[worker] != BOTH:
        filled, emptied = _counters(roles, worker)
        done = filled if stage == FIRST else emptied
        call(roles.post, Post(np.int64(roles.state.ctypes.data), np.int64(done)))
