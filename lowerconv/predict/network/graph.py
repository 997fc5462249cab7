"""Flows between hosts of a topology, put together part by part."""

from __future__ import annotations

import numpy as np

from lowerconv.codegen.compiled import njit
from lowerconv.copying import not_copied
from lowerconv.predict.network.flows import FlowGraph
from lowerconv.predict.network.topology import Topology


@not_copied("build the graph, which can be copied")
class GraphBuilder:
    """Flows and what they wait for, as they are added.

    Parameters
    ----------
    topology : Topology
    by_latency : bool
        Whether messages share a link as those of TCP do, in inverse proportion to the latencies of
        their routes; by default all have the same share of it.

    Attributes
    ----------
    size : int
        Flows so far; the numbers of flows count from 0.
    """

    def __init__(self, topology: Topology, *, by_latency: bool = False) -> None:
        self.topology, self.by_latency = topology, by_latency
        self.size = 0
        self._seconds: list[np.ndarray] = []
        self._nbytes: list[np.ndarray] = []
        self._messages: list[np.ndarray] = []
        self._pairs: list[np.ndarray] = []
        self._before: list[np.ndarray] = []
        self._after: list[np.ndarray] = []

    def compute(self, seconds: np.ndarray) -> np.ndarray:
        """Add flows without bytes; return their numbers.

        Parameters
        ----------
        seconds : ndarray, (flows,)
            That each takes, once those that it waits for have ended; 0: it only waits.

        Returns
        -------
        ndarray, (flows,), int32
        """
        none = np.zeros(len(seconds), np.int32)
        return self._add(np.asarray(seconds, np.float64), none, none - 1, none)

    def send(
        self,
        sources: np.ndarray,
        targets: np.ndarray,
        nbytes: np.ndarray,
        messages: np.ndarray | int = 1,
        seconds: np.ndarray | float = 0.0,
    ) -> np.ndarray:
        """Add flows between hosts; return their numbers.

        Parameters
        ----------
        sources, targets : ndarray, (flows,), int
            Hosts.
        nbytes : ndarray, (flows,)
        messages : ndarray or int
            How many messages, one after the other, each stands for: so often it has the latency
            of its route.
        seconds : ndarray or float
            Computation before each.

        Returns
        -------
        ndarray, (flows,), int32
        """
        pairs = np.asarray(sources, np.int64) * self.topology.hosts + targets
        seconds = np.broadcast_to(np.asarray(seconds, np.float64), pairs.shape)
        return self._add(seconds, nbytes, pairs, messages)

    def _add(
        self,
        seconds: np.ndarray,
        nbytes: np.ndarray,
        pairs: np.ndarray,
        messages: np.ndarray | int,
    ) -> np.ndarray:
        count = seconds.size
        self._seconds.append(seconds)
        self._nbytes.append(np.asarray(nbytes, np.float64))
        self._pairs.append(np.asarray(pairs, np.int64))
        self._messages.append(np.broadcast_to(np.asarray(messages, np.int32), (count,)))
        self.size += count
        return np.arange(self.size - count, self.size, dtype=np.int32)

    def wait(self, after: np.ndarray, before: np.ndarray) -> None:
        """Let flows wait for others.

        Parameters
        ----------
        after, before : ndarray, int
            ``after[i]`` may begin when ``before[i]`` has ended, and all others that it waits for.
        """
        after, before = np.broadcast_arrays(after, before)
        self._after.append(np.asarray(after, np.int32).ravel())
        self._before.append(np.asarray(before, np.int32).ravel())

    def build(self) -> FlowGraph:
        """Return the graph of all flows that have been added."""
        nothing = np.empty(0, np.int32)
        pairs = np.concatenate([nothing, *self._pairs])
        nbytes = np.concatenate([nothing, *self._nbytes])
        seconds = np.concatenate([nothing, *self._seconds])
        sent = np.flatnonzero(pairs >= 0)
        hosts = self.topology.hosts
        different, routes_of = np.unique(pairs[sent], return_inverse=True)
        routes = self.topology.routes(different // hosts, different % hosts)
        weights = np.ones(different.size)
        if routes.links.size:
            latencies = np.add.reduceat(self.topology.latencies[routes.links], routes.offsets[:-1])
            messages = np.concatenate(self._messages)[sent]
            seconds[sent] += messages * latencies[routes_of]
            if self.by_latency and latencies.min() > 0:
                weights = latencies.min() / latencies
        numbers = np.full(pairs.size, -1, np.int32)
        numbers[sent] = routes_of
        before = np.concatenate([nothing, *self._before])
        after = np.concatenate([nothing, *self._after])
        waits = np.bincount(after, minlength=pairs.size).astype(np.int32)
        offsets = np.zeros(pairs.size + 1, np.int64)
        np.cumsum(np.bincount(before, minlength=pairs.size), out=offsets[1:])
        following = _grouped(offsets[:-1].copy(), before, after)
        return FlowGraph(
            seconds,
            nbytes,
            numbers,
            waits,
            offsets,
            following,
            routes,
            self.topology.bandwidths,
            weights,
        )


@njit(cache=True, nogil=True)
def _grouped(places, before, after):
    """Return `after` in the order of `before`, whose groups begin at `places`."""
    grouped = np.empty_like(after)
    for i in range(before.size):
        grouped[places[before[i]]] = after[i]
        places[before[i]] += 1
    return grouped
