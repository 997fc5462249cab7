"""Which operand lies in vectors, and how large a register tile is: the cheapest of all that fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from operator import attrgetter, itemgetter
from typing import NamedTuple

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
from lowerconv.conv.word_format import WordFormat

CROWDED_STRIDE, CROWD = 2048, 8  # rows in place at such a distance, and so many, share sets of L1
SPLIT_MAX = 4  #       columns that padding sets apart: more would leave too little in a vector
FAR_SHARE = 16  # of a quarter of the L2 cache: results beyond that leave the caches
VECTORS = (1, 2, 3, 4, 6, 8)  # of pixels in a tile
_Counted = dict[int, tuple[tuple[int, int, int], ...]]  # of a phase: see `_rows_of_tiles`


class Tiling(NamedTuple):
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
        return self._replace(shapes=shapes)

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
    return _live_rows(phase.P, phase.tap_rows, TH, conv.stride_h, conv.H)


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
    whole, last, count = _counted(phase.P, phase.tap_rows, TH, conv.stride_h, conv.H)
    return (count - 1, conv.C * whole), (1, conv.C * last)


@lru_cache(maxsize=CACHE_SIZE)
def _counted(P: int, offsets: tuple[int, ...], TH: int, stride: int, H: int) -> tuple[int, ...]:
    """Return the live taps of all rows of tiles but the last, those of the last, and the rows."""
    whole, last, count = 0, 0, -(-P // TH)
    for offset in offsets:
        # Rows of pixels from `begin` to `end` read the source there, and so the tiles they are in.
        begin, end = max(0, -(offset // stride)), min(P, (H - 1 - offset) // stride + 1)
        if begin < end:
            in_last = end > (count - 1) * TH
            last += in_last
            whole += (end - 1) // TH - begin // TH + 1 - in_last
    return whole, last, count


def skips_taps(conv: Convolution, phase: Phase, TH: int) -> bool:
    """Return whether `live_taps` are not all."""
    (whole, whole_steps), (last, last_steps) = _row_steps(conv, phase, TH)
    return whole_steps + last_steps < (whole + last) * conv.C * len(phase.taps)


def _far(conv: Convolution) -> tuple[float, float]:
    """Return the costs of storing a row, and each item of it, of a result beyond the cache."""
    size = conv.groups * conv.K * conv.out_plane * conv.dtype.itemsize
    if size <= FAR_SHARE * quarter_of_l2():
        return 0.0, 0.0
    return costs.FAR_ROW, costs.FAR_LINE * conv.dtype.itemsize / LINE


def _more_loads(MR: int, NV: int) -> float:
    """Return the loads of a step beyond one for two multiply-adds."""
    return max(0.0, MR + NV - MR * NV / 2)


def _piece_counts(extent: int, size: int) -> tuple[tuple[int, int], ...]:
    """Return the sizes of the parts that `extent` is cut into, each with their number."""
    whole, rest = divmod(extent, size)
    if not rest:
        return ((size, whole),)
    return ((size, whole), (rest, 1)) if whole else ((rest, 1),)


def _filter_shapes(phase: Phase, most: int) -> Iterator[tuple[int, int]]:
    """Yield tiles of at most `most` pixels: parts of a row, or several whole rows."""
    whole = phase.out_column == 1 and phase.out_row == phase.Q
    if most >= phase.Q and whole:
        for TH in {balanced(phase.P, rows) for rows in range(1, most // phase.Q + 1)}:
            yield TH, phase.Q
    else:
        yield 1, balanced(phase.Q, most)


def _rows_of_tiles(
    conv: Convolution, phase: Phase, TH: int, counted: _Counted
) -> tuple[tuple[int, int, int], ...]:
    """Return heights of tiles with their rows and steps; `counted` has those known before."""
    found = counted.get(TH)
    if found is None:
        whole, last = _row_steps(conv, phase, TH)
        found = counted[TH] = ((TH, *whole), (phase.P % TH or TH, *last))[0 if whole[0] else 1 :]
    return found


def _filters_cost(
    conv: Convolution,
    isa: Isa,
    phase: Phase,
    shape: tuple[int, int],
    NV: int,
    far: tuple[float, float],
    counted: _Counted,
) -> float:
    """Return the cost of the tiles of an image and group, with NV vectors of filters."""
    VL, (TH, TW), (far_row, far_item) = isa.lanes(conv.dtype), shape, far
    rows_of_tiles = _rows_of_tiles(conv, phase, TH, counted)
    cost = 0.0
    for width, columns in _piece_counts(phase.Q, TW):
        for NV_, panels in _piece_counts(-(-conv.K // VL), NV):
            step_times = _filter_steps(NV_, isa)
            for height, rows, steps in rows_of_tiles:
                m = height * width
                one = steps * step_times[m]
                stored = costs.TRANSPOSED * NV_ * -(-m // VL)
                stored += NV_ * VL * (far_row + far_item * m)
                one += rows * (costs.CALL + stored)
                cost += columns * panels * one
    return cost


def _filters(
    conv: Convolution, isa: Isa, constant: bool, counted: list[_Counted]
) -> Iterator[Tiling]:
    """Yield the tilings with vectors of filters."""
    VL = isa.lanes(conv.dtype)
    vectors, far, words = -(-conv.K // VL), _far(conv), conv.words("filters")
    for NV in (1, 2, 3):
        most = rows_max(isa, NV, words)
        if vectors < NV or not most:
            continue
        total, shapes = 0.0, []
        for phase, known in zip(conv.phases, counted, strict=True):
            every = _filter_shapes(phase, most)
            all_costs = ((_filters_cost(conv, isa, phase, s, NV, far, known), s) for s in every)
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


def _panel(K: int, together: int, most: int) -> int:
    """Return the filters of panels of K: at most so many, and whole words of `together`."""
    most = max(together, most // together * together)
    return -(-balanced(K, most) // together) * together


@lru_cache(maxsize=CACHE_SIZE)
def _filter_steps(NV: int, isa: Isa) -> tuple[float, ...]:
    """Return the times of a step of tiles of 0, 1, ... pixels by NV vectors of filters."""
    return tuple(
        step_time(m, NV, isa) + costs.LOAD_PACKED * _more_loads(m, NV)
        for m in range(2 * isa.rows + 1)
    )


class _PixelPanels(NamedTuple):
    """Filters beside vectors of pixels: what is the same for images of all sizes."""

    NV: int
    NR: int
    # The panels, by their filters, with the times of a step of tiles of 0, 1, ... vectors.
    counts: tuple[tuple[int, int, tuple[float, ...]], ...]


@lru_cache(maxsize=CACHE_SIZE)
def _pixel_panels(
    K: int, stride: int, in_place: bool, whole_lines: bool, word_format: WordFormat | None, isa: Isa
) -> tuple[_PixelPanels, ...]:
    """Return the panels for each number of vectors; `stride` is bytes from filter to filter.

    With `whole_lines` all vectors of pixels are lines.
    """
    words = word_format.words("pixels") if word_format else None
    together = word_format.filters_per_item if word_format else 1
    same_sets = in_place and stride % CROWDED_STRIDE == 0
    unaligned = 0.0 if whole_lines else costs.UNALIGNED
    found = []
    for NV in VECTORS:
        # More rows than that are more streams from memory than a core follows.
        most = min(isa.rows, rows_max(isa, NV, words))
        if word_format and NV > 1 and most < together:
            continue
        NR = _panel(K, together, most)
        crowded = costs.CROWDED * NR if same_sets and NR > CROWD else 0.0
        counts = tuple(
            (
                NR_,
                panels,
                tuple(
                    step_time(NR_, count, isa)
                    + unaligned * count
                    + costs.LOAD * _more_loads(NR_, count)
                    + costs.WIDE * max(0, count - 3)
                    + crowded
                    for count in range(NV + 1)
                ),
            )
            for NR_, panels in _piece_counts(K, NR)
        )
        found.append(_PixelPanels(NV, NR, counts))
    return tuple(found)


def _pixels(
    conv: Convolution, isa: Isa, constant: bool, counted: list[_Counted]
) -> Iterator[Tiling]:
    """Yield the tilings with vectors of pixels."""
    if conv.stride_w > SPLIT_MAX:
        return
    VL = isa.lanes(conv.dtype)
    far_row, far_item = _far(conv)
    in_place, stride = not conv.transposed, conv.C * conv.taps * conv.dtype.itemsize
    whole_lines = conv.taps == 1 and conv.H * conv.W % VL == 0  # planes, and so all tiles
    for NV, NR, panel_counts in _pixel_panels(
        conv.K, stride, in_place, whole_lines, conv.word_format, isa
    ):
        total, shapes = 0.0, []
        for phase, known in zip(conv.phases, counted, strict=True):
            across = -(-phase.Q // VL)
            if across <= NV and phase.out_column == 1:
                TH, TW = balanced(phase.P, max(1, NV // across)), phase.Q
            else:
                TH, TW = 1, min(phase.Q, balanced(across, NV) * VL)
            shapes.append((TH, TW))
            rows_of_tiles = _rows_of_tiles(conv, phase, TH, known)
            for width, columns in _piece_counts(phase.Q, TW):
                for NR_, panels, step_times in panel_counts:
                    for height, rows, steps in rows_of_tiles:
                        count = height * -(-width // VL)
                        one = steps * step_times[count]
                        stored = costs.STORED * NR_ * count * phase.out_column
                        stored += NR_ * height * (far_row + far_item * width)
                        one += rows * (costs.CALL + stored)
                        total += columns * panels * one
        total *= conv.images * conv.groups
        if not in_place and not constant:
            total += costs.PACKED * conv.groups * conv.K * conv.C * conv.taps
        yield Tiling("pixels", in_place, NR, tuple(shapes), total)


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
            for n, columns in _piece_counts(pixels, NT):
                for m, some in _piece_counts(filters, MT):
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
    counted: list[_Counted] = [{} for _ in conv.phases]
    found = [*_filters(conv, isa, constant, counted), *_pixels(conv, isa, constant, counted)]
    found += _tiles(conv, isa, constant)
    return tuple(sorted(found, key=attrgetter("cost")))
