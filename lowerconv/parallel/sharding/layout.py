"""Which channels, features or weights of a whole array a rank has."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lowerconv.data.order import share


@dataclass(frozen=True)
class Segment:
    """A range of channels or features that is divided among the ranks.

    Attributes
    ----------
    begin : int
        Its first item in the whole.
    count, unit : int
        It has `count` channels of `unit` items each: channels that became features stay together.
    """

    begin: int
    count: int
    unit: int = 1

    @property
    def items(self) -> int:
        """How many it has on all ranks together."""
        return self.count * self.unit

    def part(self, rank: int, ranks: int) -> range:
        """Return the items of a rank, by their places in the whole."""
        mine = share(self.count, rank, ranks)
        return range(self.begin + mine.start * self.unit, self.begin + mine.stop * self.unit)


@dataclass(frozen=True)
class Layout:
    """Segments one after the other, that are a whole; of each a rank has its part.

    Two segments on two ranks, of 5 and 3 channels::

        whole   | 0  1  2  3  4 | 5  6  7 |
        rank 0  | 0  1          | 5       |
        rank 1  |       2  3  4 |    6  7 |
    """

    segments: tuple[Segment, ...]

    @classmethod
    def of(cls, count: int) -> Layout:
        """Return the layout of channels that are divided as they come."""
        return cls((Segment(0, count),))

    @property
    def items(self) -> int:
        """How many the whole has."""
        return sum(segment.items for segment in self.segments)

    def size(self, rank: int, ranks: int) -> int:
        """Return how many items a rank has."""
        return sum(len(segment.part(rank, ranks)) for segment in self.segments)

    def runs(self, rank: int, ranks: int) -> np.ndarray:
        """Return where runs of a rank's items are: (segments, 3), here, in the whole, count."""
        found, here = [], 0
        for segment in self.segments:
            part = segment.part(rank, ranks)
            found.append((here, part.start, len(part)))
            here += len(part)
        return np.array(found, np.int64).reshape(-1, 3)

    def index(self, rank: int, ranks: int) -> np.ndarray:
        """Return the places of a rank's items in the whole, ascending."""
        return np.concatenate([np.asarray(s.part(rank, ranks)) for s in self.segments])

    def flattened(self, unit: int) -> Layout:
        """Return the layout with `unit` items in place of each."""
        return Layout(tuple(Segment(s.begin * unit, s.count, s.unit * unit) for s in self.segments))

    def followed_by(self, other: Layout) -> Layout:
        """Return the layout of both, one behind the other."""
        moved = (replace(s, begin=s.begin + self.items) for s in other.segments)
        return Layout((*self.segments, *moved))


@dataclass(frozen=True)
class Samples:
    """Each rank has some of the samples of a batch: its `share`, as in data parallelism."""


SAMPLES = Samples()
