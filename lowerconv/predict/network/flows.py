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
from lowerconv.predict.network.fair_sharing import fill, set_busy, sharing_of, use
from lowerconv.predict.network.topology import Routes

RESOLUTION = 1e-6  # of a flow's own time, in which others may begin or end before rates change


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
    weights : ndarray, (routes,), float64
        For how many a flow counts where it shares links; above 0.
    """

    seconds: np.ndarray
    nbytes: np.ndarray
    routes_of: np.ndarray
    waits: np.ndarray
    next_offsets: np.ndarray
    next_flows: np.ndarray
    routes: Routes
    bandwidths: np.ndarray
    weights: np.ndarray


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
        Rates are found again once for all flows that begin or end within this part of a flow's own
        time: with 0 they are exact at any moment, with more it takes less time.
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
    sharing = sharing_of(*graph.routes, graph.bandwidths, graph.weights)
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
        turn += 1
        changed, now = 0, 0.0
        until = _window(graph, sharing, clock, state, resolution)
        while clock.size[0] and clock.times[clock.heap[0]] <= until:
            flow = clock.heap[0]
            now = clock.times[flow]
            remove_first(clock)
            route = graph.routes_of[flow]
            if not state.is_sending[flow] and state.left[flow] > 0:
                _begin(sharing, clock, state, flow, route, now)
                changed = _note_links(sharing, turn, route, changed)
                continue
            if state.is_sending[flow]:
                _end(sharing, state, flow, route)
                changed = _note_links(sharing, turn, route, changed)
            ended += _end_with_those_at_once(graph, clock, state, flow, now)
        if not changed:
            continue
        for i in range(fill(sharing, turn, changed)):
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
def _window(graph, sharing, clock, state, resolution):
    """Return until when events change rates together with the next one."""
    flow = clock.heap[0]
    time = clock.times[flow]
    if state.is_sending[flow]:
        return time + resolution * (time - state.begin[flow])
    if state.left[flow] > 0:
        first = sharing.route_links[sharing.route_offsets[graph.routes_of[flow]]]
        return time + resolution * state.left[flow] / sharing.bandwidths[first]
    return time


@internal
def _end_with_those_at_once(graph, clock, state, flow, now):
    """Let a flow end, and those without bytes or seconds that only wait; return how many."""
    state.batch[0] = flow
    ended, batch = 0, 1
    while ended < batch:
        flow = state.batch[ended]
        ended += 1
        state.end[flow] = now
        if not state.is_sending[flow]:
            state.begin[flow] = now
        for place in range(graph.next_offsets[flow], graph.next_offsets[flow + 1]):
            other = graph.next_flows[place]
            graph.waits[other] -= 1
            if graph.waits[other] == 0:
                if graph.seconds[other] > 0 or state.left[other] > 0:
                    set_time(clock, other, now + graph.seconds[other])
                else:
                    state.batch[batch] = other
                    batch += 1
    return ended


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
def _begin(sharing, clock, state, flow, route, now):
    """Let a flow take its share, which is found later, and counts from now."""
    state.is_sending[flow] = True
    state.begin[flow] = state.since[flow] = now
    state.following[flow] = state.first_of_route[route]
    state.first_of_route[route] = flow
    sharing.messages[route] += 1
    if sharing.messages[route] == 1:
        set_busy(sharing, route, True)
    elif sharing.rates[route] > 0:  # as much as others of this route, as long as nothing changes
        use(sharing, route, sharing.rates[route])
        set_time(clock, flow, now + state.left[flow] / sharing.rates[route])


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
    use(sharing, route, -sharing.rates[route])
    sharing.messages[route] -= 1
    if sharing.messages[route] == 0:
        set_busy(sharing, route, False)
        sharing.rates[route] = 0.0


@internal
def _set_rate(sharing, clock, state, route, now):
    """Give a route its new rate, and its flows their new ends."""
    old, new = sharing.rates[route], sharing.new_rates[route]
    sharing.rates[route] = new
    flow = state.first_of_route[route]
    while flow >= 0:
        if old > 0:
            sent = old * (now - state.since[flow])
            state.left[flow] = max(state.left[flow] - sent, 0.0)
            state.since[flow] = now
        set_time(clock, flow, max(now, state.since[flow] + state.left[flow] / new))
        flow = state.following[flow]
