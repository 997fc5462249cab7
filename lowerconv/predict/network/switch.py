"""One switch, to which all hosts are connected."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lowerconv.predict.network.topology import LinkGroup, Topology, number, padded, shape_of


@dataclass(frozen=True)
class Switch(Topology):
    """Each host has a link up to the switch, and one down from it.

    Parameters
    ----------
    shape : tuple of int
        The number of hosts, alone.
    oversubscription : float
        How many times as much all hosts together can send as the switch carries.
    """

    shape: tuple[int, ...]
    oversubscription: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "shape", shape_of("shape", self.shape, 1, "a number of hosts"))
        if len(self.shape) != 1:
            raise ValueError(f"shape: got {self.shape}, expected a number of hosts")
        number("oversubscription", self.oversubscription, "a ratio of at least 1")
        if self.oversubscription < 1:
            raise ValueError(
                f"oversubscription: got {self.oversubscription}, expected a ratio of at least 1"
            )

    @property
    def hosts(self) -> int:
        """The number of hosts."""
        return self.shape[0]

    def _groups(self) -> list[LinkGroup]:
        ends = [
            LinkGroup(name, (self.hosts,), self.bandwidth, self.latency)
            for name in ("host {} up", "host {} down")
        ]
        if self.oversubscription == 1:
            return ends
        whole = self.hosts * self.bandwidth / self.oversubscription
        return [*ends, LinkGroup("switch", (1,), whole, 0.0)]

    def _routes(self, sources: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        up, down = sources, self.hosts + targets
        if self.oversubscription == 1:
            return padded((up, down))
        return padded((up, np.full_like(up, self.first_links[2]), down))
