"""The schedule of Winograd's weight gradient: tiles of the sums, batches of tiles, workers.

Frozen and pure, as `conv.schedule`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from lowerconv.codegen.isa import Isa
from lowerconv.codegen.microkernel import rows_max
from lowerconv.codegen.transforms import POINTS_2D, TILE
from lowerconv.conv import costs
from lowerconv.conv.base_schedule import BaseSchedule
from lowerconv.conv.costs import step_time
from lowerconv.conv.phases import forward_convolution
from lowerconv.conv.problem import ConvProblem
from lowerconv.conv.window import balanced

# Bytes of V and Y of a batch: as many as of the sums, which every batch reads and writes again.
BATCH_MIN, BATCH_MAX = 6 * 2**20, 32 * 2**20
UNIT = 64  # tiles that a core transforms at a time, at most


@dataclass(frozen=True)
class SumSchedule(BaseSchedule):
    """All decisions for a weight gradient.

    Attributes
    ----------
    band, segment : int
        Rows of tiles, and tiles of a row, of a unit: what a core transforms at a time.
    units_at_once : int
        Units of a batch.
    MR, NV : int
        Channels, and vectors of filters, of a microkernel.
    workers : int
    cost : float
        Of all work, in one thread; see `conv.costs`.
    """

    band: int
    segment: int
    units_at_once: int
    MR: int
    NV: int
    workers: int
    cost: float

    @property
    def NR(self) -> int:
        """Filters of a panel."""
        return self.NV * self.VL

    @property
    def blocks(self) -> tuple[int, int]:
        """Blocks of VL channels, and of VL filters, of a group."""
        return ceil(self.conv.C / self.VL), ceil(self.conv.K / self.VL)

    @property
    def panels(self) -> int:
        """Panels of a group."""
        return ceil(self.blocks[1] / self.NV)

    @property
    def rows(self) -> int:
        """Channels of a group, in whole tiles of a microkernel."""
        return ceil(self.conv.C / self.MR) * self.MR

    @property
    def down(self) -> int:
        """Rows of tiles of an image."""
        return ceil(self.conv.phases[0].P / TILE)

    @property
    def across(self) -> int:
        """Tiles of a row."""
        return ceil(self.conv.phases[0].Q / TILE)

    @property
    def unit(self) -> int:
        """Tiles of a unit."""
        return self.band * self.segment

    @property
    def units(self) -> int:
        """Units of all images."""
        images = self.conv.images
        return images * ceil(self.down / self.band) * ceil(self.across / self.segment)

    @property
    def room(self) -> int:
        """Tiles of a batch."""
        return self.units_at_once * self.unit


def make_sum_schedule(problem: ConvProblem, isa: Isa, nodes: tuple[int, ...]) -> SumSchedule:
    """Choose units, batches and the tile of the sums.

    Batches do not depend on the number of threads, because their sums are rounded.  They are large,
    so that a microkernel runs long and sums are rarely read and written.
    """
    conv = forward_convolution(problem)
    VL, item = isa.lanes(conv.dtype), conv.dtype.itemsize
    (phase,) = conv.phases
    down, across = ceil(phase.P / TILE), ceil(phase.Q / TILE)
    blocks, vectors = ceil(conv.C / VL), ceil(conv.K / VL)
    segment, band = balanced(across, UNIT), 1
    if segment == across:
        band = balanced(down, max(1, UNIT // across))
    unit = band * segment
    units = conv.images * ceil(down / band) * ceil(across / segment)
    MR = max(rows for rows in (1, 2, 4, 8) if VL % rows == 0 and rows <= rows_max(isa, 2))

    def steps(NV: int) -> float:
        rest = vectors % NV
        last = step_time(MR, rest, isa) if rest else 0.0
        return vectors // NV * step_time(MR, NV, isa) + last

    NV = min((NV for NV in (1, 2, 3) if vectors >= NV and rows_max(isa, NV) >= MR), key=steps)
    panels = ceil(vectors / NV)
    rows = ceil(conv.C / MR) * MR
    sums = POINTS_2D * conv.groups * panels * NV * VL * rows * item
    tile = POINTS_2D * conv.groups * (blocks + vectors) * VL * item
    room = min(max(sums, BATCH_MIN), BATCH_MAX) // tile
    units_at_once = balanced(units, max(1, room // unit))
    batches = ceil(units / units_at_once)
    tiles = units * unit
    pixels = conv.images * (conv.H * conv.W + phase.P * phase.Q)
    transforms = conv.groups * ((blocks + vectors) * tiles * costs.WINOGRAD_SOURCE)
    transforms += conv.groups * max(blocks, vectors) * pixels / VL * costs.WINOGRAD_MOVED
    calls = POINTS_2D * conv.groups * rows / MR
    multiply = tiles * steps(NV)
    multiply += batches * panels * (costs.CALL + 2 * costs.STORED * MR * NV)
    finish = conv.groups * conv.C * vectors * costs.WINOGRAD_FILTERS
    far = costs.WINOGRAD_FAR * (2 * tile * tiles + 2 * sums * batches)
    cost = transforms + max(calls * multiply, far) + finish
    workers = 1
    if cost > 4 * costs.LAUNCH:
        workers = min(len(nodes), POINTS_2D * conv.groups * panels)
    return SumSchedule(
        conv=conv,
        isa=isa,
        nodes=nodes,
        band=band,
        segment=segment,
        units_at_once=units_at_once,
        MR=MR,
        NV=NV,
        workers=workers,
        cost=cost,
    )
