"""Allreduces of the buckets of a step, some of them under way at the same time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lowerconv.parallel.comm.engine import AT_ONCE
from lowerconv.predict.network.collectives import ranks_of, schedule_of
from lowerconv.predict.network.flows import RESOLUTION, simulate
from lowerconv.predict.network.graph import GraphBuilder
from lowerconv.predict.network.topology import Topology


class Bucket(NamedTuple):
    """Gradients that are summed together.

    Attributes
    ----------
    size : int
        Items.
    ready : ndarray, (ranks,), or float
        Seconds from the start of the step at which each rank has them.
    """

    size: int
    ready: np.ndarray | float


def sum_buckets(
    topology: Topology,
    buckets: Sequence[Bucket],
    algorithm: str | Callable[[int], str],
    *,
    dtype: Any = np.float32,
    hosts: Sequence[int] | None = None,
    at_once: int = AT_ONCE,
    form: str = "auto",
    adding: float = 0.0,
    resolution: float = RESOLUTION,
) -> np.ndarray:
    """Return when each rank has the sum of each bucket.

    Sums begin in the order of the buckets, as the engine's do that take turns: each when the one
    `at_once` places before it is done on this rank.

    Parameters
    ----------
    topology : Topology
    buckets : sequence of Bucket
    algorithm : str or callable
        Of `collectives.COLLECTIVES`; or what returns it, given the bytes of a bucket.
    dtype : dtype
    hosts : sequence of int, optional
        The host of each rank; by default one rank on each host of the topology.
    at_once : int
        Sums that a rank has under way at most.
    form : str
        As of `collectives.schedule_of`.
    adding : float
        Seconds that it takes to add up a byte.
    resolution : float
        As of `flows.simulate`.

    Returns
    -------
    ndarray, (buckets, ranks), float64
        Seconds from the start of the step.
    """
    if at_once < 1:
        raise ValueError(f"at_once: got {at_once}, expected at least 1")
    places = np.arange(topology.hosts) if hosts is None else np.asarray(hosts, np.int64)
    name_of = algorithm if callable(algorithm) else lambda nbytes: algorithm
    builder = GraphBuilder(topology)
    ends: list[np.ndarray] = []
    for number, bucket in enumerate(buckets):
        ready = np.broadcast_to(np.asarray(bucket.ready, np.float64), places.shape)
        start = builder.compute(np.zeros(places.size))
        builder.wait(start, builder.compute(ready))
        if number >= at_once:
            builder.wait(start, ends[number - at_once])
        name = name_of(bucket.size * np.dtype(dtype).itemsize)
        schedule = schedule_of(name, places.size, bucket.size, dtype, ranks_of(places), form)
        ends.append(schedule.add_to(builder, places, start, adding))
    found = simulate(builder.build(), resolution=resolution).end
    return np.array([found[end] for end in ends]).reshape(len(buckets), places.size)
