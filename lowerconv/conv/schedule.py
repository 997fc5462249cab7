"""The schedule of forward and input gradient: how m, n and k are cut, and who does what.

Frozen and pure: what is decided here follows from the problem, the instruction set, the caches and
the NUMA nodes of the threads; `conv.fused.forward` makes the microkernels and the record of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import NamedTuple

from lowerconv.codegen import amx
from lowerconv.codegen.isa import Isa
from lowerconv.conv import costs
from lowerconv.conv.base_schedule import BaseSchedule
from lowerconv.conv.block_budget import quarter_of_l2
from lowerconv.conv.partition import Part, best
from lowerconv.conv.phases import CACHE_SIZE, Convolution
from lowerconv.conv.tiling import Tiling, reads_in_place
from lowerconv.conv.window import Window, balanced, in_place, window

# Times `quarter_of_l2`: packed filters, and beside them a band of the source.
FILTERS_SHARE = 2
BAND_SHARE = 1.25
OFFSET_MAX = 2**31 - 1  # items, that a table of steps can count


class _Blocks(NamedTuple):
    """Channels summed at a time, panels packed at a time, rows of pixels of a band."""

    KC: int
    at_once: int
    band: int


class _Pieces(NamedTuple):
    """Pieces per image, units of a piece (rows of tiles, or tiles), and each worker's parts."""

    per_image: int
    units: int
    parts: tuple[tuple[Part, ...], ...]


