"""The register tiles that fit a convolution, and their costs: vectors of either operand, or AMX."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple

from lowerconv.codegen import amx
from lowerconv.codegen.amx_check import tiles_work
from lowerconv.codegen.isa import LINE, Isa
from lowerconv.codegen.microkernel import rows_max
from lowerconv.conv import costs
from lowerconv.conv.block_budget import quarter_of_l2
from lowerconv.conv.costs import step_time
from lowerconv.conv.phases import CACHE_SIZE, Convolution, Phase
from lowerconv.conv.tiling import Tiling, is_dense, reads_in_place, row_steps
from lowerconv.conv.window import balanced
from lowerconv.conv.word_format import WordFormat

CROWDED_STRIDE, CROWD = 2048, 8  # rows in place at such a distance, and so many, share sets of L1
SPLIT_MAX = 4  #       columns that padding sets apart: more would leave too little in a vector
FAR_SHARE = 16  # of a quarter of the L2 cache: results beyond that leave the caches
VECTORS = (1, 2, 3, 4, 6, 8)  # of pixels in a tile


def _far(conv: Convolution) -> tuple[float, float]:
    """Return what a row, and each item of it, costs more to store where caches are too small."""
    size = conv.groups * conv.K * conv.out_plane * conv.dtype.itemsize
    if size <= FAR_SHARE * quarter_of_l2():
        return 0.0, 0.0
    return costs.FAR_ROW, costs.FAR_LINE * conv.dtype.itemsize / LINE


def _more_loads(MR: int, NV: int) -> float:
    """Return how many loads a step has beyond one for every two multiply-adds."""
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
    whole, end = row_steps(conv, phase, TH)
    cost = 0.0
    last = phase.P % TH or TH
    for width, columns in _piece_counts(phase.Q, TW):
        for NV_, panels in _piece_counts(-(-conv.K // VL), NV):
            for height, (rows, steps) in ((TH, whole), (last, end)):
                if not rows:
                    continue
                m = height * width
                one = steps * _filter_step(m, NV_, isa)
                stored = costs.TRANSPOSED * NV_ * -(-m // VL)
                stored += NV_ * VL * (far_row + far_item * m)
                one += rows * (costs.CALL + stored)
                cost += columns * panels * one
    return cost


def _filter_tilings(conv: Convolution, isa: Isa, constant: bool) -> Iterator[Tiling]:
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


def _panel(K: int, together: int, most: int) -> int:
    """Return NR for K filters: about `most`, a multiple of `together`, the filters of a word."""
    most = max(together, most // together * together)
    return -(-balanced(K, most) // together) * together


@lru_cache(maxsize=CACHE_SIZE)
def _filter_step(m: int, NV: int, isa: Isa) -> float:
    """Return the time of a step of a tile of m pixels by NV vectors of filters."""
    return step_time(m, NV, isa) + costs.LOAD_PACKED * _more_loads(m, NV)


@lru_cache(maxsize=4 * CACHE_SIZE)
def _pixel_step(NR: int, count: int, unaligned: float, crowded: float, isa: Isa) -> float:
    """Return the time of a step of a tile of NR filters by `count` vectors of pixels."""
    return (
        step_time(NR, count, isa)
        + unaligned * count
        + costs.LOAD * _more_loads(NR, count)
        + costs.WIDE * max(0, count - 3)
        + crowded
    )


class _PixelPanels(NamedTuple):
    """Filters beside vectors of pixels: what is the same for images of all sizes."""

    NV: int
    NR: int
    counts: tuple[tuple[int, int], ...]  # of panels, by their filters
    crowded: float


@lru_cache(maxsize=CACHE_SIZE)
def _pixel_panels(
    K: int, stride: int, in_place: bool, word_format: WordFormat | None, isa: Isa
) -> tuple[_PixelPanels, ...]:
    """Return the panels for each number of vectors; `stride` is bytes from filter to filter."""
    words = word_format.words("pixels") if word_format else None
    together = word_format.filters_per_item if word_format else 1
    same_sets = in_place and stride % CROWDED_STRIDE == 0
    found = []
    for NV in VECTORS:
        # More rows than `isa.rows` are more streams from memory than a core follows.
        most = min(isa.rows, rows_max(isa, NV, words))
        if word_format and NV > 1 and most < together:
            continue
        NR = _panel(K, together, most)
        crowded = costs.CROWDED * NR if same_sets and NR > CROWD else 0.0
        found.append(_PixelPanels(NV, NR, _piece_counts(K, NR), crowded))
    return tuple(found)


def _pixel_shape(phase: Phase, NV: int, VL: int) -> tuple[int, int]:
    """Return a tile of at most NV vectors of pixels: a part of a row, or several whole rows."""
    across = -(-phase.Q // VL)
    if across <= NV and phase.out_column == 1:
        return balanced(phase.P, max(1, NV // across)), phase.Q
    return 1, min(phase.Q, balanced(across, NV) * VL)


def _pixel_costs(
    conv: Convolution,
    isa: Isa,
    phase: Phase,
    shape: tuple[int, int],
    panels: _PixelPanels,
    far: tuple[float, float],
) -> Iterator[float]:
    """Yield the costs of the tiles of an image and group, with vectors of pixels, by their size."""
    VL, (TH, TW), (far_row, far_item) = isa.lanes(conv.dtype), shape, far
    whole_lines = conv.taps == 1 and conv.H * conv.W % VL == 0  # planes, and so all tiles
    unaligned = 0.0 if whole_lines else costs.UNALIGNED
    whole, end = row_steps(conv, phase, TH)
    heights = ((TH, whole), (phase.P % TH or TH, end))[0 if whole[0] else 1 :]
    for width, columns in _piece_counts(phase.Q, TW):
        for NR, count in panels.counts:
            for height, (rows, steps) in heights:
                NV = height * -(-width // VL)
                one = steps * _pixel_step(NR, NV, unaligned, panels.crowded, isa)
                stored = costs.STORED * NR * NV * phase.out_column
                stored += NR * height * (far_row + far_item * width)
                one += rows * (costs.CALL + stored)
                yield columns * count * one


def _pixel_tilings(conv: Convolution, isa: Isa, constant: bool) -> Iterator[Tiling]:
    """Yield the tilings with vectors of pixels."""
    if conv.stride_w > SPLIT_MAX:
        return
    VL, far = isa.lanes(conv.dtype), _far(conv)
    in_place, stride = not conv.transposed, conv.C * conv.taps * conv.dtype.itemsize
    for panels in _pixel_panels(conv.K, stride, in_place, conv.word_format, isa):
        shapes = tuple(_pixel_shape(phase, panels.NV, VL) for phase in conv.phases)
        total = 0.0
        for phase, shape in zip(conv.phases, shapes, strict=True):
            for cost in _pixel_costs(conv, isa, phase, shape, panels, far):
                total += cost
        total *= conv.images * conv.groups
        if not in_place and not constant:
            total += costs.PACKED * conv.groups * conv.K * conv.C * conv.taps
        yield Tiling("pixels", in_place, panels.NR, shapes, total)


class _AmxExtents(NamedTuple):
    """What tiles of AMX cover, in tiles, and what it takes to gather pixels for them."""

    k: int
    filters: int
    pixels: int
    gathered: float  # a tile of pixels, all of k; 0 where images are read in place


def _amx_extents(conv: Convolution) -> _AmxExtents:
    """Return the extents of a convolution of one phase."""
    (phase,) = conv.phases
    gathered = 0.0
    if not reads_in_place(conv):
        runs = 1.0 if is_dense(conv) else 1 + (amx.SIZE - 1) / phase.Q
        gathered = runs * conv.taps * (conv.C * costs.GATHERED_ROW + costs.GATHERED_TAP)
    return _AmxExtents(
        k=-(-conv.C * conv.taps // amx.SIZE),
        filters=-(-conv.K // amx.SIZE),
        pixels=-(-phase.P * phase.Q // amx.SIZE),
        gathered=gathered,
    )


def _amx_cost(of: _AmxExtents, MT: int, NT: int, at_once: int) -> float:
    """Return the cost of an image and group, with MT x NT tiles and blocks of so many panels."""
    L2 = 4 * quarter_of_l2()
    panels = -(-of.filters // MT)
    total = -(-panels // at_once) * of.pixels * of.gathered
    filters_far = of.filters * of.k * amx.TILE > L2
    block_far = at_once * MT * of.k * amx.TILE > L2
    for n, columns in _piece_counts(of.pixels, NT):
        for m, rows in _piece_counts(of.filters, MT):
            near = max(costs.TILE * m * n, costs.TILE_LOAD * (m + n))
            near += costs.TILE_FAR * (m if of.gathered else m + n)
            first = max(near, costs.TILE_STREAM * m) if filters_far else near
            streams = columns if block_far else 1
            total += rows * of.k * (columns * near + min(columns, streams) * (first - near))
            stored = amx.SIZE * m * (costs.TILE_ROW + costs.TILE_SUM * n)
            total += rows * columns * (costs.CALL + stored)
    return total


def _amx_tilings(conv: Convolution, isa: Isa, constant: bool) -> Iterator[Tiling]:
    """Yield the tilings with tiles of AMX."""
    words = conv.words("pixels")
    if words is None or not amx.has_tiles(isa, words) or len(conv.phases) > 1:
        return
    if conv.phases[0].out_column > 1 or conv.stride_w > SPLIT_MAX or not tiles_work(isa, words):
        return
    of = _amx_extents(conv)
    for MT, NT in amx.SHAPES:
        if of.filters < MT or of.pixels < NT:
            continue
        panels = -(-of.filters // MT)
        fits = max(1, 2 * quarter_of_l2() // (MT * of.k * amx.TILE))
        blocks = {panels, balanced(panels, fits)}
        cost, at_once = min(
            ((_amx_cost(of, MT, NT, count), count) for count in blocks), key=itemgetter(0)
        )
        total = conv.images * conv.groups * cost
        if not constant:
            total += costs.PACKED * conv.groups * conv.K * conv.C * conv.taps
        shape = 1, NT * amx.SIZE
        yield Tiling("tiles", False, MT * amx.SIZE, (shape,), total, NT * of.gathered, at_once)


@lru_cache(maxsize=CACHE_SIZE)
def tilings(conv: Convolution, isa: Isa, constant: bool) -> tuple[Tiling, ...]:
    """Return the tilings there are, cheapest first."""
    found = [
        tiling
        for kind in (_filter_tilings, _pixel_tilings, _amx_tilings)
        for tiling in kind(conv, isa, constant)
    ]
    return tuple(sorted(found, key=lambda tiling: tiling.cost))
