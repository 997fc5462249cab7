"""The schedule of the weight gradient: tiles of taps, blocks, splits of the sum, workers.

dw = dy x': filters are the columns of the product (n), taps of all channels its rows (m), and the
pixels of the batch are summed over (k).  Frozen and pure, as `conv.schedule`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import NamedTuple

from lowerconv.codegen.isa import Isa
from lowerconv.codegen.microkernel import rows_max
from lowerconv.conv import costs
from lowerconv.conv.base_schedule import BaseSchedule
from lowerconv.conv.block_budget import quarter_of_l2
from lowerconv.conv.costs import step_time
from lowerconv.conv.phases import Convolution, forward_convolution, is_product
from lowerconv.conv.problem import ConvProblem
from lowerconv.conv.window import Window, balanced, window
from lowerconv.conv.word_format import WordFormat

# Times `quarter_of_l2`.
PANEL_SHARE = 0.4  #  a panel of transposed dy, long enough that calls of the microkernel are few
PANELS_SHARE = 1.5  # all panels of a block
SUMS_SHARE = 1.0  #   the sums of a block, which every piece adds to
BAND_SHARE = 1.0  #   the padded rows of x
PARTIAL_BYTES = 512 * 1024  # of all splits together
NVS = (1, 2, 3)  # vectors of filters in a tile
ONE_PIECE = 16  # pixels of a batch that are one piece
TASKS = 32  # wanted, so that many cores find work


class TapTile(NamedTuple):
    """A register tile: taps of some channels, by NV vectors of filters."""

    NV: int
    channels: int
    rows: int  #    of the filter
    columns: int  # of the filter


class Pieces(NamedTuple):
    """How the pixels of a batch are cut: bands of rows of an image, or several images."""

    P: int
    Q: int
    flat: bool  #    whether pixels of a flat image count as rows, so that bands are parts of it
    band: int  #     rows
    together: int  # images
    number: int  #   of an image, or of the batch where images are together


@dataclass(frozen=True)
class WeightSchedule(BaseSchedule):
    """All decisions for a weight gradient.

    Attributes
    ----------
    conv : Convolution
        Its C and K have changed places where `channels_in_vectors`.
    window : Window
        Where the pixels of a band read x.
    tile : TapTile
    pieces : Pieces
    R, S : int
        Rows and columns of the filter.
    channels_in_vectors : bool
        Whether channels fill the vectors, so that tiles go to dw as they are: for 1x1 filters at
        stride 1.
    straight : bool
        Whether tiles go straight to dw, because each of their sums is complete at once.
    NC : int
        Filters whose panels of dy are transposed at a time.
    channel_block : int
        Channels of x whose sums are kept at a time.
    splits : int
        Partial sums over the pixels, added in their order at the end.
    workers : int
    """

    window: Window
    tile: TapTile
    pieces: Pieces
    R: int
    S: int
    channels_in_vectors: bool
    straight: bool
    NC: int
    channel_block: int
    splits: int
    workers: int

    @property
    def NR(self) -> int:
        """Filters of a panel."""
        return self.tile.NV * self.VL

    @property
    def taps(self) -> int:
        """Taps of a channel."""
        return self.R * self.S

    @property
    def panels(self) -> int:
        """Panels of a group."""
        return -(-self.conv.K // self.NR)

    @property
    def panel_blocks(self) -> int:
        """Blocks of panels of a group."""
        return -(-self.panels * self.NR // self.NC)

    @property
    def channel_blocks(self) -> int:
        """Blocks of channels of a group."""
        return ceil(self.conv.C / self.channel_block)

    @property
    def dw_items(self) -> int:
        """Items of dw."""
        return self.conv.groups * self.conv.K * self.conv.C * self.taps

    @property
    def plane(self) -> int:
        """Items from one channel of x, or of its padded rows, to the next."""
        return self.window.plane(self.pieces.band)

    @property
    def image_step(self) -> int:
        """Items from one image of x to the next, where they follow each other."""
        return self.conv.groups * self.conv.C * self.conv.H * self.conv.W

    @property
    def needs_offsets(self) -> bool:
        """Whether panels need offsets: where tables leave out rows that only meet the padding."""
        whole = self.pieces.number == 1 or self.pieces.together > 1
        return whole and self.window.padded and self.R > 1 and self.tile.rows == 1


def _parts(extent: int, size: int) -> list[int]:
    """Return the sizes of the parts that `extent` is cut into."""
    return [min(size, extent - begin) for begin in range(0, extent, size)]


def make_weight_schedule(
    problem: ConvProblem,
    isa: Isa,
    nodes: tuple[int, ...],
    NV: int | None = None,
    word_format: WordFormat | None = None,
) -> WeightSchedule:
    """Decide how to run a weight gradient; tiles are NV vectors wide, by default the cheapest."""
    conv = replace(forward_convolution(problem), word_format=word_format)
    R, S = (1, 1) if problem.R * problem.S == 1 else (problem.R, problem.S)
    channels_in_vectors = is_product(problem)
    if channels_in_vectors:
        conv = replace(conv, C=conv.K, K=conv.C)
    (phase,) = conv.phases
    straight = channels_in_vectors or conv.images * phase.P * phase.Q <= ONE_PIECE
    tile = _tile(conv, isa, R, S, straight, NVS if NV is None else (NV,))
    view = window(conv)
    pieces = _pieces(conv, isa, view, tile, straight and not channels_in_vectors)
    quarter = quarter_of_l2() // conv.dtype.itemsize
    NR = tile.NV * isa.lanes(conv.dtype)
    panels = -(-conv.K // NR)
    size = NR * pieces.together * pieces.band * pieces.Q
    at_once = balanced(panels, max(1, min(panels, int(PANELS_SHARE * quarter) // size)))
    rough = WeightSchedule(
        conv=conv,
        isa=isa,
        nodes=nodes,
        window=view,
        tile=tile,
        pieces=pieces,
        R=R,
        S=S,
        channels_in_vectors=channels_in_vectors,
        straight=straight,
        NC=at_once * NR,
        channel_block=conv.C,
        splits=1,
        workers=1,
    )
    return _with_tasks(rough, quarter)


def _tile(
    conv: Convolution, isa: Isa, R: int, S: int, straight: bool, options: tuple[int, ...]
) -> TapTile:
    """Choose the tile: taps of one row of the filter and of some channels, NV vectors."""
    vectors = -(-conv.K // isa.lanes(conv.dtype))
    pixels = conv.phases[0].P * conv.phases[0].Q
    best = None
    for NV in options:
        if vectors < NV and len(options) > 1:
            continue
        shape = _shape(conv.C, R, S, straight, rows_max(isa, NV, conv.words("filters")))
        panels = [NV] * (vectors // NV) + [vectors % NV] * (vectors % NV > 0)
        deep, high, wide = shape
        # Beside its steps a tile is called, begun, and written.
        calls = min(pixels, costs.TAPS_PIXELS_MAX)
        cost = sum(
            step_time(c * r * s, width, isa)
            + (costs.TAPS_CALL + costs.TAPS_VECTOR * c * r * s * width) / calls
            for c in _parts(conv.C, deep)
            for r in _parts(R, high)
            for s in _parts(S, wide)
            for width in panels
        )
        if best is None or cost < best[0]:
            best = cost, TapTile(NV, *shape)
    assert best is not None
    return best[1]


def _shape(channels: int, R: int, S: int, straight: bool, most: int) -> tuple[int, int, int]:
    """Return (channels, rows, columns) of taps that a tile of at most `most` rows holds.

    All are of one row of the filter, so that pixels whose row lies in the padding can be left out.
    But where tiles go straight to dw, taps are neighbours there.
    """
    if straight and most >= R * S:
        return balanced(channels, most // (R * S)), R, S
    if straight and most >= S:
        return 1, balanced(R, most // S), S
    if most >= S and not straight:
        return balanced(channels, most // S), 1, S
    return 1, 1, balanced(S, most)


def _pieces(conv: Convolution, isa: Isa, view: Window, tile: TapTile, at_once: bool) -> Pieces:
    """Cut the pixels of a batch; all of them are one piece where sums have to be complete."""
    (phase,) = conv.phases
    P, Q = phase.P, phase.Q
    flat = P == 1 and not view.padded and conv.stride_w == 1 and conv.H == 1
    if flat:
        P, Q = Q, 1
    quarter = quarter_of_l2() // conv.dtype.itemsize
    pixels = int(PANEL_SHARE * quarter) // (tile.NV * isa.lanes(conv.dtype))
    if at_once:
        pixels = conv.images * P * Q
    band = balanced(P, max(1, min(P, pixels // Q)))
    together = 1
    if band == P:
        together = balanced(conv.images, max(1, pixels // (P * Q)))
    count = -(-conv.images // together) if together > 1 else -(-P // band)
    return Pieces(P, Q, flat, band, together, count)


def _with_tasks(s: WeightSchedule, quarter: int) -> WeightSchedule:
    """Choose the blocks of channels, the splits of the sum, and the workers.

    There are as many splits as a machine of many cores needs, on any machine: their sums are
    rounded, so they must not depend on the number of threads.
    """
    conv, pieces, unit = s.conv, s.pieces, s.tile.channels
    room = int(SUMS_SHARE * quarter) // (s.NC * s.taps)
    if s.window.padded:
        room = min(room, int(BAND_SHARE * quarter) // (s.plane * pieces.together))
    count = pieces.number * (conv.images if pieces.together == 1 else 1)
    largest = max(unit, min(conv.C, room) // unit * unit)
    others = conv.groups * s.panel_blocks
    blocks = ceil(conv.C / largest)
    splits = 1
    if blocks * others < TASKS and (s.channels_in_vectors or not s.straight):
        wanted = ceil(TASKS / (blocks * others))
        most = max(1, min(PARTIAL_BYTES // (s.dw_items * conv.dtype.itemsize), count // 2, wanted))
        splits = 2 ** (most.bit_length() - 1)  # which most numbers of cores divide
    threads = len(s.nodes)

    def busiest(block: int) -> float:
        """Return the time of the worker with most tasks: tiles, and transposing dy for each."""
        tasks = ceil(ceil(conv.C / block) * others * splits / threads)
        row = costs.TASK_ROW / pieces.band / pieces.Q
        return tasks * s.NC * (block * s.taps / s.VL + costs.DY_TRANSPOSED + row)

    sizes = {
        min(largest, ceil(conv.C / parts / unit) * unit)
        for parts in range(1, 4 * threads + blocks + 1)
    }
    block = min(conv.C, min(sorted(sizes, reverse=True), key=busiest))
    workers = max(1, min(threads, ceil(conv.C / block) * others * splits))
    # So little to do that threads would take longer to start.
    if s.dw_items * conv.images * pieces.P * pieces.Q / s.VL < costs.LAUNCH:
        workers = 1
    return replace(s, channel_block=block, splits=splits, workers=workers)
