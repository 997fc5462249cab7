"""A torus of any number of dimensions: 3 as of BlueGene/P, 6 as of Tofu."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from lowerconv.predict.network.topology import LinkGroup, Topology, shape_of


@dataclass(frozen=True)
class Torus(Topology):
    """Each host has a link to its neighbours on both sides in each dimension.

    A message goes along the last dimension first, then along the one before it, each time the
    shorter way around; where both are as long, upwards.  Tofu's six dimensions are
    ``(X, Y, Z, 2, 3, 2)``.

    Parameters
    ----------
    shape : tuple of int
        Extent of each dimension; hosts are counted with the last one fastest.
    """

    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "shape", shape_of("shape", self.shape, 1, "extents, such as 8x8"))

    @property
    def hosts(self) -> int:
        """The number of hosts."""
        return prod(self.shape)

    def _groups(self) -> list[LinkGroup]:
        return [
            LinkGroup(name, (self.hosts, len(self.shape)), self.bandwidth, self.latency)
            for name in ("host {} dimension {} up", "host {} dimension {} down")
        ]

    def _routes(self, sources: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        dimensions = np.arange(len(self.shape))[::-1]  # in the order in which messages take them
        extents = np.array(self.shape)[dimensions]
        strides = np.array([prod(self.shape[d + 1 :]) for d in dimensions])
        begin = sources[:, None] // strides % extents  # (pairs, dimensions): coordinates
        end = targets[:, None] // strides % extents
        upward = (end - begin) % extents
        up = 2 * upward <= extents
        hops = np.where(up, upward, extents - upward)
        # Where a message turns into a dimension, in those taken before it is at its target.
        moved = np.cumsum((end - begin) * strides, axis=1) - (end - begin) * strides
        corner = sources[:, None] + moved - begin * strides  # coordinate 0 of the dimension

        lengths = hops.sum(axis=1)
        leg = np.repeat(np.arange(hops.size), hops.ravel())
        first = np.cumsum(hops.ravel()) - hops.ravel()
        step = np.arange(leg.size) - first[leg]
        upwards, d = up.ravel()[leg], leg % len(extents)
        coordinate = (begin.ravel()[leg] + np.where(upwards, step, -step)) % extents[d]
        host = corner.ravel()[leg] + coordinate * strides[d]
        link = host * len(extents) + dimensions[d]
        return lengths, link + np.where(upwards, 0, self.first_links[1])
