"""Which rows of images each rank has, and which rows of others its windows reach.

Row o of the result of a convolution is made of the rows of a window of the operand, ``o * stride -
above`` and those that follow.  A rank makes the rows whose windows lie, by and large, on its own
rows.  Those at a seam between two ranks need rows that the other one has, the halo::

    operand      0   1   2   3 | 4   5   6   7       windows of 3 rows, stride 1, 1 row of padding
    result       0   1   2   3 | 4   5   6   7
                             ^   ^
                 reads 2 3 4 |   | reads 3 4 5

Where bounds between ranks lie is said once, in rows of the network's input (`cuts`), and follows
for every value of the network: whatever way leads to a value, its bounds are the same, so that
branches can be added up.  Row i of a value looks at the input around row ``centre + i * step``
(Dumoulin, Visin, "A guide to convolution arithmetic for deep learning" (2016)).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from lowerconv.data.order import share

UNEVEN = 1.1  # times the mean: so much may a rank have of the rows


class RowWindow(NamedTuple):
    """The rows of an operand that a row of the result is made of.

    Attributes
    ----------
    extent, stride : int
        Rows of a window, those that dilation leaves out included, and from one window to the next.
    above, below : int
        Rows of padding; fewer than the extent, so that every window has a row of the image.
    counts_padding : bool
        Whether it matters how much of the padding below the image a window has: a mean divides by
        that.
    """

    extent: int
    stride: int
    above: int
    below: int
    counts_padding: bool = False

    def reads(self, made: range) -> range:
        """Return the rows that rows of the result are made of, those of the padding included."""
        first = made.start * self.stride - self.above
        return range(first, first + (len(made) - 1) * self.stride + self.extent)


class Scale(NamedTuple):
    """Where the rows of a value lie in the input of the network.

    Attributes
    ----------
    step : int
        Rows of the input from one row to the next.
    twice_centre : int
        Twice the place of the middle of row 0: 1 of the input itself.
    """

    step: int = 1
    twice_centre: int = 1

    def through(self, window: RowWindow) -> Scale:
        """Return that of what windows make of the value."""
        middle = self.twice_centre + (window.extent - 1 - 2 * window.above) * self.step
        return Scale(self.step * window.stride, middle)

    def bounds(self, cuts: Sequence[int], count: int) -> list[int]:
        """Return the first row of each rank but the first, of a value of `count` rows."""
        firsts = (-((self.twice_centre - 2 * cut) // (2 * self.step)) for cut in cuts)
        return [min(max(first, 0), count) for first in firsts]


@dataclass(frozen=True)
class Rows:
    """Each rank has some of the rows of a value; those of rank r are ``bounds[r] : bounds[r + 1]``.

    Attributes
    ----------
    bounds : tuple of int
        From 0 to the rows of the whole, ascending.
    scale : Scale
    """

    bounds: tuple[int, ...]
    scale: Scale

    @property
    def ranks(self) -> int:
        """How many ranks there are."""
        return len(self.bounds) - 1

    @property
    def count(self) -> int:
        """How many rows the whole has."""
        return self.bounds[-1]

    @property
    def everywhere(self) -> bool:
        """Whether every rank has a row."""
        return all(first < last for first, last in pairwise(self.bounds))

    def part(self, rank: int) -> range:
        """Return the rows of a rank."""
        return range(self.bounds[rank], self.bounds[rank + 1])

    @property
    def parts(self) -> list[range]:
        """The rows of all ranks."""
        return [self.part(rank) for rank in range(self.ranks)]


class Transfer(NamedTuple):
    """Rows that one rank sends another."""

    source: int
    target: int
    rows: range


class Seam(NamedTuple):
    """Rows of the result at a seam, which are made of rows of several ranks, or of padding.

    Attributes
    ----------
    made : range
        Rows of the result.
    read : range
        Rows of the operand that they are made of; those outside of the image are zeros.
    above, below : int
        Rows of padding that the layer itself adds to these.
    """

    made: range
    read: range
    above: int
    below: int


class Part(NamedTuple):
    """What a rank computes of a layer that has windows: its own part first, then the seams anew.

    Attributes
    ----------
    own, made : range
        Rows of the operand that the rank has, and of the result that it makes.
    above, below : int
        Rows of padding around its own ones, with which the layer makes all of `made`, though those
        at seams without the rows of others.
    seams : tuple of Seam
    """

    own: range
    made: range
    above: int
    below: int
    seams: tuple[Seam, ...]


def row_cuts(height: int, ranks: int, unit: int = 1) -> list[int]:
    """Return the rows of the input where the share of each rank but the first begins.

    Parameters
    ----------
    height : int
        Rows of the input.
    ranks : int
    unit : int
        They are multiples of this: the `Scale.step` of values, whose rows have their seams at the
        same places then. Of half of it, and so on, where shares would differ much.

    Returns
    -------
    list of int
    """
    while True:
        cuts = [(2 * height * r // (ranks * unit) + 1) // 2 * unit for r in range(1, ranks)]
        largest = max(last - first for first, last in pairwise([0, *cuts, height]))
        if unit == 1 or largest * ranks <= UNEVEN * height:
            return cuts
        unit //= 2


def place_rows(scale: Scale, cuts: Sequence[int], count: int) -> Rows:
    """Return the rows of a value of `count` rows that each rank should have."""
    return Rows((0, *scale.bounds(cuts, count), count), scale)


def pass_windows(
    rows: Rows, window: RowWindow, cuts: Sequence[int], count: int
) -> tuple[Rows, Rows] | None:
    """Return which rows each rank makes of those that it has.

    A window has to have a row that its rank has.  Where strides are longer than windows, bounds may
    lie between windows: then rows have to be moved to other ranks before.

    Parameters
    ----------
    rows : Rows
        Of the operand.
    window : RowWindow
    cuts : sequence of int
        As of `row_cuts`.
    count : int
        Rows of the result.

    Returns
    -------
    (Rows, Rows) or None
        Of the operand as it should be, and of the result; None where a rank would have no row.
    """
    scale = rows.scale.through(window)
    firsts, befores = [], []
    for bound, wanted in zip(rows.bounds[1:-1], scale.bounds(cuts, count), strict=True):
        least = (bound + window.above - window.extent) // window.stride + 1
        most = (bound + window.above) // window.stride
        first = min(max(wanted, least), most) if least <= most else wanted
        moved = bound if least <= most else first * window.stride - window.above
        firsts.append(min(max(first, 0), count))
        befores.append(min(max(moved, 0), rows.count))
    made = Rows((0, *firsts, count), scale)
    before = Rows((0, *befores, rows.count), rows.scale)
    return (before, made) if made.everywhere and before.everywhere else None


def part_of(window: RowWindow, own: range, made: range, height: int) -> Part:
    """Return what a rank computes that has some rows of an operand of `height` rows."""
    reads = window.reads(made)
    above, below = max(0, own.start - reads.start), max(0, reads.stop - own.stop)
    # The rows of the result from `first` to `last` need no others.
    first, last = made.start, made.stop
    if own.start > 0:
        first = max(first, -((-own.start - window.above) // window.stride))
    if own.stop < height or (window.counts_padding and reads.stop > height):
        last = min(last, (own.stop + window.above - window.extent) // window.stride + 1)
    if first > last:
        seams = [made]
    else:
        seams = [range(made.start, min(first, made.stop)), range(max(last, made.start), made.stop)]
    return Part(own, made, above, below, tuple(_seam(window, s, height) for s in seams if s))


def _seam(window: RowWindow, made: range, height: int) -> Seam:
    reads = window.reads(made)
    if window.counts_padding:
        return Seam(made, range(reads.start, min(reads.stop, height + window.below)), 0, 0)
    read = range(max(reads.start, 0), min(reads.stop, height))
    return Seam(made, read, read.start - reads.start, reads.stop - read.stop)


def halos(parts: Sequence[Part], height: int) -> list[Transfer]:
    """Return which rows ranks have to send each other for the seams of all of them."""
    found = []
    for target, part in enumerate(parts):
        for seam in part.seams:
            for outside in (
                range(max(seam.read.start, 0), min(seam.read.stop, part.own.start)),
                range(max(seam.read.start, part.own.stop), min(seam.read.stop, height)),
            ):
                for source, other in enumerate(parts):
                    rows = common(outside, other.own)
                    if rows:
                        found.append(Transfer(source, target, rows))
    return found


def moves(before: Rows, after: Rows) -> Iterator[Transfer]:
    """Yield which rows go where when ranks get others than they had, those that stay included."""
    for source, mine in enumerate(before.parts):
        for target, theirs in enumerate(after.parts):
            rows = common(mine, theirs)
            if rows:
                yield Transfer(source, target, rows)


def common(a: range, b: range) -> range:
    """Return what two ranges have in common."""
    first = max(a.start, b.start)
    return range(first, max(first, min(a.stop, b.stop)))


def samples(count: int, ranks: int) -> list[range]:
    """Return which of `count` samples each rank has, where they are shared by samples."""
    return [share(count, rank, ranks) for rank in range(ranks)]
