"""A dragonfly: groups of routers, each router connected to its group, each group to all others.

Kim, Dally, Scott, Abts, "Technology-driven, highly-scalable dragonfly topology" (2008).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from lowerconv.predict.network.topology import LinkGroup, Topology, padded, shape_of


@dataclass(frozen=True)
class Dragonfly(Topology):
    """Groups of routers with hosts; a message takes at most one link between groups.

    Which router of a group is connected to another group is taken in turns: of R routers, number
    ``(d - 1) % R`` is connected to the group d places on.

    Parameters
    ----------
    shape : tuple of int
        Groups, routers of a group and hosts of a router.
    global_bandwidth : float, optional
        Bytes/s of a link between groups; by default as of the others.
    """

    shape: tuple[int, ...]
    global_bandwidth: float = 0.0

    def __post_init__(self) -> None:
        expected = "groups, routers and hosts, such as 9x4x2"
        object.__setattr__(self, "shape", shape_of("shape", self.shape, 3, expected))
        if len(self.shape) != 3:
            raise ValueError(f"shape: got {self.shape}, expected {expected}")
        if self.global_bandwidth == 0:
            object.__setattr__(self, "global_bandwidth", self.bandwidth)
        super().__post_init__()

    @property
    def hosts(self) -> int:
        """The number of hosts."""
        return prod(self.shape)

    def _groups(self) -> list[LinkGroup]:
        groups, routers, _ = self.shape
        return [
            LinkGroup("host {} up", (self.hosts,), self.bandwidth, self.latency),
            LinkGroup("host {} down", (self.hosts,), self.bandwidth, self.latency),
            LinkGroup(
                "group {} router {} to {}",
                (groups, routers, routers),
                self.bandwidth,
                self.latency,
            ),
            LinkGroup("group {} to {}", (groups, groups), self.global_bandwidth, self.latency),
        ]

    def _routes(self, sources: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        groups, routers, below = self.shape
        begin, end = sources // below, targets // below  # routers
        here, there = begin // routers, end // routers  # groups
        away = here != there
        leave = here * routers + np.where(away, (there - here - 1) % groups % routers, 0)
        enter = there * routers + np.where(away, (here - there - 1) % groups % routers, 0)
        leave = np.where(away, leave, end)  # within a group one link leads to the router itself
        _, down, local, between, *_ = self.first_links

        def inside(router: np.ndarray, other: np.ndarray, needed: np.ndarray) -> np.ndarray:
            link = local + router * routers + other % routers
            return np.where(needed & (router != other), link, -1)

        return padded(
            (
                sources,
                inside(begin, leave, np.ones_like(away)),
                np.where(away, between + here * groups + there, -1),
                inside(enter, end, away),
                down + targets,
            )
        )
