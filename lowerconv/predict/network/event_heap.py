"""The flows of a simulation by the time of their next event: a heap that knows where each is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lowerconv.codegen.compiled import internal


class Clock(NamedTuple):
    """Flows by the time of their next event.

    Attributes
    ----------
    times : ndarray, (flows,), float64
        Seconds.
    heap : ndarray, (flows,), int32
        The first `size` are flows that have an event to come; the first is the next one.
    places : ndarray, (flows,), int32
        Of each flow in the heap; -1 where it is not there.
    size : ndarray, (1,), int64
    """

    times: np.ndarray
    heap: np.ndarray
    places: np.ndarray
    size: np.ndarray


def clock_of(flows: int) -> Clock:
    """Return a clock without any events."""
    return Clock(
        np.zeros(flows),
        np.zeros(flows, np.int32),
        np.full(flows, -1, np.int32),
        np.zeros(1, np.int64),
    )


@internal
def set_time(c, flow, time):
    """Set when the next event of a flow comes."""
    place = c.places[flow]
    if place < 0:
        place = c.size[0]
        c.size[0] += 1
    elif time > c.times[flow]:
        c.times[flow] = time
        _move_down(c, flow, place)
        return
    c.times[flow] = time
    while place:
        parent = (place - 1) // 2
        other = c.heap[parent]
        if c.times[other] <= time:
            break
        c.heap[place] = other
        c.places[other] = place
        place = parent
    c.heap[place] = flow
    c.places[flow] = place


@internal
def remove_first(c):
    """Take the first flow out of the heap."""
    c.places[c.heap[0]] = -1
    c.size[0] -= 1
    if c.size[0]:
        _move_down(c, c.heap[c.size[0]], 0)


@internal
def _move_down(c, flow, place):
    """Put a flow at a place of the heap, or below it where others come before."""
    size, time = c.size[0], c.times[flow]
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and c.times[c.heap[child + 1]] < c.times[c.heap[child]]:
            child += 1
        other = c.heap[child]
        if c.times[other] >= time:
            break
        c.heap[place] = other
        c.places[other] = place
        place = child
    c.heap[place] = flow
    c.places[flow] = place
