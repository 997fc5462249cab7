"""What the messages of each allreduce cost, on any number of ranks: from a measurement on a few.

Every algorithm of `lowerconv.parallel.comm.collectives` is a sequence of messages that follow each
other.  Of each it is known which part of the array it has (`messages_of`); what is measured of a
kind of link, seconds by size, gives a latency for each message and seconds for each byte.

Hockney, "The communication challenge for MPP" (1994); Thakur, Rabenseifner, Gropp, "Optimization of
collective communication operations in MPICH" (2005).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

from lowerconv.parallel.comm.collectives import ALLREDUCE
from lowerconv.predict.replay import Message

MOST_MESSAGES = 64  # of a sum that is replayed: more of them are taken together
LIKE = {"two-level": "ring"}  # not measured where all ranks are alike


@dataclass(frozen=True)
class Placement:
    """Where ranks run: hosts are filled one after the other.

    Attributes
    ----------
    ranks, per_host : int
    """

    ranks: int
    per_host: int

    def __post_init__(self) -> None:
        for name, value in (("ranks", self.ranks), ("per_host", self.per_host)):
            if value < 1:
                raise ValueError(f"{name}: got {value}, expected at least 1")

    @property
    def hosts(self) -> int:
        """How many hosts there are."""
        return -(-self.ranks // self.per_host)

    @property
    def busiest(self) -> int:
        """Ranks of the host that has most."""
        return min(self.ranks, self.per_host)


@dataclass(frozen=True)
class Part:
    """A message of all ranks at the same time, as parts of the array.

    Attributes
    ----------
    near : float
        The largest that a rank sends within its host; 0 without any.
    far : float
        All that the busiest host sends to others; 0 without any.
    """

    near: float
    far: float


@lru_cache(maxsize=1024)
def messages_of(algorithm: str, at: Placement) -> tuple[tuple[Part, int], ...]:
    """Return the messages of an allreduce: each with how often it is sent, one after the other.

    The MPI library's own is taken to be halving and doubling.

    Raises
    ------
    ValueError
        There is no such algorithm.
    """
    if algorithm not in ALLREDUCE:
        raise ValueError(f"allreduce: got {algorithm!r}, expected one of {', '.join(ALLREDUCE)}")
    p = at.ranks
    if p == 1:
        return ()
    around = _shifted(at, 1, 1 / p)
    if algorithm == "ring":
        return ((around, 2 * (p - 1)),)
    if algorithm == "direct":
        scattered = [_shifted(at, i, 1 / p) for i in range(1, p)]
        return (*((part, len(list(same))) for part, same in groupby(scattered)), (around, p - 1))
    if algorithm == "tree":
        up = [_pairs(at, _senders(p, 1 << k), 1.0) for k in range((p - 1).bit_length())]
        return tuple((part, 1) for part in (*up, *reversed(up)))
    if algorithm == "two-level":
        return _two_level(at)
    return _halving_doubling(at)


def _senders(p: int, distance: int) -> list[tuple[int, int]]:
    return [(r, r - distance) for r in range(distance, p, 2 * distance)]


def _halving_doubling(at: Placement) -> tuple[tuple[Part, int], ...]:
    p = at.ranks
    power = 1 << (p.bit_length() - 1)
    extra = p - power

    def real(number: int) -> int:
        return 2 * number + 1 if number < extra else number + extra

    halves, distance, size = [], power // 2, 0.5
    while distance:
        pairs = [(real(me), real(me ^ distance)) for me in range(power)]
        halves.append(_pairs(at, pairs, size))
        distance, size = distance // 2, size / 2
    first = [_pairs(at, [(2 * r, 2 * r + 1) for r in range(extra)], 1.0)] if extra else []
    return tuple((part, 1) for part in (*first, *halves, *reversed(halves), *first))


def _two_level(at: Placement) -> tuple[tuple[Part, int], ...]:
    sizes = [min(at.per_host, at.ranks - h * at.per_host) for h in range(at.hosts)]
    owners = min(sizes)
    near = (Part(1 / owners, 0.0), at.busiest - 1)
    far = (Part(0.0, 1 / at.hosts), 2 * (at.hosts - 1))
    return tuple(part for part in (near, far, near) if part[1])


def _shifted(at: Placement, shift: int, size: float) -> Part:
    """Return the message that each rank sends to the one `shift` further, in a ring."""
    if at.hosts == 1:
        return Part(size, 0.0)
    within = shift < at.busiest or at.ranks - shift < at.busiest
    leaving = min(shift, at.ranks - shift, at.busiest)
    return Part(size if within else 0.0, leaving * size)


def _pairs(at: Placement, pairs: list[tuple[int, int]], size: float) -> Part:
    """Return the message of the first of each pair to the second."""
    hosts = [(a // at.per_host, b // at.per_host) for a, b in pairs]
    leaving = Counter(a for a, b in hosts if a != b)
    near = any(a == b for a, b in hosts)
    return Part(size if near else 0.0, size * max(leaving.values(), default=0))


@dataclass(frozen=True)
class LinkCost:
    """What messages of one algorithm cost on one kind of link.

    Attributes
    ----------
    latency : float
        Seconds of each message.
    byte : float
        Seconds of each byte.
    """

    latency: float
    byte: float


def fit(algorithm: str, at: Placement, seconds: Mapping[int, float]) -> LinkCost:
    """Return what messages cost, of sums that were measured on links of one kind.

    Parameters
    ----------
    algorithm : str
    at : Placement
        Of the ranks of the measurement: all on one host, or each on another.
    seconds : mapping of int to float
        What sums took, by their bytes: a line through the smallest and the largest, which neither
        falls nor begins below 0.
    """
    messages = messages_of(algorithm, at)
    count = sum(times for _, times in messages)
    parts = sum(times * max(part.near, part.far) for part, times in messages)
    small, large = min(seconds), max(seconds)
    slope = 0.0
    if large > small:
        slope = max(0.0, (seconds[large] - seconds[small]) / (large - small))
    start = seconds[small] - slope * small
    if start < 0 or large == small:
        start, slope = 0.0, seconds[large] / large
    return LinkCost(start / count, slope / parts)


@dataclass(frozen=True)
class Link:
    """One kind of link: what each algorithm's messages cost on it, and who is busy meanwhile.

    Attributes
    ----------
    costs : dict of str to LinkCost
        By algorithm.
    busy : float
        The share of a message's time that whoever moves it computes: copying, and adding.
    """

    costs: dict[str, LinkCost]
    busy: float

    def cost(self, algorithm: str) -> LinkCost:
        """Return what messages of an algorithm cost."""
        return self.costs.get(algorithm) or self.costs[LIKE.get(algorithm, "ring")]


@dataclass(frozen=True)
class Links:
    """The links of a cluster: within hosts, and between them.

    Attributes
    ----------
    host, network : Link or None
        None where nothing is known of them.
    """

    host: Link | None = None
    network: Link | None = None

    def check(self, at: Placement) -> None:
        """Raise ValueError where ranks would send on links of which nothing is known."""
        needed = (("host", at.busiest > 1, "of a host"), ("network", at.hosts > 1, "between hosts"))
        for name, used, words in needed:
            if used and getattr(self, name) is None:
                raise ValueError(
                    f"links.{name}: got none with {at.ranks} ranks, {at.busiest} on a host; "
                    f"expected a calibration whose ranks have sent messages {words}"
                )

    def messages(self, algorithm: str, at: Placement, nbytes: int) -> tuple[Message, ...]:
        """Return the messages of a sum of so many bytes; many of them taken together.

        Raises
        ------
        ValueError
            Nothing is known of the links.
        """
        self.check(at)
        found = messages_of(algorithm, at)
        count = sum(times for _, times in found)
        together = max(1, math.ceil(count / MOST_MESSAGES))
        result = []
        for part, times in found:
            message = self.message(algorithm, part, nbytes)
            whole, rest = divmod(times, together)
            result += [_scaled(message, together)] * whole
            if rest:
                result.append(_scaled(message, rest))
        return tuple(result)

    def seconds(self, algorithm: str, at: Placement, nbytes: int) -> float:
        """Return what a sum of so many bytes takes, with nothing else under way.

        Raises
        ------
        ValueError
            Nothing is known of the links.
        """
        self.check(at)
        total = 0.0
        for part, times in messages_of(algorithm, at):
            message = self.message(algorithm, part, nbytes)
            total += times * (message.latency + message.wire + message.cpu)
        return total

    def message(self, algorithm: str, part: Part, nbytes: int) -> Message:
        """Return the slower of the messages that go at the same time, of an array's bytes."""
        candidates = []
        for link, share in ((self.host, part.near), (self.network, part.far)):
            if link is not None and share:
                cost = link.cost(algorithm)
                idle, size = 1 - link.busy, share * nbytes * cost.byte
                cpu = link.busy * (cost.latency + size)
                candidates.append(Message(idle * cost.latency, idle * size, cpu))
        return max(candidates, key=lambda m: m.latency + m.wire + m.cpu)


def _scaled(message: Message, times: int) -> Message:
    if times == 1:
        return message
    return Message(times * message.latency, times * message.wire, times * message.cpu)
