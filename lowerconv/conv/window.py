"""How a band of the source lies in memory: in place, or copied with zeros around it."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from lowerconv.codegen.isa import LINE
from lowerconv.conv.phases import Convolution


def balanced(extent: int, most: int) -> int:
    """Return the size of equal parts of `extent`, none above `most`, the last perhaps smaller."""
    return ceil(extent / ceil(extent / most))


@dataclass(frozen=True)
class Window:
    """Where the pixels of a band read the source.

    Attributes
    ----------
    H, W, stride_h, stride_w, itemsize : int
        Of the convolution; bytes of an item.
    padded : bool
        Whether a band is copied: where taps read outside the source, or columns are split.
    split : int
        Segments of a padded row: columns of equal remainder by the stride lie together, so that
        neighbours among the pixels are neighbours in memory.
    left, first_row, last_row : int
        Zeros before a row; source rows that the first and last taps of pixel row 0 read.
    pitch : int
        Items from one row to the next.
    """

    H: int
    W: int
    stride_h: int
    stride_w: int
    itemsize: int
    padded: bool
    split: int
    left: int
    first_row: int
    last_row: int
    pitch: int

    def rows(self, band: int) -> int:
        """Return the rows of the source that a band of pixel rows reads."""
        return (band - 1) * self.stride_h + self.last_row - self.first_row + 1

    def plane(self, band: int) -> int:
        """Return the items from one channel to the next."""
        if not self.padded:
            return self.H * self.W
        # An odd number of lines: successive channels use all sets of the cache.
        lines = -(-self.rows(band) * self.pitch * self.itemsize // LINE)
        return (lines | 1) * LINE // self.itemsize

    def place(self, row: int, column: int) -> int:
        """Return where pixel (0, 0) reads a tap, in items from the beginning of a band."""
        if not self.padded:
            return row * self.pitch + column
        column += self.left
        segment = self.pitch // self.split
        start = (row - self.first_row) * self.pitch
        return start + column % self.split * segment + column // self.split

    @property
    def column_step(self) -> int:
        """Items from one pixel to the next."""
        return 1 if self.split > 1 else self.stride_w


def window(conv: Convolution, split_lanes: int = 0) -> Window:
    """Return the window of a convolution.

    Columns are split by the stride in vectors of `split_lanes` lanes, where that is not 0.
    """
    top, bottom, left, right = conv.reach
    P = max(phase.P for phase in conv.phases)
    Q = max(phase.Q for phase in conv.phases)
    outside = (
        top < 0
        or left < 0
        or (P - 1) * conv.stride_h + bottom >= conv.H
        or (Q - 1) * conv.stride_w + right >= conv.W
    )
    split = conv.stride_w if split_lanes else 1
    if not outside and split == 1:
        return in_place(conv)
    before = -(-max(0, -left) // split) * split
    width = max(before + conv.W, before + (Q - 1) * conv.stride_w + right + 1)
    if split > 1:
        segment = before // split + ceil(conv.W / (split * split_lanes)) * split_lanes
        width = max(width, split * segment)
    return Window(
        *_common(conv),
        padded=True,
        split=split,
        left=before,
        first_row=top,
        last_row=bottom,
        pitch=ceil(width / split) * split,
    )


def in_place(conv: Convolution) -> Window:
    """Return the window of a source that is read where it is."""
    _, bottom, _, _ = conv.reach
    return Window(
        *_common(conv), padded=False, split=1, left=0, first_row=0, last_row=bottom, pitch=conv.W
    )


def _common(conv: Convolution) -> tuple[int, int, int, int, int]:
    """Return the first fields of every window of a convolution."""
    return conv.H, conv.W, conv.stride_h, conv.stride_w, conv.dtype.itemsize
