"""Flows that share links max-min fairly, simulated slowly: rates of all flows at every event."""

import numpy as np


def fair_rates(routes: list[list[int]], bandwidths, weights) -> list[float]:
    """Return the rates of flows by filling: all grow as their weights until a link is full."""
    rates = [0.0] * len(routes)
    growing = set(range(len(routes)))
    left = np.array(bandwidths, float)
    while growing:
        crossing = np.zeros(left.size)
        for flow in growing:
            crossing[routes[flow]] += weights[flow]
        used = crossing > 0
        step = (left[used] / crossing[used]).min()
        left -= step * crossing
        full = used & (left <= 1e-12 * np.asarray(bandwidths))
        for flow in growing:
            rates[flow] += step * weights[flow]
        growing = {flow for flow in growing if not full[routes[flow]].any()}
    return rates


def simulate_slowly(graph) -> tuple[np.ndarray, np.ndarray]:
    """Return when flows begin to share links, and when they end; as `flows.simulate` does."""
    count = graph.seconds.size
    waits = graph.waits.copy()
    ready = np.where(waits == 0, graph.seconds, np.inf)
    begin, end = np.full(count, np.inf), np.full(count, np.inf)
    left = graph.nbytes.copy()
    offsets, links = graph.routes
    now = 0.0
    while not np.isfinite(end).all():
        sending = [i for i in range(count) if np.isfinite(begin[i]) and not np.isfinite(end[i])]
        routes = [
            list(links[offsets[graph.routes_of[i]] : offsets[graph.routes_of[i] + 1]])
            for i in sending
        ]
        rates = fair_rates(routes, graph.bandwidths, graph.weights[graph.routes_of[sending]])
        starts = np.where(np.isfinite(begin), np.inf, ready)
        first = min([starts.min(), *(now + left[i] / r for i, r in zip(sending, rates))])  # noqa: B905
        assert np.isfinite(first), "flows wait for each other in a circle"
        ended = []
        for i, rate in zip(sending, rates, strict=True):
            if now + left[i] / rate <= first + 1e-12:
                ended.append(i)
            left[i] -= rate * (first - now)
        now = first
        for i in np.flatnonzero(starts <= now):
            begin[i] = now
            if graph.nbytes[i] == 0:
                ended.append(i)
        for i in ended:
            end[i] = now
            for other in graph.next_flows[graph.next_offsets[i] : graph.next_offsets[i + 1]]:
                waits[other] -= 1
                if waits[other] == 0:
                    ready[other] = now + graph.seconds[other]
    return begin, end
