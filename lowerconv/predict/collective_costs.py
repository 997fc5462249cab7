"""What the messages of collectives cost, on any number of ranks: from a measurement on a few.

Every algorithm of `lowerconv.parallel.comm.collectives` is a sequence of messages that follow each
other.  Which part of the array each has is recorded from the algorithm itself (`network.rounds`);
what is measured of a kind of link, seconds by size, gives a latency for each message and seconds
for each byte.

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
from operator import itemgetter

import numpy as np

from lowerconv.predict.network.collectives import COLLECTIVES
from lowerconv.predict.network.rounds import rounds_of
from lowerconv.predict.replay import Message

MOST_MESSAGES = 64  # of a sum that is replayed: more of them are taken together
SENDS_AS = {"library": "halving-doubling"}  # taken to be so: nothing is known of its messages
# Not measured: two levels where all ranks are alike; the others, of which `direct` consists.
COSTS_AS = {"two-level": "ring"} | dict.fromkeys(
    ("all-gather", "reduce-scatter", "broadcast", "reduce"), "direct"
)


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
    """Return the messages of a collective: each with how often it is sent, one after the other.

    Raises
    ------
    ValueError
        There is no such algorithm.
    """
    name = SENDS_AS.get(algorithm, algorithm)
    if name not in COLLECTIVES:
        known = ", ".join((*SENDS_AS, *COLLECTIVES))
        raise ValueError(f"algorithm: got {algorithm!r}, expected one of {known}")
    p = at.ranks
    if p == 1:
        return ()
    # So many bytes can be halved and shared out evenly.
    sizes = Counter(rank // at.per_host for rank in range(p)).values()
    size = math.lcm(p, 1 << p.bit_length(), min(sizes) * at.hosts)
    rounds = rounds_of(name, np.arange(p) // at.per_host, size)
    parts = ((Part(near / size, far / size), times) for near, far, times in rounds)
    return tuple(
        (part, sum(times for _, times in same)) for part, same in groupby(parts, itemgetter(0))
    )


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
        return self.costs.get(algorithm) or self.costs[COSTS_AS.get(algorithm, "ring")]


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


@dataclass(frozen=True)
class Cluster:
    """Where a step is predicted.

    Attributes
    ----------
    at : Placement
    links : Links
    spare : bool
        Whether each rank has a core that its layers leave to messages.
    """

    at: Placement
    links: Links
    spare: bool = False


def _scaled(message: Message, times: int) -> Message:
    if times == 1:
        return message
    return Message(times * message.latency, times * message.wire, times * message.cpu)
