"""The schedule of ternary convolutions: blocks of pixels, filters of a task, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from lowerconv.codegen.dots import dot_of
from lowerconv.codegen.isa import LINE, Isa
from lowerconv.codegen.ternary import BITS, PAIRS_MAX, PIXEL
from lowerconv.conv import costs
from lowerconv.conv.base_schedule import BaseSchedule
from lowerconv.conv.block_budget import quarter_of_l2
from lowerconv.conv.phases import Convolution
from lowerconv.conv.tiling import Tiling
from lowerconv.conv.window import balanced
from lowerconv.conv.words.filters import PER_WORD

NV_MAX = 8  # vectors of sums, which have registers beside what is loaded
STORED_VECTORS = 4  # vectors of sums that are stored at a time
OFFSET_MAX = 2**31 - 1
TASKS = 4  # of a thread, where there are so many filters


@dataclass(frozen=True)
class TernarySchedule(BaseSchedule):
    """All decisions for a convolution with ternary filters.

    Attributes
    ----------
    remainders : tuple of (int, int)
        Of rows and columns that are read, by the strides: planes of a channel.
    band, columns : int
        Rows and columns of pixels of a block.
    rows, pitch, plane : int
        Rows of a plane of widened pixels, pixels of a row, and of the plane.
    NV : int
        Vectors of pixels of a tile.
    task_filters : int
        Filters of a task.
    workers : int
    """

    remainders: tuple[tuple[int, int], ...]
    band: int
    columns: int
    rows: int
    pitch: int
    plane: int
    NV: int
    task_filters: int
    workers: int

    @property
    def lanes(self) -> int:
        """Pixels of a vector."""
        return self.isa.lanes(PIXEL)

    @property
    def TW(self) -> int:
        """Pixels that are stored at a time."""
        return min(self.columns, STORED_VECTORS * self.VL)

    @property
    def NR(self) -> int:
        """Filters of a word: with `panels`, what `IntegerConv` asks of all schedules."""
        return PER_WORD

    @property
    def panels(self) -> int:
        """Words of filters of a group."""
        return ceil(self.conv.K / PER_WORD)

    @property
    def mask_pairs(self) -> int:
        """Pairs of masks of a filter."""
        return ceil(self.conv.C * PER_WORD * self.conv.taps / BITS)

    @property
    def bands(self) -> int:
        """Blocks of an image, one below the other."""
        return ceil(self.conv.phases[0].P / self.band)

    @property
    def column_blocks(self) -> int:
        """Blocks of an image, side by side."""
        return ceil(self.conv.phases[0].Q / self.columns)

    @property
    def filter_blocks(self) -> int:
        """Tasks of a block."""
        return ceil(self.conv.K / self.task_filters)

    def pixels(self, band: int, columns: int) -> int:
        """Return the pixels of a block that are summed."""
        return (band - 1) * self.pitch + columns

    @property
    def sums_row(self) -> int:
        """Sums of a filter in a block, in whole vectors."""
        return ceil(self.pixels(self.band, self.columns) / self.lanes) * self.lanes

    @property
    def pixel_bytes(self) -> int:
        """Bytes of a block's widened pixels, and of what the last tile reads beyond."""
        items = self.conv.C * PER_WORD * len(self.remainders) * self.plane
        return ceil((items + self.NV * self.lanes) * PIXEL.itemsize / LINE) * LINE

    def cost(self, nonzero: int) -> float:
        """Return the estimated cost, in the unit of `conv.costs`.

        Parameters
        ----------
        nonzero : int
            Weights of all filters that are not zero.
        """
        conv, blocks = self.conv, self.bands * self.column_blocks
        vectors = ceil(self.sums_row / self.lanes)
        tiles = ceil(vectors / self.NV)
        walked = nonzero * (vectors * costs.TERNARY_ADD + tiles * costs.TERNARY_WEIGHT)
        calls = conv.groups * conv.K * ceil(self.mask_pairs / PAIRS_MAX)
        called = calls * (tiles * costs.CALL + vectors * costs.TERNARY_SUM)
        words = conv.groups * conv.C * len(self.remainders) * self.plane / self.VL
        pieces = self.band * ceil(self.columns / self.TW)
        stored = (
            conv.groups
            * self.panels
            * pieces
            * (costs.CALL + PER_WORD * STORED_VECTORS * costs.STORED)
        )
        return conv.images * blocks * (walked + called + words * costs.TERNARY_WIDEN + stored)


