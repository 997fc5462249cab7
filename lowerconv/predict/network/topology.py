"""What a network is made of: hosts, links between them, and the route from one host to another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from math import isfinite, prod
from numbers import Real
from typing import NamedTuple

import numpy as np

PAIRS = 1 << 15  # whose routes are found at a time: temporary arrays stay small


class LinkGroup(NamedTuple):
    """Links of one kind, numbered one after the other.

    Attributes
    ----------
    name : str
        With braces for the position of a link in the group.
    extents : tuple of int
        Links are counted with the last index fastest.
    bandwidth : float
        Bytes/s of each.
    latency : float
        Seconds of each.
    """

    name: str
    extents: tuple[int, ...]
    bandwidth: float
    latency: float


class Routes(NamedTuple):
    """The links of many routes, in the order in which a message takes them.

    Attributes
    ----------
    offsets : ndarray, (routes + 1,), int64
        Route i has ``links[offsets[i] : offsets[i + 1]]``.
    links : ndarray, int32
    """

    offsets: np.ndarray
    links: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Topology(ABC):
    """Hosts and links; each link has one direction, so that a cable is two.

    Parameters
    ----------
    bandwidth : float
        Bytes/s of a link.
    latency : float
        Seconds that a message needs for a link.
    memory_bandwidth : float
        Bytes/s of messages within a host: each host has a link to itself.
    memory_latency : float
        Seconds of a message within a host.
    """

    bandwidth: float = 12.5e9
    latency: float = 5e-7
    memory_bandwidth: float = 1e10
    memory_latency: float = 5e-7

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("bandwidth"):
                number(field.name, value, "bytes/s above 0", above=0)
            elif field.name.endswith("latency"):
                number(field.name, value, "seconds, at least 0")

    @property
    @abstractmethod
    def hosts(self) -> int:
        """The number of hosts."""

    @abstractmethod
    def _groups(self) -> Sequence[LinkGroup]:
        """Return the links between hosts."""

    @abstractmethod
    def _routes(self, sources: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the lengths of routes between different hosts, and their links in turn."""

    @cached_property
    def groups(self) -> tuple[LinkGroup, ...]:
        """All links, those within hosts last."""
        inside = LinkGroup(
            "memory of host {}", (self.hosts,), self.memory_bandwidth, self.memory_latency
        )
        return (*self._groups(), inside)

    @cached_property
    def first_links(self) -> tuple[int, ...]:
        """The number of each group's first link, and the number of all links."""
        counts = [prod(group.extents) for group in self.groups]
        return tuple(sum(counts[:i]) for i in range(len(counts) + 1))

    @property
    def links(self) -> int:
        """The number of links."""
        return self.first_links[-1]

    @cached_property
    def bandwidths(self) -> np.ndarray:
        """Bytes/s of each link, (links,), float64."""
        return np.concatenate([np.full(prod(g.extents), g.bandwidth) for g in self.groups])

    @cached_property
    def latencies(self) -> np.ndarray:
        """Seconds of each link, (links,), float64."""
        return np.concatenate([np.full(prod(g.extents), g.latency) for g in self.groups])

    def link_name(self, link: int) -> str:
        """Return the name of a link."""
        if not 0 <= link < self.links:
            raise ValueError(f"link: got {link}, expected one of 0 to {self.links - 1}")
        group = np.searchsorted(self.first_links, link, side="right") - 1
        _, extents, *_ = self.groups[group]
        position = np.unravel_index(link - self.first_links[group], extents)
        return self.groups[group].name.format(*map(int, position))

    def route(self, source: int, target: int) -> list[int]:
        """Return the links from one host to another; from a host to itself, its memory's."""
        return self.routes(np.array([source]), np.array([target])).links.tolist()

    def routes(self, sources: np.ndarray, targets: np.ndarray) -> Routes:
        """Return the routes of many pairs of hosts.

        Parameters
        ----------
        sources, targets : ndarray, (pairs,), int
            Hosts.

        Returns
        -------
        Routes
            The same at each call, and none longer than need be.
        """
        for name, hosts in (("sources", sources), ("targets", targets)):
            wrong = hosts[(hosts < 0) | (hosts >= self.hosts)]
            if wrong.size:
                raise ValueError(f"{name}: got host {wrong[0]}, expected 0 to {self.hosts - 1}")
        chunks = list(self._chunks(np.asarray(sources, np.int64), np.asarray(targets, np.int64)))
        lengths = np.concatenate([np.zeros(1, np.int64), *(lengths for lengths, _ in chunks)])
        links = np.concatenate([np.empty(0, np.int32), *(links for _, links in chunks)])
        return Routes(np.cumsum(lengths), links)

    def _chunks(
        self, sources: np.ndarray, targets: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield lengths and links of some pairs at a time, those within hosts among them."""
        for begin in range(0, sources.size, PAIRS):
            source, target = sources[begin : begin + PAIRS], targets[begin : begin + PAIRS]
            far = source != target
            lengths = np.ones(source.size, np.int64)
            lengths[far], links = self._routes(source[far], target[far])
            within = np.repeat(~far, lengths)
            both = np.empty(within.size, np.int32)
            both[within] = self.first_links[-2] + source[~far]
            both[~within] = links
            yield lengths, both


def padded(columns: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return lengths and links of routes, given their first links, second links and so on.

    Parameters
    ----------
    columns : sequence of ndarray, (pairs,), int
        -1 where a route has no such link.
    """
    table = np.stack(columns, axis=1)
    there = table >= 0
    return there.sum(axis=1), table[there]


def number(name: str, value: object, expected: str, above: float | None = None) -> None:
    """Raise TypeError or ValueError where an argument is not a finite number in its range."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: got {value!r}, expected a number of {expected}")
    if not isfinite(value) or (value < 0 if above is None else value <= above):
        raise ValueError(f"{name}: got {value}, expected {expected}")


def shape_of(name: str, value: Sequence[int], least: int, what: str) -> tuple[int, ...]:
    """Return a shape as a tuple, each extent of which is 1 at least."""
    shape = tuple(value)
    if len(shape) < least or not all(isinstance(e, int) and e >= 1 for e in shape):
        raise ValueError(f"{name}: got {value!r}, expected {what}")
    return shape