@dataclass(frozen=True)
class Schedule(BaseSchedule):
    """All decisions for a convolution.

    Attributes
    ----------
    tiling : Tiling
        Which operand fills vectors, and the tiles of pixels of each phase.
    constant : bool
        Whether filters are packed once and kept.
    window : Window
        Where the pixels of a band read the source.
    KC : int
        Channels summed at a time, all of their taps.
    NC : int
        Filters whose panels are packed at a time.
    band : int
        Rows of pixels of a band; 0 where the source is read in place.
    plane : int
        Items from one channel of the source, or of a padded band, to the next.
    pieces, piece_units : int
        Pieces of an image; rows of tiles of a piece, or tiles where pieces need not be whole rows.
    parts : tuple
        For each worker its parts: panels from and to, counted over all groups, pieces from and to.
    """

    tiling: Tiling
    constant: bool
    window: Window
    KC: int
    NC: int
    band: int
    plane: int
    pieces: int
    piece_units: int
    parts: tuple[tuple[Part, ...], ...]

    @property
    def NR(self) -> int:
        """Filters of a panel."""
        return self.tiling.NR

    @property
    def panels(self) -> int:
        """Panels of a group."""
        return -(-self.conv.K // self.NR)

    @property
    def by_rows(self) -> bool:
        """Whether pieces are whole rows of tiles."""
        return _by_rows(self.conv, self.window)

    @property
    def filter_items(self) -> int:
        """Items of a filter in a panel."""
        k = self.conv.C * self.conv.taps
        return amx.rounded_k(k) if self.tiling.uses_amx else k

    @property
    def gathers(self) -> bool:
        """Whether pixels are gathered into panels, for tiles."""
        return self.tiling.uses_amx and not reads_in_place(self.conv)

    @property
    def workers(self) -> int:
        """Threads that have something to do."""
        return len(self.parts)

    def tiles(self, phase: int) -> int:
        """Return the tiles of an image in a phase."""
        return tiles(self.conv, self.tiling, phase)

    def tiles_per_row(self, phase: int) -> int:
        """Return the tiles of a row of tiles in a phase."""
        return tiles_per_row(self.conv, self.tiling, phase)


def _by_rows(conv: Convolution, view: Window) -> bool:
    """Return whether pieces are rows of tiles, as where they are padded or have phases."""
    return view.padded or len(conv.phases) > 1


def tiles_per_row(conv: Convolution, tiling: Tiling, phase: int) -> int:
    """Return the tiles of a row of tiles in a phase."""
    return -(-tiling.tiled(conv.phases[phase]).Q // tiling.shapes[phase][1])


def tiles(conv: Convolution, tiling: Tiling, phase: int) -> int:
    """Return the tiles of an image in a phase."""
    rows = -(-tiling.tiled(conv.phases[phase]).P // tiling.shapes[phase][0])
    return rows * tiles_per_row(conv, tiling, phase)


@lru_cache(maxsize=CACHE_SIZE)
def make_schedule(
    conv: Convolution, isa: Isa, nodes: tuple[int, ...], tiling: Tiling, constant: bool
) -> Schedule:
    """Decide how to run a convolution with a tiling.

    Raises
    ------
    MemoryError
        A plane of the source has more items than offsets can count.
    """
    view = window(conv, isa.lanes(conv.dtype) if tiling.vectors == "pixels" else 0)
    if tiling.uses_amx:
        view = in_place(conv)
    if view.padded:
        # A band has the same rows of pixels in all phases, so it is cut by the same tiles.
        rows = min(TH for TH, _ in tiling.shapes)
        tiling = tiling.with_shapes(tuple((rows, TW) for _, TW in tiling.shapes))
    blocks = _blocks(conv, isa, tiling, view)
    plane = view.plane(blocks.band)
    if plane * blocks.KC > OFFSET_MAX:
        raise MemoryError(f"fused: a plane of {plane:,} items, offsets count to {OFFSET_MAX:,}")
    pieces = _pieces(conv, isa, nodes, tiling, constant, view, blocks)
    band = pieces.units * tiling.shapes[0][0] if view.padded else 0
    return Schedule(
        conv=conv,
        isa=isa,
        nodes=nodes,
        tiling=tiling,
        constant=constant,
        window=view,
        KC=blocks.KC,
        NC=blocks.at_once * tiling.NR,
        band=band,
        plane=plane,
        pieces=pieces.per_image,
        piece_units=pieces.units,
        parts=pieces.parts,
    )


@lru_cache(maxsize=CACHE_SIZE)
def _channels_at_once(C: int) -> tuple[int, ...]:
    """Return how many of C channels may be summed at a time, all of them first."""
    counts = [*range(1, 65), *(2**i for i in range(7, 31))]
    return tuple(sorted({-(-C // n) for n in counts}, reverse=True))


def _blocks(conv: Convolution, isa: Isa, tiling: Tiling, view: Window) -> _Blocks:
    """Choose the channels summed at a time, the panels packed at a time, and the largest band.

    All of them share the L2 cache.  Every block of panels pads the source again; every block of
    channels but the first adds to what the one before has stored.  Nothing here depends on the
    number of threads, because the sums of each block of channels are rounded when they are stored.
    """
    VL, item = isa.lanes(conv.dtype), conv.dtype.itemsize
    panels = -(-conv.K // tiling.NR)
    if tiling.uses_amx:
        return _Blocks(conv.C, balanced(panels, tiling.at_once), 0)
    P = max(phase.P for phase in conv.phases)
    TH = tiling.shapes[0][0]
    filter_items = int(FILTERS_SHARE * quarter_of_l2()) // item
    band_items = int(BAND_SHARE * quarter_of_l2()) // item
    count = sum(tiles(conv, tiling, i) for i in range(len(conv.phases))) * conv.images
    known, least = _channels_at_once(conv.C), 1
    if conv.word_format and conv.word_format.result != "sums":
        known, least = (conv.C,), conv.C  # sums are rounded where they are stored: never in parts
    cheapest = None
    for channels in known:
        panel = tiling.NR * conv.taps * channels
        if channels > least and (
            (panel > filter_items and not tiling.in_place)
            or max(panel, view.plane(TH) * channels) > OFFSET_MAX
        ):
            continue
        at_once = max(1, min(panels, filter_items // panel))
        passes = -(-panels // at_once)
        blocks = -(-conv.C // channels)
        add = (blocks - 1) * count * panels * costs.added_tile(tiling.NR)
        if cheapest is not None and add >= cheapest[0]:
            break  # with fewer channels it is as much at least
        band = 0
        pad = costs.TOUCH * passes * conv.images * conv.C * conv.H * conv.W / VL
        if view.padded:
            if view.plane(TH) * channels > band_items and channels > least:
                continue
            band = TH
            while band < P and view.plane(band + TH) * channels <= band_items:
                band += TH
            band = min(-(-balanced(P, band) // TH) * TH, band)
            rows = -(-P // band) * view.rows(band)
            pad = passes * conv.images * conv.C * rows * costs.padded_row(view.pitch, VL)
        if cheapest is None or pad + add < cheapest[0]:
            cheapest = pad + add, channels, at_once, band
    assert cheapest is not None  # the fewest channels always pass
    _, KC, at_once, band = cheapest
    return _Blocks(KC, balanced(panels, at_once), band)


def _pieces(
    conv: Convolution,
    isa: Isa,
    nodes: tuple[int, ...],
    tiling: Tiling,
    constant: bool,
    view: Window,
    blocks: _Blocks,
) -> _Pieces:
    """Cut images into pieces, and share out pieces and panels so that they take the least time."""
    threads, VL = len(nodes), isa.lanes(conv.dtype)
    P = max(phase.P for phase in conv.phases)
    TH = tiling.shapes[0][0]
    panels = conv.groups * -(-conv.K // tiling.NR)
    count = max(tiles(conv, tiling, i) for i in range(len(conv.phases)))
    row = max(tiles_per_row(conv, tiling, i) for i in range(len(conv.phases)))
    per_unit = row if _by_rows(conv, view) else 1
    units = ceil(count / per_unit)
    most = blocks.band // TH if view.padded else units
    fewest = ceil(units / most)
    sizes = {ceil(units / min(units, fewest + more)) for more in range(4 * threads)}
    sizes = sizes if conv.images * fewest < 8 * threads else {ceil(units / fewest)}
    ordered = sorted(sizes, reverse=True)
    work = tiling.cost / (conv.images * panels)
    if tiling.uses_amx:  # without what is counted for each piece
        passes = -(-panels // blocks.at_once)
        work = max(0.0, tiling.cost / conv.images - passes * count * tiling.gathered) / panels
    items = tiling.NR * conv.C * conv.taps
    pack = 0.0 if tiling.in_place or constant else costs.PACKED * items
    options = []
    for size in ordered:
        pad = tiling.gathered * size
        if view.padded:
            lines = view.rows(min(size * TH, P))
            pad = conv.C * lines * costs.padded_row(view.pitch, VL)
        options.append((conv.images * ceil(units / size), work * size / units, pad))
    number, parts = best(panels, nodes, blocks.at_once, pack, options)
    size = ordered[number]
    return _Pieces(ceil(units / size), size, tuple(map(tuple, parts)))
