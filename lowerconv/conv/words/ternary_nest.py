"""The loops of ternary convolutions: what one worker does.

::

    for task in tasks of the worker             a block of an image's pixels, and some filters
        widen the block's pixels                to planes of 16 bits, padded; once for all filters
        for tile in tiles of the block          NV vectors of pixels, that stay in L1
            for some weights                    192, whose sums fit 16 bits
                for filter                      `codegen.ternary`: adds and subtracts
        for four filters, row, columns          `codegen.stored_sums`: to words, or float32

A block is pixels of rows that follow each other in memory, `pitch` apart; what lies between their
ends is summed with them, and not stored.  Columns, and rows, that a stride sets apart have planes
of their own, so that a weight reads neighbours for neighbouring pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import carray

from lowerconv.codegen.compiled import internal
from lowerconv.codegen.ranges import inside, share
from lowerconv.codegen.signatures import TernarySums, Tile, WidenBytes
from lowerconv.codegen.ternary import BITS, PAIR_BYTES, PAIRS_MAX
from lowerconv.conv.macrokernel import NONE, requantized
from lowerconv.conv.records import Requantization
from lowerconv.conv.words.filters import PER_WORD
from lowerconv.runtime.launch import call, pointer, worker_address
from lowerconv.runtime.records import Operands, record_dtype

WORD_BYTES, PIXEL_BYTES = 4, 2
OFFSET_BYTES, SUM_BYTES = 4, 4


class TernaryProblem(NamedTuple):
    """The convolution: channels, in words, and filters are those of a group."""

    images: int
    groups: int
    channel_words: int
    K: int
    H: int
    W: int
    P: int
    Q: int
    stride_h: int
    stride_w: int
    flip: int  #     what bytes are changed by to be unsigned
    padding: int  #  what lies around images, less 128
    mask_pairs: int  # pairs of masks of a filter


class TernaryBlocks(NamedTuple):
    """How pixels are cut, and where they lie once they are widened."""

    band: int  #       rows of pixels of a block
    columns: int  #    and columns
    bands: int  #      of an image
    column_blocks: int
    task_filters: int  # of a task, a multiple of four
    filter_blocks: int
    first_row: int  #  of the source, that pixel (0, 0) begins to read
    first_column: int
    splits: int  #     planes of a channel
    rows: int  #       of a plane
    pitch: int  #      pixels from one of them to the next
    plane: int  #      pixels from one plane to the next
    tile: int  #       pixels
    VL: int  #         pixels of a vector
    TW: int  #         pixels that are stored at a time
    sums_row: int  #   sums of a filter


class TernaryTables(NamedTuple):
    """Addresses of tables and emitted functions."""

    remainders: int  #  of rows and columns of each plane of a channel, by the strides
    offsets: int  #     of each weight, as of `signatures.TernarySums`
    starts: int  #      bytes from the first mask to what sums of each filter start from
    widen: int
    kernels: int  #     of sums, by their vectors
    store: int  #       of four filters
    store_tail: int  #  and the last columns
    store_last: int  #  of the last filters
    store_last_tail: int
    geometry: int  #    address of `signatures.TileGeometry`
    geometry_tail: int


class TernaryResult(NamedTuple):
    """Where sums go."""

    padded_filters: int  #   of a group: scales of the next one begin after so many
    out_plane: int  #        items of a plane of the result
    out_filter_bytes: int  # of a single filter's pixel


class TernaryWorkers(NamedTuple):
    """How many there are, and the scratch of each, in bytes."""

    workers: int
    scratch_bytes: int
    sums_at: int  # in a worker's scratch


TERNARY_JOB = record_dtype(
    Operands,
    TernaryProblem,
    TernaryBlocks,
    TernaryTables,
    TernaryResult,
    TernaryWorkers,
    Requantization,
)


@internal
def _pad(job, target, step, begin, end):
    """Write the padding into some pixels of a row of the four planes of a word of channels."""
    for byte in range(PER_WORD):
        row = carray(pointer(target + byte * step), end, np.int16)
        for j in range(begin, end):
            row[j] = job.padding


@internal
def _widen_row(job, source, shift, target, step):
    """Write a row of each of the four planes of a word of channels, `step` bytes apart."""
    begin, end = inside(job.W, shift, job.stride_w, job.pitch)
    _pad(job, target, step, np.int64(0), begin)
    if begin < end:
        first = source + (shift + begin * job.stride_w) * WORD_BYTES
        to = target + begin * PIXEL_BYTES
        call(job.widen, WidenBytes(first, end - begin, to, step, job.flip))
    _pad(job, target, step, end, job.pitch)


@internal
def _widen(job, image, group, band, block, target):
    """Widen what a block of pixels reads."""
    remainders = carray(pointer(job.remainders), (job.splits, 2), np.int64)
    row0 = band * job.band * job.stride_h + job.first_row
    column0 = block * job.columns * job.stride_w + job.first_column
    plane = image * job.ld_source + group * job.channel_words * job.H * job.W
    source, size = job.source + plane * WORD_BYTES, job.plane * PIXEL_BYTES
    for word in range(job.channel_words):
        for split in range(job.splits):
            at = target + (word * PER_WORD * job.splits + split) * size
            shift = column0 + remainders[split, 1]
            for i in range(job.rows):
                row = row0 + remainders[split, 0] + i * job.stride_h
                to, step = at + i * job.pitch * PIXEL_BYTES, job.splits * size
                if 0 <= row < job.H:
                    begin = source + (word * job.H + row) * job.W * WORD_BYTES
                    _widen_row(job, begin, shift, to, step)
                else:
                    _pad(job, to, step, np.int64(0), job.pitch)


@internal
def _sum(job, group, first, last, pixels, source, sums):
    """Compute the sums of some filters for all pixels of a block."""
    kernels = carray(pointer(job.kernels), job.tile // job.VL + 1, np.int64)
    starts = carray(pointer(job.filters + job.starts), job.groups * job.K, np.int64)
    for begin in range(0, pixels, job.tile):
        vectors = (min(job.tile, pixels - begin) + job.VL - 1) // job.VL
        for pair in range(0, job.mask_pairs, PAIRS_MAX):
            for n in range(first, last):
                number = group * job.K + n
                call(
                    kernels[vectors],
                    TernarySums(
                        source=source + begin * PIXEL_BYTES,
                        offsets=job.offsets + pair * BITS * OFFSET_BYTES,
                        masks=job.filters + (number * job.mask_pairs + pair) * PAIR_BYTES,
                        pairs=min(PAIRS_MAX, job.mask_pairs - pair),
                        sums=sums + ((n - first) * job.sums_row + begin) * SUM_BYTES,
                        add=np.int64(pair > 0),
                        start=starts[number],
                    ),
                )


@internal
def _store(job, image, group, place, n, rows, columns, sums):
    """Store the sums of four filters, or of the last ones, of a block; `place` is its pixel 0."""
    item = np.int64(4)
    plane = (group * job.K + n) * job.out_plane * job.out_filter_bytes
    for row in range(rows):
        for column in range(0, columns, job.TW):
            tail = column + job.TW > columns
            kernel = job.store_tail if tail else job.store
            if n + PER_WORD > job.K:
                kernel = job.store_last_tail if tail else job.store_last
            at = plane + (place + row * job.Q + column) * item
            tile = Tile(
                k=job.sums_row,
                vectors=sums + (row * job.pitch + column) * item,
                broadcasts=np.int64(0),
                table=np.int64(0),
                out=job.target + image * job.ld_target * item + at,
                ld_out=job.out_plane,
                bias=np.int64(0),
                valid=min(PER_WORD, job.K - n),
                mode=np.int64(0),
                geometry=job.geometry_tail if tail else job.geometry,
                constants=np.int64(0),
            )
            if job.scales:
                scale = (group * job.padded_filters + n) * item
                residual = job.residual + image * job.ld_residual * item + at
                call(kernel, requantized(job, tile, scale, residual))
            else:
                call(kernel, tile)


def _convolve(jobs, worker):
    """Do one worker's tasks; those of a block follow each other."""
    job = carray(jobs, 1)[0]
    source = job.scratch + worker * job.scratch_bytes
    sums = source + job.sums_at
    blocks = job.images * job.groups * job.bands * job.column_blocks
    first, last = share(blocks * job.filter_blocks, worker, job.workers)
    widened = NONE
    for task in range(first, last):
        place, part = task // job.filter_blocks, task % job.filter_blocks
        block, band = place % job.column_blocks, place // job.column_blocks % job.bands
        one = place // (job.column_blocks * job.bands)
        image, group = one // job.groups, one % job.groups
        if place != widened:
            _widen(job, image, group, band, block, source)
            widened = place
        rows = min(job.band, job.P - band * job.band)
        columns = min(job.columns, job.Q - block * job.columns)
        begin = part * job.task_filters
        end = min(begin + job.task_filters, job.K)
        _sum(job, group, begin, end, (rows - 1) * job.pitch + columns, source, sums)
        pixel = band * job.band * job.Q + block * job.columns
        for n in range(begin, end, PER_WORD):
            at = sums + (n - begin) * job.sums_row * SUM_BYTES
            _store(job, image, group, pixel, n, rows, columns, at)


ternary_address = worker_address(_convolve, TERNARY_JOB, "ternary convolutions")
