"""Collectives of many ranks in few flows, each of which stands for many messages.

A ring of p ranks takes 2 (p - 1) steps of p messages each.  Once it runs, each of its links is busy
all the time: one flow for each stands for all its messages, with the latency of each.  Where ranks
exchange with all others, one distance at a time, some of the distances stand for those around them.
That a rank may be ahead of others is lost: all are done when the last one is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from lowerconv.predict.network.schedule import Schedule

EXACT = 64  # ranks, up to which every distance stands for itself
DISTANCES = 32  # that stand for all others where there are more


class Phase(NamedTuple):
    """Messages between ranks; each rank goes on with the next phase when its own have arrived.

    Attributes
    ----------
    source, target : ndarray, (flows,), int
        Ranks.
    nbytes : ndarray or float
        Of all messages of a flow together.
    messages : ndarray or int
        Messages, one after the other, that a flow stands for.
    added : float
        Bytes that each rank has added up when the phase is over.
    """

    source: np.ndarray
    target: np.ndarray
    nbytes: np.ndarray | float
    messages: np.ndarray | int
    added: float = 0.0


Phases = list[Phase]


def schedule_of(phases: Phases, ranks: int) -> Schedule:
    """Return phases one after the other as a schedule that ends on all ranks at once."""
    each = len(phases) + 1  # stages of a rank
    first = np.arange(ranks) * each
    added = np.zeros((ranks, each))
    for number, phase in enumerate(phases):
        added[:, number + 1] = phase.added
    source = np.concatenate([np.empty(0, np.int64), *(phase.source for phase in phases)])
    target = np.concatenate([np.empty(0, np.int64), *(phase.target for phase in phases)])
    stage = np.repeat(np.arange(len(phases)), [phase.source.size for phase in phases])

    def of_all(name: str) -> np.ndarray:
        values = [np.broadcast_to(getattr(p, name), p.source.shape) for p in phases]
        return np.concatenate([np.empty(0), *values])

    end = ranks * each
    return Schedule(
        first=first,
        last=np.full(ranks, end),
        added=np.append(added.ravel(), 0.0),
        source=source,
        target=target,
        source_stage=first[source] + stage,
        target_stage=first[target] + stage,
        nbytes=of_all("nbytes"),
        messages=of_all("messages"),
        after=np.full(ranks, end),
        before=first + len(phases),
    )


def ring(members: np.ndarray, nbytes: float) -> Phases:
    """Return an allreduce of ranks around a ring."""
    p = members.size
    part = nbytes / p
    right = np.roll(members, -1)
    return [Phase(members, right, 2 * (p - 1) * part, 2 * (p - 1), (p - 1) * part)]


def all_gather(members: np.ndarray, nbytes: float) -> Phases:
    """Return what brings everybody's part to all ranks, around a ring."""
    p = members.size
    return [Phase(members, np.roll(members, -1), (p - 1) * nbytes / p, p - 1)]


def reduce_scatter(members: np.ndarray, nbytes: float) -> Phases:
    """Return what sums each part at its rank: exchanges at each distance, one after the other."""
    p = members.size
    phases = [
        Phase(members, np.roll(members, -distance), count * nbytes / p, count)
        for distance, count in _distances(p)
    ]
    if phases:
        phases[-1] = phases[-1]._replace(added=(p - 1) * nbytes / p)
    return phases


def direct(members: np.ndarray, nbytes: float) -> Phases:
    """Return an allreduce whose parts are summed by one rank each."""
    return [*reduce_scatter(members, nbytes), *all_gather(members, nbytes)]


def broadcast(members: np.ndarray, nbytes: float) -> Phases:
    """Return what brings the first rank's array to all: a part to each, and from each to all."""
    p = members.size
    root, others = np.zeros(p - 1, np.int64), np.arange(1, p)
    distances = np.array(_distances(p))
    source = np.repeat(np.arange(p), len(distances))
    target = (source + np.tile(distances[:, 0], p)) % p
    nbytes_of = np.tile(distances[:, 1], p) * nbytes / p
    kept = target > 0  # the root has all
    scatter = Phase(members[root], members[others], nbytes / p, 1)
    return [scatter, Phase(members[source[kept]], members[target[kept]], nbytes_of[kept], 1)]


def reduce(members: np.ndarray, nbytes: float) -> Phases:
    """Return what sums at the first rank: parts at their ranks, which it gathers."""
    p = members.size
    root, others = np.zeros(p - 1, np.int64), np.arange(1, p)
    return [
        *reduce_scatter(members, nbytes),
        Phase(members[others], members[root], nbytes / p, 1),
    ]


def two_level(hosts: Sequence[Sequence[int]], nbytes: float) -> Phases:
    """Return an allreduce within hosts, in rings between them, and within hosts again."""
    owners = min(map(len, hosts))
    part = nbytes / owners
    most = max(map(len, hosts))
    phases = []
    for distance in range(1, most):
        pairs = [
            (host[r], host[(r + distance) % len(host)])
            for host in hosts
            for r in range(len(host))
            if distance < len(host) and (r + distance) % len(host) < owners
        ]
        phases.append(_exchange(pairs, part))
    if phases:
        phases[-1] = phases[-1]._replace(added=(most - 1) * part)
    if len(hosts) > 1:
        rings = [ring(np.array([host[o] for host in hosts]), part)[0] for o in range(owners)]
        phases.append(
            rings[0]._replace(
                source=np.concatenate([r.source for r in rings]),
                target=np.concatenate([r.target for r in rings]),
            )
        )
    for step in range(most - 1):
        pairs = [
            (host[r], host[(r + 1) % len(host)])
            for host in hosts
            for r in range(len(host))
            if step < len(host) - 1 and (r - step) % len(host) < owners
        ]
        phases.append(_exchange(pairs, part))
    return phases


COMPACT: dict[str, Callable[[np.ndarray, float], Phases]] = {
    "ring": ring,
    "direct": direct,
    "all-gather": all_gather,
    "reduce-scatter": reduce_scatter,
    "broadcast": broadcast,
    "reduce": reduce,
}


def _exchange(pairs: list[tuple[int, int]], nbytes: float) -> Phase:
    """Return one message between each pair of ranks."""
    source, target = np.array(pairs, np.int64).reshape(-1, 2).T
    return Phase(source, target, nbytes, 1)


def _distances(p: int) -> list[tuple[int, int]]:
    """Return some of the distances 1 to p - 1, and for how many each of them stands."""
    count = p - 1 if p <= EXACT else DISTANCES
    bounds = [1 + (p - 1) * i // count for i in range(count + 1)]
    return [((begin + end - 1) // 2, end - begin) for begin, end in pairwise(bounds)]
