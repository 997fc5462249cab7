"""Which operand lies in vectors, and how large a register tile is: the cheapest of all that fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import itemgetter

import numpy as np

from lowerconv.codegen import amx
from lowerconv.codegen.amx_check import tiles_work
from lowerconv.codegen.isa import LINE, Isa
from lowerconv.codegen.microkernel import rows_max
from lowerconv.conv import costs
from lowerconv.conv.block_budget import quarter_of_l2
from lowerconv.conv.costs import step_time
from lowerconv.conv.phases import CACHE_SIZE, Convolution, Phase
from lowerconv.conv.window import balanced

CROWDED_STRIDE, CROWD = 2048, 8  # rows in place at such a distance, and so many, share sets of L1
SPLIT_MAX = 4  #       columns that padding sets apart: more would leave too little in a vector
FAR_SHARE = 16  # of a quarter of the L2 cache: results beyond that leave the caches
VECTORS = (1, 2, 3, 4, 6, 8)  # of pixels in a tile


@dataclass(frozen=True)
class Tiling:
    """What fills the vectors of the microkernel, and how large its tiles are.

    Attributes
    ----------
    vectors : {"filters", "pixels", "tiles"}
        Vectors of filters from packed panels and pixels broadcast from the image, or vectors of
        pixels from the image and filters broadcast; or tiles of both, of pixels counted along all
        rows of the result.
    in_place : bool
        Whether filters are read where the caller has them.
    NR : int
        Filters of a panel.
    shapes : tuple of (TH, TW)
        Rows and columns of pixels of a tile, for each phase.
    cost : float
        Estimated; see `conv.costs`.
    gathered : float
        What of it is the gathering of a tile's pixels, which each block of panels does anew.
    at_once : int
        Panels of a block, where they are tiles.
    """

    vectors: str
    in_place: bool
    NR: int
    shapes: tuple[tuple[int, int], ...]
    cost: float
    gathered: float = 0.0
    at_once: int = 0

    @property
    def is_tiled(self) -> bool:
        """Whether sums are in tiles of AMX."""
        return self.vectors == "tiles"

    def walked(self, phase: Phase) -> Phase:
        """Return a phase as its tiles see it: those of AMX take the result as one long row."""
        if not self.is_tiled:
            return phase
        return replace(phase, P=1, Q=phase.P * phase.Q, out_row=phase.P * phase.Q)

    def with_shapes(self, shapes: tuple[tuple[int, int], ...]) -> Tiling:
        """Return the same with other tiles of pixels."""
        return replace(self, shapes=shapes)

    @property
    def name(self) -> str:
        """Name the tiling, as `lowerconv tune` does."""
        tiles = "+".join(f"{TH}x{TW}" for TH, TW in dict.fromkeys(self.shapes))
        where = self.vectors if self.is_tiled else f"{self.vectors} in vectors"
        return f"{where}, {self.NR} filters by {tiles} pixels"


def live_taps(conv: Convolution, phase: Phase, TH: int) -> np.ndarray:
    """Return for (row of tiles, tap) whether any pixel row of the tiles reads the source there.

    Taps that only meet the zeros of the padding are left out of a tile's steps.
    """
    if conv.reads_padding:
        return np.ones((-(-phase.P // TH), len(phase.taps)), bool)
    rows = tuple(row for _, row, _ in phase.taps)
    return _live_rows(phase.P, rows, TH, conv.stride_h, conv.H)


@lru_cache(maxsize=CACHE_SIZE)
def _live_rows(P: int, offsets: tuple[int, ...], TH: int, stride: int, H: int) -> np.ndarray:
    """Return `live_taps`, to be read only."""
    rows = np.arange(-(-P // TH) * TH).reshape(-1, TH)
    at = rows[:, :, None] * stride + np.array(offsets, np.int64)
    inside = (at >= 0) & (at < H) & (rows[:, :, None] < P)
    live = np.asarray(inside.any(axis=1))
    live.flags.writeable = False
    return live


def _row_steps(conv: Convolution, phase: Phase, TH: int) -> tuple[tuple[int, int], ...]:
    """Return numbers of rows of tiles, and the steps of all of them: whole rows, and the last."""
    if conv.reads_padding:
        taps, tiles = len(phase.taps), -(-phase.P // TH)
        return (tiles - 1, conv.C * taps * (tiles - 1)), (1, conv.C * taps)
    rows = tuple(row for _, row, _ in phase.taps)
    whole, last, count = _counted(phase.P, rows, TH, conv.stride_h, conv.H)
    return (count - 1, conv.C * whole), (1, conv.C * last)


@lru_cache(maxsize=CACHE_SIZE)
def _counted(P: int, offsets: tuple[int, ...], TH: int, stride: int, H: int) -> tuple[int, ...]:
    """Return the live taps of all rows of tiles but the last, those of the last, and the rows."""
    live = _live_rows(P, offsets, TH, stride, H).sum(axis=1)
    return int(live[:-1].sum()), int(live[-1:].sum()), len(live)


def _far(conv: Convolution) -> tuple[float, float]:
    """Return the costs of storing a row, and each item of it, of a result beyond the cache."""
    size = conv.groups * conv.K * conv.out_plane * conv.dtype.itemsize
    if size <= FAR_SHARE * quarter_of_l2():
        return 0.0, 0.0
    return costs.FAR_ROW, costs.FAR_LINE * conv.dtype.itemsize / LINE


def _more_loads(MR: int, NV: int) -> float:
    """Return the loads of a step beyond one for two multiply-adds."""
    return max(0.0, MR + NV - MR * NV / 2)


def _piece_counts(extent: int, size: int) -> dict[int, int]:
    """Return the sizes of the parts that `extent` is cut into, and how many have each."""
    parts = {size: extent // size} if extent >= size else {}
    if extent % size:
        parts[extent % size] = parts.get(extent % size, 0) + 1
    return parts


def _filter_shapes(phase: Phase, most: int) -> Iterator[tuple[int, int]]:
    """Yield tiles of at most `most` pixels: parts of a row, or several whole rows."""
    whole = phase.out_column == 1 and phase.out_row == phase.Q
    if most >= phase.Q and whole:
        for TH in {balanced(phase.P, rows) for rows in range(1, most // phase.Q + 1)}:
            yield TH, phase.Q
    else:
        yield 1, balanced(phase.Q, most)


def _filters_cost(
    conv: Convolution,
    isa: Isa,
    phase: Phase,
    shape: tuple[int, int],
    NV: int,
    far: tuple[float, float],
) -> float:
    """Return the cost of the tiles of an image and group, with NV vectors of filters."""
    VL, (TH, TW), (far_row, far_item) = isa.lanes(conv.dtype), shape, far
    whole, end = _row_steps(conv, phase, TH)
    cost = 0.0
    last = phase.P % TH or TH
    for width, columns in _piece_counts(phase.Q, TW).items():
        for NV_, panels in _piece_counts(-(-conv.K // VL), NV).items():
            for height, (rows, steps) in ((TH, whole), (last, end)):
                if not rows:
                    continue
                m = height * width
                loads = costs.LOAD_PACKED * _more_loads(m, NV_)
                one = steps * (step_time(m, NV_, isa) + loads)
                stored = costs.TRANSPOSED * NV_ * -(-m // VL)
                stored += NV_ * VL * (far_row + far_item * m)
                one += rows * (costs.CALL + stored)
                cost += columns * panels * one
    return cost


def _filters(conv: Convolution, isa: Isa, constant: bool) -> Iterator[Tiling]:
    """Yield the tilings with vectors of filters."""
    VL = isa.lanes(conv.dtype)
    vectors, far = -(-conv.K // VL), _far(conv)
    for NV in (1, 2, 3):
        most = rows_max(isa, NV, conv.words("filters"))
        if vectors < NV or not most:
            continue
        total, shapes = 0.0, []
        for phase in conv.phases:
            known = _filter_shapes(phase, most)
            all_costs = ((_filters_cost(conv, isa, phase, s, NV, far), s) for s in known)
            cost, shape = min(all_costs, key=itemgetter(0))
            total += cost
            shapes.append(shape)
        total *= conv.images * conv.groups
        items = conv.groups * conv.K * conv.C * conv.taps
        if not constant:
            total += costs.PACKED * items
        elif items * conv.dtype.itemsize > 4 * quarter_of_l2():
            # The first tile waits for panels that come from beyond L2, faster with a larger tile.
            m = shapes[0][0] * shapes[0][1]
            wait = max(0.0, costs.STREAMED * NV * VL * conv.dtype.itemsize - step_time(m, NV, isa))
            total += items / (NV * VL) * wait
        yield Tiling("filters", False, NV * VL, tuple(shapes), total)


def _panel(conv: Convolution, most: int) -> int:
    """Return NR: at most `most` filters, and whole words of the result."""
    together = conv.filters_per_item
    most = max(together, most // together * together)
    return -(-balanced(conv.K, most) // together) * together


def _pixels(conv: Convolution, isa: Isa, constant: bool) -> Iterator[Tiling]:
    """Yield the tilings with vectors of pixels."""
    if conv.stride_w > SPLIT_MAX:
        return
    VL = isa.lanes(conv.dtype)
    far_row, far_item = _far(conv)
    for NV in VECTORS:
        # More rows than that are more streams from memory than a core follows.
        most = min(isa.rows, rows_max(isa, NV, conv.words("pixels")))
        if conv.word_format and NV > 1 and most < conv.filters_per_item:
            continue
        NR = _panel(conv, most)
        panel_counts = _piece_counts(conv.K, NR)
        stride = conv.C * conv.taps * conv.dtype.itemsize
        same_sets = not conv.transposed and stride % CROWDED_STRIDE == 0
        crowded = costs.CROWDED * NR if same_sets and NR > CROWD else 0.0
        whole_lines = conv.taps == 1 and conv.H * conv.W % VL == 0  # planes, and so all tiles
        unaligned = 0.0 if whole_lines else costs.UNALIGNED
        total, shapes = 0.0, []
        for phase in conv.phases:
            across = -(-phase.Q // VL)
            if across <= NV and phase.out_column == 1:
                TH, TW = balanced(phase.P, max(1, NV // across)), phase.Q
            else:
                TH, TW = 1, min(phase.Q, balanced(across, NV) * VL)
            shapes.append((TH, TW))
            whole, end = _row_steps(conv, phase, TH)
            for width, columns in _piece_counts(phase.Q, TW).items():
                for NR_, panels in panel_counts.items():
                    for height, (rows, steps) in ((TH, whole), (phase.P % TH or TH, end)):
                        if not rows:
                            continue
                        count = height * -(-width // VL)
                        one = steps * (
                            step_time(NR_, count, isa)
                            + unaligned * count
                            + costs.LOAD * _more_loads(NR_, count)
                            + costs.WIDE * max(0, count - 3)
                            + crowded
                        )
                        stored = costs.STORED * NR_ * count * phase.out_column
                        stored += NR_ * height * (far_row + far_item * width)
                        one += rows * (costs.CALL + stored)
                        total += columns * panels * one
        total *= conv.images * conv.groups
        if conv.transposed and not constant:
            total += costs.PACKED * conv.groups * conv.K * conv.C * conv.taps
        yield Tiling("pixels", not conv.transposed, NR, tuple(shapes), total)


def reads_in_place(conv: Convolution) -> bool:
    """Return whether an image is a panel of pixels as it is, for whole tiles."""
    (phase,) = conv.phases
    plain = phase.taps == ((0, 0, 0),) and conv.stride_h == conv.stride_w == 1
    whole = conv.C % amx.SIZE == 0 and conv.H * conv.W % amx.SIZE == 0
    return plain and whole and phase.P * phase.Q == conv.H * conv.W


def is_dense(conv: Convolution) -> bool:
    """Return whether neighbouring pixels read neighbours in memory, whatever their rows."""
    return conv.stride_h == conv.stride_w == 1 and conv.phases[0].Q == conv.W


def _tiles(conv: Convolution, isa: Isa, constant: bool) -> Iterator[Tiling]:
    """Yield the tilings with tiles of AMX."""
    words = conv.words("pixels")
    if words is None or not amx.has_tiles(isa, words) or len(conv.phases) > 1:
        return
    (phase,) = conv.phases
    if phase.out_column > 1 or conv.stride_w > SPLIT_MAX or not tiles_work(isa, words):
        return
    k = -(-conv.C * conv.taps // amx.SIZE)
    filters, pixels = -(-conv.K // amx.SIZE), -(-phase.P * phase.Q // amx.SIZE)
    items = conv.groups * conv.K * conv.C * conv.taps
    size = filters * k * amx.TILE
    for MT, NT in amx.SHAPES:
        if filters < MT or pixels < NT:
            continue
        fits = max(1, 2 * quarter_of_l2() // (MT * k * amx.TILE))
        panels = -(-filters // MT)
        row, from_planes = 0.0, 1
        if not reads_in_place(conv):
            from_planes = 0
            runs = 1.0 if is_dense(conv) else 1 + (amx.SIZE - 1) / phase.Q
            row = runs * conv.taps * (conv.C * costs.GATHERED_ROW + costs.GATHERED_TAP)
        best = None
        for at_once in {panels, balanced(panels, fits)}:
            passes = -(-panels // at_once)
            total = passes * pixels * row
            far = size > 4 * quarter_of_l2()
            for n, columns in _piece_counts(pixels, NT).items():
                for m, some in _piece_counts(filters, MT).items():
                    near = max(costs.TILE * m * n, costs.TILE_LOAD * (m + n))
                    near += costs.TILE_FAR * (m + from_planes * n)
                    first = max(near, costs.TILE_STREAM * m) if far else near
                    streams = columns if at_once * MT * k * amx.TILE > 4 * quarter_of_l2() else 1
                    total += some * k * (columns * near + min(columns, streams) * (first - near))
                    rows = amx.SIZE * m
                    stored = rows * (costs.TILE_ROW + costs.TILE_SUM * n)
                    total += some * columns * (costs.CALL + stored)
            if best is None or total < best[0]:
                best = total, at_once
        assert best is not None
        total = conv.images * conv.groups * best[0]
        if not constant:
            total += costs.PACKED * items
        shape = 1, NT * amx.SIZE
        yield Tiling("tiles", False, MT * amx.SIZE, (shape,), total, NT * row, best[1])


@lru_cache(maxsize=CACHE_SIZE)
def tilings(conv: Convolution, isa: Isa, constant: bool) -> tuple[Tiling, ...]:
    """Return the tilings there are, cheapest first."""
    found = [*_filters(conv, isa, constant), *_pixels(conv, isa, constant)]
    found += _tiles(conv, isa, constant)
    return tuple(sorted(found, key=lambda tiling: tiling.cost))
