"""Discrete-event simulation of flows: messages and computation that wait for each other.

Between two events all rates stay as they are.  An event is a flow whose latency is over and that
begins to take its share of links, or one that has sent all: the rates that this concerns are found
again (`fair_sharing`), and so when those flows will end.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lowerconv.codegen.compiled import internal, njit
from lowerconv.predict.network.event_heap import clock_of, remove_first, set_time
from lowerconv.predict.network.fair_sharing import fill, set_busy, sharing_of
from lowerconv.predict.network.topology import Routes

RESOLUTION = 1e-6  # of a flow's own time, within which others end together with it


class FlowGraph(NamedTuple):
    """Flows, and what each waits for.  A flow without bytes is computation, or only waits.

    Attributes
    ----------
    seconds : ndarray, (flows,), float64
        From when a flow may begin until it takes its share of links: computation and latency.
    nbytes : ndarray, (flows,), float64
    routes_of : ndarray, (flows,), int32
        The number of each flow's route; -1 where it has no bytes.
    waits : ndarray, (flows,), int32
        How many others have to end before a flow may begin.
    next_offsets, next_flows : ndarray
        The flows that wait for flow i are ``next_flows[next_offsets[i] : next_offsets[i + 1]]``.
    routes : Routes
    bandwidths : ndarray, (links,), float64
        Bytes/s.
    """

    seconds: np.ndarray
    nbytes: np.ndarray
    routes_of: np.ndarray
    waits: np.ndarray
    next_offsets: np.ndarray
    next_flows: np.ndarray
    routes: Routes
    bandwidths: np.ndarray


class Timeline(NamedTuple):
    """When flows begin and end.

    Attributes
    ----------
    begin : ndarray, (flows,), float64
        Seconds at which each begins to take its share of links.
    end : ndarray, (flows,), float64
        Seconds at which all of it has arrived.
    rates : ndarray, (changes, 3), float64
        Seconds, route, and the bytes/s that each flow of the route has from then on; empty unless
        asked for.
    """

    begin: np.ndarray
    end: np.ndarray
    rates: np.ndarray


class _State(NamedTuple):
    """Of each flow what is left of it, since when; and the flows of each route, in a list."""

    left: np.ndarray
    since: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    is_sending: np.ndarray
    following: np.ndarray
    first_of_route: np.ndarray
    batch: np.ndarray


def simulate(
    graph: FlowGraph, *, resolution: float = RESOLUTION, with_rates: bool = False
) -> Timeline:
    """Return when each flow begins and ends.

    Parameters
    ----------
    graph : FlowGraph
    resolution : float
        Flows end together with the last of those that end within this part of the first one's time:
        fewer events, each of them late by less than that.
    with_rates : bool
        Whether to return all rates, too.

    Returns
    -------
    Timeline

    Raises
    ------
    ValueError
        Where flows wait for each other in a circle, or a number is none that can be simulated.
    """
    flows = graph.seconds.size
    for name in ("seconds", "nbytes"):
        values = getattr(graph, name)
        wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
        if wrong.size:
            raise ValueError(
                f"{name}: got {values[wrong[0]]} of flow {wrong[0]}, expected numbers of at least 0"
            )
    if not 0 <= resolution < 1:
        raise ValueError(f"resolution: got {resolution}, expected 0 or a part of 1")
    sharing = sharing_of(*graph.routes, graph.bandwidths)
    routes = graph.routes.offsets.size - 1
    clock = clock_of(flows)
    state = _State(
        left=graph.nbytes.astype(np.float64),
        since=np.zeros(flows),
        begin=np.full(flows, np.nan),
        end=np.full(flows, np.nan),
        is_sending=np.zeros(flows, np.bool_),
        following=np.full(flows, -1, np.int32),
        first_of_route=np.full(routes, -1, np.int32),
        batch=np.zeros(flows, np.int32),
    )
    waits = graph.waits.copy()
    ended, rates = _run(graph._replace(waits=waits), sharing, clock, state, resolution, with_rates)
    if ended < flows:
        stuck = int(np.flatnonzero(np.isnan(state.end))[0])
        raise ValueError(
            f"graph: {flows - ended} flows never begin, flow {stuck} among them: they wait for "
            "each other in a circle"
        )
    return Timeline(state.begin, state.end, rates)


@njit(cache=True, nogil=True, error_model="numpy")
def _run(graph, sharing, clock, state, resolution, with_rates):
    """Simulate until nothing happens any more; return how many flows have ended, and all rates."""
    ended, turn, noted = 0, 0, 0
    rates = np.empty((1024 if with_rates else 0, 3), np.float64)
    for flow in range(graph.waits.size):
        if graph.waits[flow] == 0:
            set_time(clock, flow, graph.seconds[flow])
    while clock.size[0]:
        now, batch = _next_batch(clock, state, resolution)
        turn += 1
        changed, number = 0, 0
        while number < batch:
            flow = state.batch[number]
            number += 1
            route = graph.routes_of[flow]
            if route >= 0 and not state.is_sending[flow] and state.left[flow] > 0:
                _begin(sharing, state, flow, route, now)
                changed = _note_links(sharing, turn, route, changed)
                continue
            if state.is_sending[flow]:
                _end(sharing, state, flow, route)
                changed = _note_links(sharing, turn, route, changed)
            else:
                state.begin[flow] = now
            state.end[flow] = now
            ended += 1
            for place in range(graph.next_offsets[flow], graph.next_offsets[flow + 1]):
                other = graph.next_flows[place]
                graph.waits[other] -= 1
                if graph.waits[other] == 0:
                    if graph.seconds[other] > 0:
                        set_time(clock, other, now + graph.seconds[other])
                    else:
                        state.batch[batch] = other
                        batch += 1
        if not changed:
            continue
        _, routes = fill(sharing, turn, changed)
        for i in range(routes):
            route = sharing.route_list[i]
            old, new = sharing.rates[route], sharing.new_rates[route]
            if abs(new - old) > 1e-12 * old:
                _set_rate(sharing, clock, state, route, now)
                if with_rates:
                    if noted == len(rates):
                        more = np.empty((2 * noted, 3), np.float64)
                        more[:noted] = rates
                        rates = more
                    rates[noted, 0], rates[noted, 1], rates[noted, 2] = now, route, new
                    noted += 1
    return ended, rates[:noted]


@internal
def _next_batch(clock, state, resolution):
    """Take all flows whose event comes next out of the heap; return when, and how many."""
    flow = clock.heap[0]
    now = clock.times[flow]
    window = now
    if state.is_sending[flow]:
        window += resolution * (now - state.begin[flow])
    batch = 0
    while clock.size[0] and clock.times[clock.heap[0]] <= window:
        flow = clock.heap[0]
        now = clock.times[flow]
        state.batch[batch] = flow
        batch += 1
        remove_first(clock)
    return now, batch


@internal
def _note_links(sharing, turn, route, changed):
    """Add the links of a route to those that have changed; return how many there are."""
    for entry in range(sharing.route_offsets[route], sharing.route_offsets[route + 1]):
        link = sharing.route_links[entry]
        if sharing.link_whole[link] != turn:
            sharing.link_whole[link] = turn
            sharing.whole_list[changed] = link
            changed += 1
    return changed


@internal
def _begin(sharing, state, flow, route, now):
    """Let a flow take its share, which is found later."""
    _settle(sharing, state, route, now)
    sharing.rates[route] = 0.0  # not as before, whatever it will be: the new flow has no end yet
    state.is_sending[flow] = True
    state.begin[flow] = state.since[flow] = now
    state.following[flow] = state.first_of_route[route]
    state.first_of_route[route] = flow
    sharing.messages[route] += 1
    if sharing.messages[route] == 1:
        set_busy(sharing, route, True)


@internal
def _end(sharing, state, flow, route):
    """Take a flow out of its route."""
    before, other = -1, state.first_of_route[route]
    while other != flow:
        before, other = other, state.following[other]
    if before < 0:
        state.first_of_route[route] = state.following[flow]
    else:
        state.following[before] = state.following[flow]
    state.left[flow] = 0.0
    sharing.messages[route] -= 1
    if sharing.messages[route] == 0:
        set_busy(sharing, route, False)
        sharing.rates[route] = 0.0


@internal
def _settle(sharing, state, route, now):
    """Take from what is left of a route's flows what they have sent since they were looked at."""
    flow = state.first_of_route[route]
    while flow >= 0:
        sent = sharing.rates[route] * (now - state.since[flow])
        state.left[flow] = max(state.left[flow] - sent, 0.0)
        state.since[flow] = now
        flow = state.following[flow]


@internal
def _set_rate(sharing, clock, state, route, now):
    """Give a route its new rate, and its flows their new ends."""
    _settle(sharing, state, route, now)
    rate = sharing.new_rates[route]
    sharing.rates[route] = rate
    flow = state.first_of_route[route]
    while flow >= 0:
        set_time(clock, flow, now + state.left[flow] / rate)
        flow = state.following[flow]