def make_ternary_schedule(conv: Convolution, isa: Isa, nodes: tuple[int, ...]) -> TernarySchedule:
    """Decide how to run a convolution of words with ternary filters.

    Raises
    ------
    MemoryError
        What a block of pixels reads has more bytes than offsets can count.
    """
    (phase,) = conv.phases
    top, bottom, left, right = conv.reach
    down, across = conv.stride_h, conv.stride_w
    places = {((row - top) % down, (column - left) % across) for _, row, column in phase.taps}
    more_rows, more_columns = (bottom - top) // down, (right - left) // across
    planes = conv.C * PER_WORD * len(places)
    most = quarter_of_l2() // PIXEL.itemsize // planes
    stored = min(phase.Q, STORED_VECTORS * isa.lanes(conv.dtype))
    columns = phase.Q
    if (1 + more_rows) * (columns + more_columns) > most:
        fit = most // (1 + more_rows) - more_columns
        columns = min(columns, max(stored, fit // stored * stored))
    pitch = columns + more_columns
    band = balanced(phase.P, max(1, min(phase.P, most // pitch - more_rows)))
    lanes, line = isa.lanes(PIXEL), LINE // PIXEL.itemsize
    rows = band + more_rows
    pixels = (band - 1) * pitch + columns
    vectors = ceil(pixels / lanes)
    blocks = conv.images * conv.groups * ceil(phase.P / band) * ceil(phase.Q / columns)
    parts = ceil(TASKS * len(nodes) / blocks) if len(nodes) > 1 else 1
    sums_fit = quarter_of_l2() // (4 * vectors * lanes)  # filters
    words = max(1, min(sums_fit // PER_WORD, ceil(conv.K / parts / PER_WORD)))
    task_filters = words * PER_WORD
    tasks = blocks * ceil(conv.K / task_filters)
    weights = conv.K * conv.C * PER_WORD * conv.taps // 2  # about so many are not zero
    work = blocks * weights * vectors * costs.TERNARY_ADD
    # Behind the last row is room for what widening writes beyond.
    plane = (ceil((rows * pitch + isa.lanes(conv.dtype)) / line) | 1) * line
    if planes * plane * PIXEL.itemsize > OFFSET_MAX:
        raise MemoryError(
            f"ternary: {planes} planes of {plane:,} pixels, offsets count to {OFFSET_MAX:,} bytes"
        )
    return TernarySchedule(
        conv=conv,
        isa=isa,
        nodes=nodes,
        remainders=tuple(sorted(places)),
        band=band,
        columns=columns,
        rows=rows,
        pitch=pitch,
        plane=plane,
        NV=balanced(vectors, NV_MAX),
        task_filters=task_filters,
        workers=max(1, min(len(nodes), tasks)) if work > costs.LAUNCH else 1,
    )


def is_ternary_cheaper(conv: Convolution, isa: Isa, tiling: Tiling, nonzero: int | None) -> bool:
    """Return whether to skip zeros is estimated to cost less than products of bytes.

    Parameters
    ----------
    conv : Convolution
    isa : Isa
    tiling : Tiling
        Of the products.
    nonzero : int or None
        Weights that are not zero; None where they are not ternary.
    """
    if nonzero is None:
        return False
    try:
        schedule = make_ternary_schedule(conv, isa, (0,))
    except MemoryError:
        return False
    dot = dot_of(isa, conv.words("filters" if tiling.vectors == "filters" else "pixels"))
    part = costs.PRODUCT_WIDENED_512 if isa.bits >= 512 else costs.PRODUCT_WIDENED
    products = tiling.cost * (1 if dot.fused(isa) else part * dot.parts)
    return schedule.cost(nonzero) < products
