"""The collectives that can be simulated, by name, and how long they take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lowerconv.parallel.comm.collectives import (
    ALLREDUCE,
    Routine,
    all_gather,
    broadcast,
    parts,
    reduce,
    reduce_scatter,
)
from lowerconv.parallel.comm.link import Link
from lowerconv.predict.network import compact
from lowerconv.predict.network.flows import RESOLUTION, simulate
from lowerconv.predict.network.graph import GraphBuilder
from lowerconv.predict.network.halving_doubling import halving_doubling
from lowerconv.predict.network.recording import record
from lowerconv.predict.network.schedule import Schedule
from lowerconv.predict.network.topology import Topology

FORMS = ("auto", "full", "compact")
FULL = 96  # ranks: up to so many every message is simulated, unless asked for otherwise


def _reduce_scatter(link: Link, array: np.ndarray) -> Routine:
    pieces = parts(array, link.ranks)
    yield from reduce_scatter(link, pieces, pieces[link.rank])


def _all_gather(link: Link, array: np.ndarray) -> Routine:
    yield from all_gather(link, parts(array, link.ranks))


def _broadcast(link: Link, array: np.ndarray) -> Routine:
    yield from broadcast(link, array, 0)


def _reduce(link: Link, array: np.ndarray) -> Routine:
    yield from reduce(link, array, 0)


# Of what the MPI library does itself nothing is known.
COLLECTIVES: dict[str, Callable[[Link, Any], Routine]] = {
    **{name: allreduce for name, allreduce in ALLREDUCE.items() if name != "library"},
    "reduce-scatter": _reduce_scatter,
    "all-gather": _all_gather,
    "broadcast": _broadcast,
    "reduce": _reduce,
}


def schedule_of(
    name: str,
    ranks: int,
    size: int,
    dtype: Any = np.float32,
    hosts: Sequence[Sequence[int]] | None = None,
    form: str = "auto",
) -> Schedule:
    """Return the messages of a collective.

    Parameters
    ----------
    name : str
        One of `COLLECTIVES`; those with a root have rank 0.
    ranks : int
    size : int
        Items of the array of each rank, which is that of all parts where ranks have parts of one.
    dtype : dtype
    hosts : sequence of sequence of int, optional
        The ranks of each host; by default each has a host of its own.
    form : str
        ``full``: every message, as the engine sends them.  ``compact``: flows that stand for many
        messages, where there are such; ``auto``: so for many ranks.

    Returns
    -------
    Schedule
    """
    if name not in COLLECTIVES:
        raise ValueError(
            f"name: got {name!r}, expected one of {', '.join(COLLECTIVES)}, of which it is known "
            "what they send"
        )
    if form not in FORMS:
        raise ValueError(f"form: got {form!r}, expected one of {', '.join(FORMS)}")
    for argument, value, least in (("ranks", ranks, 1), ("size", size, 0)):
        if value < least:
            raise ValueError(f"{argument}: got {value}, expected at least {least}")
    members = [r for host in hosts or () for r in host]
    if hosts is not None and sorted(members) != list(range(ranks)):
        raise ValueError(f"hosts: got {hosts!r}, expected each of {ranks} ranks once")
    if form == "full" or (form == "auto" and ranks <= FULL) or ranks == 1 or size < ranks:
        return record(COLLECTIVES[name], ranks, size, dtype, hosts)
    if name == "halving-doubling":  # all messages, faster
        return halving_doubling(ranks, size, np.dtype(dtype).itemsize)
    phases = phases_of(name, ranks, size * np.dtype(dtype).itemsize, hosts)
    if phases is None:
        return record(COLLECTIVES[name], ranks, size, dtype, hosts)
    return compact.schedule_of(phases, ranks)


def phases_of(
    name: str, ranks: int, nbytes: int, hosts: Sequence[Sequence[int]] | None = None
) -> compact.Phases | None:
    """Return the flows that stand for many messages; None where there are few messages as it is.

    Parameters
    ----------
    name : str
        One of `COLLECTIVES`.
    ranks, nbytes : int
    hosts : sequence of sequence of int, optional
        As of `schedule_of`.
    """
    if name == "two-level":
        return compact.two_level(hosts or [[r] for r in range(ranks)], float(nbytes))
    make = compact.COMPACT.get(name)
    return None if make is None else make(np.arange(ranks), float(nbytes))


def collective_seconds(
    topology: Topology,
    name: str,
    size: int,
    dtype: Any = np.float32,
    hosts: Sequence[int] | None = None,
    form: str = "auto",
    adding: float = 0.0,
    resolution: float = RESOLUTION,
) -> np.ndarray:
    """Return when each rank is done with a collective that all of them begin at 0.

    Parameters
    ----------
    topology : Topology
    name : str
        One of `COLLECTIVES`.
    size : int
        Items of the array of each rank.
    dtype : dtype
    hosts : sequence of int, optional
        The host of each rank; by default one rank on each host of the topology.
    form : str
        ``full``, ``compact`` or ``auto``, as of `schedule_of`.
    adding : float
        Seconds that it takes to add up a byte.
    resolution : float
        As of `flows.simulate`.

    Returns
    -------
    ndarray, (ranks,), float64
        Seconds.

    Examples
    --------
    A ring of 4 ranks sends its 4,000 bytes in 2 (4 - 1) steps, a quarter at each: 1 ms, and 2 ms
    of latency.

    >>> from lowerconv.predict.network.text import parse_topology
    >>> switch = parse_topology("switch:4,bandwidth=1e6,latency=0.001")
    >>> seconds = collective_seconds(switch, "ring", 1000)
    >>> round(float(seconds.max()), 6)
    0.018
    """
    places = np.arange(topology.hosts) if hosts is None else np.asarray(hosts, np.int64)
    schedule = schedule_of(name, places.size, size, dtype, ranks_of(places), form)
    builder = GraphBuilder(topology)
    done = schedule.add_to(builder, places, adding=adding)
    return simulate(builder.build(), resolution=resolution).end[done]


def ranks_of(hosts: np.ndarray) -> list[list[int]]:
    """Return the ranks of each host, given the host of each rank; hosts as their first ranks."""
    found: dict[int, list[int]] = {}
    for rank, host in enumerate(hosts.tolist()):
        found.setdefault(host, []).append(rank)
    return list(found.values())
