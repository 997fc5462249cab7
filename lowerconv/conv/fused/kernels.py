"""The microkernels of forward and input gradient, and the tables of the steps that they take."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from lowerconv.codegen.activation import Activation
from lowerconv.codegen.dots import Words
from lowerconv.codegen.isa import Isa
from lowerconv.codegen.microkernel import Microkernel
from lowerconv.codegen.microkernel_bf16 import Bf16Microkernel
from lowerconv.codegen.microkernel_requantize import RequantizingMicrokernel
from lowerconv.conv.block_budget import quarter_of_l2
from lowerconv.conv.phases import CACHE_SIZE
from lowerconv.conv.schedule import Schedule
from lowerconv.conv.tiling import skips_taps

L1_SHARE = 32 * 1024  # bytes that this tile's pixels and the next one's may take
PREFETCH_STEPS = 32  # steps that packed filters are prefetched ahead: a page of 4 KiB


class _Product(NamedTuple):
    """What kernels multiply, and make of their sums: a key beside the tile's."""

    isa: Isa
    dtype: np.dtype
    words: Words | None
    result: str  #     as of `WordFormat`; "sums" where they are stored as they are
    residual: bool
    activation: Activation


class _Steps(NamedTuple):
    """How a kernel with filters in vectors goes through its operands, in items."""

    row: int  #     of the source, from one row of pixels to the next
    column: int  #  likewise, from one column to the next
    filters: int | None  # from one step to the next; None where a table has offsets
    prefetch: int  # that filters are prefetched ahead


Made = tuple[Microkernel, int]  # a kernel and its address


def _make(product: _Product, **tile: Any) -> Made:
    """Return a kernel of some tile."""
    isa, dtype, words, result, residual, activation = product
    kernel: Microkernel
    if result == "sums":
        kernel = Microkernel(isa, dtype, **tile, words=words, activation=activation)
    elif result == "bf16":
        kernel = Bf16Microkernel(isa, dtype, **tile, words=words, activation=activation)
    else:
        tile |= {"words": words, "result": result, "residual": residual}
        kernel = RequantizingMicrokernel(isa, dtype, **tile)
    return kernel, kernel.address()


