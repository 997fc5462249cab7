"""Rates of messages that share links max-min fairly, found again where something has changed.

Rates are fair where each message crosses a link that is full, and on which none is faster: its
bottleneck.  They are found by filling: the link with the least bandwidth for each of its messages
decides their rates, and so on without these.  Bertsekas, Gallager, "Data Networks" (1992), 6.5.2.

A message that begins or ends changes little of a large network.  Filled again are the links that it
crosses, with all messages there, and what they have in common with others through links that are
full: a link that is not full is nobody's bottleneck.  Where a link becomes full only now, those who
cross it join, and it is done once more.

Messages with the same route have the same rate, so what is found are the rates of routes.  Where
routes have weights, a message counts for as many as its weight says, and "fast" and "share" are
rates over weights.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lowerconv.codegen.compiled import internal

FULL = 1e-9  # of its bandwidth may be left of a link that is full: sums are rounded


class Sharing(NamedTuple):
    """Routes, links, and what is known of both.  An entry is one link of one route.

    Attributes
    ----------
    route_offsets, route_links : ndarray
        The links of route r are ``route_links[route_offsets[r] : route_offsets[r + 1]]``; their
        entries have the same numbers.
    entry_routes : ndarray, (entries,)
        The route of each entry.
    link_offsets, link_entries : ndarray
        The entries of link l are ``link_entries[link_offsets[l] : link_offsets[l + 1]]``, those of
        busy routes first.
    entry_places : ndarray, (entries,)
        Where each entry is in `link_entries`.
    busy : ndarray, (links,)
        Busy routes of each link.
    bandwidths : ndarray, (links,)
        Bytes/s.
    weights : ndarray, (routes,)
    used : ndarray, (links,)
        Bytes/s of all messages on each link together.
    messages : ndarray, (routes,)
        Messages under way on each route; it is busy where there are any.
    rates : ndarray, (routes,)
        Bytes/s of each message.
    new_rates : ndarray, (routes,)
        Those of the routes that are filled.
    free, inside, inside_routes : ndarray, (links,)
        What a link has for messages that are filled, their weight, and how many routes they have.
    left, unfixed, unfixed_routes, shares : ndarray, (links,)
        While a link is filled: bytes/s not yet given away, the weight and routes of messages that
        have no rate yet, and what it can give to each.
    link_seen, link_whole, route_seen, route_fixed : ndarray
        Number of the latest filling in which a link takes part; with all of its routes; a route
        takes part; has its rate.
    link_list, whole_list, route_list : ndarray
        Those that do, in the order in which they were found.
    heap : ndarray, (links,)
        Links by their shares.
    """

    route_offsets: np.ndarray
    route_links: np.ndarray
    entry_routes: np.ndarray
    link_offsets: np.ndarray
    link_entries: np.ndarray
    entry_places: np.ndarray
    busy: np.ndarray
    bandwidths: np.ndarray
    weights: np.ndarray
    used: np.ndarray
    messages: np.ndarray
    rates: np.ndarray
    new_rates: np.ndarray
    free: np.ndarray
    inside: np.ndarray
    inside_routes: np.ndarray
    left: np.ndarray
    unfixed: np.ndarray
    unfixed_routes: np.ndarray
    shares: np.ndarray
    link_seen: np.ndarray
    link_whole: np.ndarray
    route_seen: np.ndarray
    route_fixed: np.ndarray
    link_list: np.ndarray
    whole_list: np.ndarray
    route_list: np.ndarray
    heap: np.ndarray


def sharing_of(
    offsets: np.ndarray, links: np.ndarray, bandwidths: np.ndarray, weights: np.ndarray
) -> Sharing:
    """Return routes without any messages."""
    routes, entries, count = offsets.size - 1, links.size, bandwidths.size
    entry_routes = np.repeat(np.arange(routes, dtype=np.int32), np.diff(offsets))
    link_entries = np.argsort(links, kind="stable").astype(np.int32)
    entry_places = np.empty(entries, np.int32)
    entry_places[link_entries] = np.arange(entries, dtype=np.int32)
    link_offsets = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(links, minlength=count), out=link_offsets[1:])

    def numbers(size: int) -> np.ndarray:
        return np.zeros(size, np.int32)

    return Sharing(
        offsets,
        links,
        entry_routes,
        link_offsets,
        link_entries,
        entry_places,
        busy=numbers(count),
        bandwidths=np.asarray(bandwidths, np.float64),
        weights=np.asarray(weights, np.float64),
        used=np.zeros(count),
        messages=numbers(routes),
        rates=np.zeros(routes),
        new_rates=np.zeros(routes),
        free=np.zeros(count),
        inside=np.zeros(count),
        inside_routes=numbers(count),
        left=np.zeros(count),
        unfixed=np.zeros(count),
        unfixed_routes=numbers(count),
        shares=np.zeros(count),
        link_seen=numbers(count),
        link_whole=numbers(count),
        route_seen=numbers(routes),
        route_fixed=numbers(routes),
        link_list=numbers(count),
        whole_list=numbers(count),
        route_list=numbers(routes),
        heap=numbers(count),
    )


@internal
def set_busy(s, route, is_busy):
    """Move the entries of a route among the busy ones of their links, or away from them."""
    for entry in range(s.route_offsets[route], s.route_offsets[route + 1]):
        link = s.route_links[entry]
        if not is_busy:
            s.busy[link] -= 1
        place, border = s.entry_places[entry], s.link_offsets[link] + s.busy[link]
        other = s.link_entries[border]
        s.link_entries[border], s.link_entries[place] = entry, other
        s.entry_places[entry], s.entry_places[other] = border, place
        if is_busy:
            s.busy[link] += 1


@internal
def use(s, route, rate):
    """Let a route use more of its links, in bytes/s; less where `rate` is below 0."""
    for entry in range(s.route_offsets[route], s.route_offsets[route + 1]):
        s.used[s.route_links[entry]] += rate


@internal
def fill(s, turn, changed):
    """Find new rates of all routes that the change of some links may concern.

    Parameters
    ----------
    s : Sharing
    turn : int
        Larger than at any call before.
    changed : int
        Links at the beginning of ``s.whole_list``; their ``link_whole`` is `turn`.

    Returns
    -------
    int
        Routes of ``s.route_list`` that were filled.
    """
    whole, done, links, routes = changed, 0, 0, 0
    while True:
        while done < whole:
            link = s.whole_list[done]
            done += 1
            links = _see(s, turn, link, links)
            first = s.link_offsets[link]
            for place in range(first, first + s.busy[link]):
                route = s.entry_routes[s.link_entries[place]]
                if s.route_seen[route] == turn:
                    continue
                s.route_seen[route] = turn
                s.route_list[routes] = route
                routes += 1
                rate = s.rates[route] * s.messages[route]
                weight = s.weights[route] * s.messages[route]
                for entry in range(s.route_offsets[route], s.route_offsets[route + 1]):
                    other = s.route_links[entry]
                    links = _see(s, turn, other, links)
                    s.free[other] += rate
                    s.inside[other] += weight
                    s.inside_routes[other] += 1
                    nearly = s.bandwidths[other] * (1 - FULL)
                    if s.used[other] >= nearly and s.link_whole[other] != turn:
                        s.link_whole[other] = turn
                        s.whole_list[whole] = other
                        whole += 1
        _fill_free(s, turn, links, routes)
        for i in range(links):
            link = s.link_list[i]
            # Others than those filled cross it, and it may be a bottleneck now: they join.
            if (
                s.left[link] <= FULL * s.bandwidths[link]
                and s.inside_routes[link] < s.busy[link]
                and s.link_whole[link] != turn
            ):
                s.link_whole[link] = turn
                s.whole_list[whole] = link
                whole += 1
        if done == whole:
            break
    for i in range(links):
        link = s.link_list[i]
        s.used[link] = s.bandwidths[link] - s.left[link] if s.busy[link] else 0.0
    return routes


@internal
def _see(s, turn, link, links):
    """Let a link take part; return how many do."""
    if s.link_seen[link] == turn:
        return links
    s.link_seen[link] = turn
    s.free[link] = s.bandwidths[link] - s.used[link]
    s.inside[link] = 0.0
    s.inside_routes[link] = 0
    s.link_list[links] = link
    return links + 1


@internal
def _fill_free(s, turn, links, routes):
    """Give rates to all routes that are filled, link by link, the least share first."""
    for i in range(routes):
        s.route_fixed[s.route_list[i]] = 0
    size = 0
    for i in range(links):
        link = s.link_list[i]
        s.left[link] = max(s.free[link], 0.0)
        s.unfixed[link] = s.inside[link]
        s.unfixed_routes[link] = s.inside_routes[link]
        if s.unfixed_routes[link]:
            s.shares[link] = s.left[link] / s.unfixed[link]
            s.heap[size] = link
            size += 1
    for i in range(size // 2 - 1, -1, -1):
        _sink(s, i, size)
    while routes:
        link = s.heap[0]
        if s.unfixed_routes[link]:
            # Shares only grow as others are given theirs: those in the heap may be out of date.
            share = s.left[link] / s.unfixed[link]
            if share > s.shares[link] * (1 + 1e-12):
                s.shares[link] = share
                _sink(s, 0, size)
                continue
            routes -= _fix(s, turn, link, share)
        size -= 1
        s.heap[0] = s.heap[size]
        _sink(s, 0, size)


@internal
def _fix(s, turn, bottleneck, share):
    """Give a rate to all routes of a link that have none yet; return how many there are."""
    fixed = 0
    first = s.link_offsets[bottleneck]
    for place in range(first, first + s.busy[bottleneck]):
        route = s.entry_routes[s.link_entries[place]]
        if s.route_seen[route] != turn or s.route_fixed[route] == turn:
            continue
        s.route_fixed[route] = turn
        s.new_rates[route] = share * s.weights[route]
        fixed += 1
        weight = s.weights[route] * s.messages[route]
        for entry in range(s.route_offsets[route], s.route_offsets[route + 1]):
            link = s.route_links[entry]
            s.left[link] = max(s.left[link] - share * weight, 0.0)
            s.unfixed[link] -= weight
            s.unfixed_routes[link] -= 1
    return fixed


@internal
def _sink(s, place, size):
    """Move a link of the heap down to where its share belongs."""
    if place >= size:
        return
    link = s.heap[place]
    share = s.shares[link]
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and s.shares[s.heap[child + 1]] < s.shares[s.heap[child]]:
            child += 1
        if s.shares[s.heap[child]] >= share:
            break
        s.heap[place] = s.heap[child]
        place = child
    s.heap[place] = link
