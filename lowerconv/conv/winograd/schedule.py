"""The schedule of Winograd's convolution, forward and input gradient: panels, pieces, workers.

Frozen and pure, as `conv.schedule`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

from lowerconv.codegen.isa import LINE, Isa
from lowerconv.codegen.microkernel import rows_max
from lowerconv.codegen.transforms import ALPHA, POINTS_2D, TILE
from lowerconv.conv import costs
from lowerconv.conv.base_schedule import BaseSchedule
from lowerconv.conv.block_budget import quarter_of_l2
from lowerconv.conv.costs import step_time
from lowerconv.conv.partition import Part, best
from lowerconv.conv.phases import CACHE_SIZE, Convolution
from lowerconv.conv.window import balanced

TILES = 48  #      of a piece at most
SHARED_BYTES = 12 * 2**20  # of transformed filters; more are transformed by who needs them
BLOCK_SHARE = 2.4  # of a quarter of the L2 cache: the filters transformed at a time


@dataclass(frozen=True)
class Piece:
    """How the tiles of all images are cut: several images, rows of tiles, or parts of a row."""

    together: int
    band: int
    segment: int

    @property
    def tiles(self) -> int:
        """Tiles of the largest piece."""
        return self.together * self.band * self.segment


def _pieces(images: int, down: int, across: int) -> Iterator[Piece]:
    """Yield the ways to cut images of `down` x `across` tiles."""
    if across > TILES:
        for most in (TILES, TILES // 2, TILES // 4):
            yield Piece(1, 1, balanced(across, most))
        return
    for most in sorted({balanced(down, rows) for rows in range(1, min(down, TILES // across) + 1)}):
        yield Piece(1, most, across)
    for most in range(2, min(images, TILES // (down * across)) + 1):
        yield Piece(balanced(images, most), down, across)


@dataclass(frozen=True)
class TileSchedule(BaseSchedule):
    """All decisions for a convolution.

    Attributes
    ----------
    constant : bool
        Whether filters are transformed once and kept.
    shares : bool
        Whether filters are transformed once for all workers, else by each for its pieces.
    KC : int
        Channels multiplied at a time.
    NV : int
        Vectors of filters of a panel.
    piece : Piece
    parts : tuple
        For each worker its parts: panels from and to, counted over all groups, pieces from and to.
    cost : float
        Of all work, in one thread; see `conv.costs`.
    """

    constant: bool
    shares: bool
    KC: int
    NV: int
    piece: Piece
    parts: tuple[tuple[Part, ...], ...]
    cost: float

    @property
    def NR(self) -> int:
        """Filters of a panel."""
        return self.NV * self.VL

    @property
    def MR(self) -> int:
        """Tiles of a microkernel."""
        return balanced(self.piece.tiles, rows_max(self.isa, self.NV))

    @property
    def panels(self) -> int:
        """Panels of a group."""
        return ceil(self.conv.K / self.NR)

    @property
    def P(self) -> int:
        """Rows of the result."""
        return self.conv.phases[0].P

    @property
    def Q(self) -> int:
        """Columns of the result."""
        return self.conv.phases[0].Q

    @property
    def down(self) -> int:
        """Rows of tiles of an image."""
        return ceil(self.P / TILE)

    @property
    def across(self) -> int:
        """Tiles of a row."""
        return ceil(self.Q / TILE)

    @property
    def workers(self) -> int:
        """Threads that have something to do."""
        return len(self.parts)


def odd_lines(items: int, itemsize: int) -> int:
    """Return a distance of an odd number of cache lines, so that points use all sets of a cache."""
    return (ceil(items * itemsize / LINE) | 1) * LINE // itemsize


@lru_cache(maxsize=CACHE_SIZE)
def make_tile_schedule(
    conv: Convolution, isa: Isa, nodes: tuple[int, ...], constant: bool
) -> TileSchedule:
    """Choose the panels, pieces and workers that take the least time.

    Blocks of channels depend on nothing but the problem, because their sums are rounded.
    """
    VL, item = isa.lanes(conv.dtype), conv.dtype.itemsize
    (phase,) = conv.phases
    down, across = ceil(phase.P / TILE), ceil(phase.Q / TILE)
    vectors = ceil(conv.K / VL)
    shared = POINTS_2D * conv.C * conv.K * conv.groups * item
    # So few tiles that filters are used only once: they need not leave the core's cache.
    once = conv.images * down * across <= TILES
    shares = shared <= SHARED_BYTES and (constant or not once)
    KC = conv.C
    if once or shared > SHARED_BYTES:
        most = int(BLOCK_SHARE * quarter_of_l2()) // (POINTS_2D * 2 * VL * item)
        KC = ceil(balanced(conv.C, max(VL, most)) / VL) * VL
    shapes = list(dict.fromkeys(_pieces(conv.images, down, across)))
    found = None
    for NV in (1, 2, 3):
        if vectors < NV:
            continue
        panels = ceil(vectors / NV)
        times = _Times(conv, isa, constant, shares, KC, NV)
        options = [times.of(piece) for piece in shapes]
        number, parts = best(conv.groups * panels, nodes, panels, 0.0, options)
        pieces, work, transform = options[number]
        total = pieces * conv.groups * (panels * work + transform)
        if found is None or total < found.cost:
            found = TileSchedule(
                conv=conv,
                isa=isa,
                nodes=nodes,
                constant=constant,
                shares=shares,
                KC=KC,
                NV=NV,
                piece=shapes[number],
                parts=tuple(map(tuple, parts)),
                cost=total,
            )
    assert found is not None
    return found


@dataclass(frozen=True)
class _Times:
    """What a piece takes, with panels of NV vectors."""

    conv: Convolution
    isa: Isa
    constant: bool
    shares: bool
    KC: int
    NV: int

    def of(self, piece: Piece) -> tuple[int, float, float]:
        """Return the pieces, and the times of one: of each panel, and of V."""
        conv, isa, NV = self.conv, self.isa, self.NV
        VL, item = isa.lanes(conv.dtype), conv.dtype.itemsize
        (phase,) = conv.phases
        down, across = ceil(phase.P / TILE), ceil(phase.Q / TILE)
        number = ceil(conv.images / piece.together) * ceil(down / piece.band)
        number *= ceil(across / piece.segment)
        tiles = conv.images * down * across / number  # of the average piece
        MR = balanced(piece.tiles, rows_max(isa, NV))
        blocks = ceil(conv.C / self.KC)
        calls = POINTS_2D * tiles / MR
        call = costs.CALL + costs.STORED * MR * NV
        multiply = calls * (conv.C * step_time(MR, NV, isa) + blocks * call)
        pixels = conv.images * phase.P * phase.Q / number
        back = NV * (tiles * costs.WINOGRAD_TARGET + pixels / VL * costs.WINOGRAD_MOVED)
        V = POINTS_2D * ceil(conv.C / VL) * VL * piece.tiles * item
        U = POINTS_2D * conv.C * NV * VL * item
        products = POINTS_2D * piece.tiles * NV * VL * item
        shared = POINTS_2D * conv.C * conv.K * conv.groups * item
        L2 = 4 * quarter_of_l2()
        far = 0.0
        if self.constant and self.shares:
            filters = 0.0
        elif self.shares:
            filters = conv.C * NV * costs.WINOGRAD_FILTERS / number  # each piece's share
        else:
            filters = conv.C * NV * costs.WINOGRAD_FILTERS
        if self.shares and shared + V + products > L2:
            far += U
        if V + products + (0 if self.shares else BLOCK_SHARE / 4 * L2) > L2:
            far += V
        rows = TILE * piece.band + ALPHA - TILE
        columns = min(conv.W, TILE * piece.segment + 2)
        source = rows * columns * piece.together / VL * costs.WINOGRAD_MOVED
        transform = ceil(conv.C / VL) * (tiles * costs.WINOGRAD_SOURCE + source)
        return number, max(multiply, costs.WINOGRAD_FAR * far) + back + filters, transform