def kernels_of(
    s: Schedule, number: int, sizes: Iterable[tuple[int, int, int]], activation: Activation
) -> dict[tuple[int, int, int], Made]:
    """Return the kernels of a phase, each of NR filters and height x width pixels."""
    conv, out_column, word_format = s.conv, s.conv.phases[number].out_column, s.conv.word_format
    results = ("sums", False) if word_format is None else (word_format.result, word_format.residual)
    words = conv.words("filters" if s.tiling.vectors == "filters" else "pixels")
    product = _Product(s.isa, conv.dtype, words, *results, activation)
    found: dict[tuple[int, int, int], Made] = {}
    if s.tiling.uses_amx:
        for size in sizes:
            found[size] = _tile_kernel(product, size[0], size[2], s.NR)
        return found
    needs_offsets = _needs_offsets(s, number)
    if s.tiling.vectors == "filters":
        filter_step, in_place = None if needs_offsets else s.NR, not s.window.padded
        for size in sizes:
            NR, *pixels = size
            row_step = conv.stride_h * s.window.pitch if pixels[0] > 1 else 0
            steps = _Steps(row_step, conv.stride_w, filter_step, PREFETCH_STEPS * s.NR)
            found[size] = _filter_kernel(product, NR, tuple(pixels), out_column, in_place, steps)
        return found
    ld_filters, step = (conv.C * conv.taps, 1) if s.tiling.in_place else (1, s.NR)
    filters = ld_filters, None if needs_offsets else step
    prefetches, VL = _prefetches_pixels(s, number), s.VL
    for size in sizes:
        NR, height, width = size
        across, rest = -(-width // VL), width % VL
        if s.isa.masks:
            rest = min(1, rest)  # how many lanes is said at run time
        shape = height, across, rest
        found[size] = _pixel_kernel(product, NR, shape, out_column, prefetches, filters)
    return found


@lru_cache(maxsize=CACHE_SIZE)
def _filter_kernel(
    product: _Product,
    NR: int,
    shape: tuple[int, int],
    out_column: int,
    in_place: bool,
    steps: _Steps,
) -> Made:
    """Return the kernel with vectors of NR filters and (height, width) pixels broadcast."""
    height, width = shape
    return _make(
        product,
        rows=tuple(i * steps.row + j * steps.column for i in range(height) for j in range(width)),
        columns=tuple(range(0, NR, product.isa.lanes(product.dtype))),
        broadcast_step=None,
        vector_step=steps.filters,
        store="columns",
        pixel_step=out_column,
        prefetch_pixels=width * steps.column if in_place else 0,
        prefetch_vectors=steps.prefetch,
    )


@lru_cache(maxsize=CACHE_SIZE)
def _pixel_kernel(
    product: _Product,
    NR: int,
    shape: tuple[int, int, int],
    out_column: int,
    prefetches: bool,
    filters: tuple[int, int | None],
) -> Made:
    """Return the kernel with vectors of pixels and NR filters broadcast.

    `shape` is rows of pixels, vectors of a row, and lanes of the last vector of a row: 0 for all of
    them, 1 where masks say at run time how many.  `filters` is items from one filter to the next,
    and from one step to the next: None where a table has offsets.
    """
    height, across, rest = shape
    ld_filters, broadcast_step = filters
    masks, VL = product.isa.masks, product.isa.lanes(product.dtype)
    row = tuple(range(0, across * VL, VL))
    several = height > 1
    return _make(
        product,
        rows=tuple(i * ld_filters for i in range(NR)),
        columns=row * height,
        broadcast_step=broadcast_step,
        vector_step=None,
        store="rows",
        lanes=((VL,) * (across - 1) + (rest,)) * height if rest and not masks else (),
        tail=bool(rest) and masks,
        pixel_rows=tuple(i for i in range(height) for _ in row) if several else (),
        pixel_step=out_column,
        prefetch_pixels=across * VL if prefetches else 0,
        vector_places=tuple(j * out_column for j in row) * height if several else (),
    )


@lru_cache(maxsize=CACHE_SIZE)
def _tile_kernel(product: _Product, NR: int, width: int, panel: int) -> Made:
    """Return the kernel on AMX tiles, of NR filters of a panel by `width` neighbouring pixels."""
    VL = product.isa.lanes(product.dtype)
    return _make(
        product,
        rows=tuple(range(NR)),
        columns=tuple(range(0, width, VL)),
        broadcast_step=panel * VL,
        vector_step=None,
        store="rows",
        tail=width % VL > 0,
        uses_amx=True,
    )


def _prefetches_pixels(s: Schedule, number: int) -> bool:
    """Return whether kernels prefetch the pixels of the next tile.

    Every panel of filters asks for them again.  Beside the pixels of this tile they have to stay in
    L1; where they do not, asking is worth it only for what comes from beyond L2.
    """
    conv, width = s.conv, s.tiling.shapes[number][1]
    item = conv.dtype.itemsize
    stays = 2 * s.KC * width * item <= L1_SHARE
    far = conv.groups * conv.C * conv.H * conv.W * item > 4 * quarter_of_l2()
    return not s.window.padded and (stays or far)


def _needs_offsets(s: Schedule, number: int) -> bool:
    """Return whether panels need offsets: where steps leave out some of the filter's taps."""
    conv, phase = s.conv, s.conv.phases[number]
    if len(phase.taps) < conv.taps:
        return True
    return skips_taps(conv, phase, s.tiling.shapes[number][0])


def steps_table(s: Schedule, number: int, live: tuple[int, ...]) -> np.ndarray:
    """Return the offsets of the steps (channel, live tap) in the source.

    Where panels need offsets too, they are pairs: that of the vectors first.
    """
    conv = s.conv
    taps = [conv.phases[number].taps[i] for i in live]
    channel = np.arange(s.KC)[:, None]
    where = np.array([s.window.place(row, column) for _, row, column in taps], np.int64)
    source = channel * s.plane + where
    if not _needs_offsets(s, number):
        return np.ascontiguousarray(source, np.int32)
    step = 1 if s.tiling.in_place else s.NR
    filters = (channel * conv.taps + np.array([tap for tap, _, _ in taps], np.int64)) * step
    pair = [source, filters] if s.tiling.vectors == "pixels" else [filters, source]
    return np.ascontiguousarray(np.stack(pair, axis=-1), np.int32)
