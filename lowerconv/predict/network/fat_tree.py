"""A fat tree: switches in levels, with more and more links towards the top.

Öhring, Ibel, Das, Kumar, "On generalized fat trees" (1995); Zahavi, "D-Mod-K routing providing
non-blocking traffic for shift permutations on real life fat trees" (2010).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from lowerconv.predict.network.topology import LinkGroup, Topology, padded, shape_of


@dataclass(frozen=True)
class FatTree(Topology):
    """Switches in levels; a message goes up as far as it has to, and down again.

    Which of the switches above it takes is its target's number modulo their number: messages to
    different hosts go different ways.

    Parameters
    ----------
    shape : tuple of int
        Children of a switch, from the top level down: ``(16, 8)`` has 16 leaf switches of 8 hosts.
    oversubscription : int
        How many times as many links a switch has to below as to above.
    """

    shape: tuple[int, ...]
    oversubscription: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        expected = "children of each level, such as 16x8"
        object.__setattr__(self, "shape", shape_of("shape", self.shape, 1, expected))
        ratio = self.oversubscription
        if not isinstance(ratio, int) or ratio < 1 or any(e % ratio for e in self.shape[1:]):
            raise ValueError(
                f"oversubscription: got {ratio!r}, expected an integer that divides each of "
                f"{self.shape[1:]}, what the switches below the top have below them"
            )

    @property
    def hosts(self) -> int:
        """The number of hosts."""
        return prod(self.shape)

    @property
    def children(self) -> tuple[int, ...]:
        """Children of a switch of each level, the lowest first."""
        return self.shape[::-1]

    @property
    def parents(self) -> tuple[int, ...]:
        """Parents of a host, of a leaf switch, and so on up."""
        return (1, *(m // self.oversubscription for m in self.children[:-1]))

    def _groups(self) -> list[LinkGroup]:
        groups = []
        for level, parents in enumerate(self.parents):
            # A subtree below this level has as many switches at its top as there are ways up.
            extents = (
                self.hosts // prod(self.children[:level]),
                prod(self.parents[:level]),
                parents,
            )
            name = f"level {level} subtree {{}} switch {{}} port {{}}"
            for way in ("up", "down"):
                groups.append(LinkGroup(f"{name} {way}", extents, self.bandwidth, self.latency))
        return groups

    def _routes(self, sources: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ups: list[np.ndarray] = []
        downs: list[np.ndarray] = []
        size = ways = 1  # hosts below this level, and switches at the top of them
        switch = np.zeros_like(sources)  # which of these
        for level, parents in enumerate(self.parents):
            below = sources // size != targets // size  # their way leads above this level
            port = targets // ways % parents
            for links, ends in ((ups, sources), (downs, targets)):
                first = self.first_links[len(ups) + len(downs)]
                link = first + (ends // size * ways + switch) * parents + port
                links.append(np.where(below, link, -1))
            switch = switch * parents + port
            size, ways = size * self.children[level], ways * parents
        return padded([*ups, *downs[::-1]])
