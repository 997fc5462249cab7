"""What one core does for a weight gradient: transpose dy, lower x, add up tiles over the pixels.

A tile of the filter gradient has filters in its lanes and taps in its rows: at every pixel of the
batch it takes a vector of the transposed dy and broadcasts the image from where the taps read it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import carray

from lowerconv.codegen.compiled import njit
from lowerconv.runtime.launch import OPERANDS, call, loops, pointer, share

JOB = np.dtype(
    [
        (name, np.int64)
        for name in (
            # source is x, filters dy, target dw; partial sums of the splits are in the scratch
            *OPERANDS,
            *("scratch_bytes", "itemsize", "zeros", "partial_at"),
            *("images", "groups", "channels", "results", "taps", "H", "W", "stride_h"),
            # pieces: several images, or bands of rows of one; lowered rows of x
            *("P", "Q", "together", "pieces", "band", "lower", "first_row", "lowered_rows"),
            *("left", "pitch", "plane"),
            # tasks: splits of the pieces, blocks of channels, blocks of panels
            *("splits", "channel_block", "channel_blocks", "panels_per_block", "panel_blocks"),
            *("F", "VL", "panels", "dw_items", "add"),
            # dw: items from one group, panel, channel, and row of a tile to the next
            *("group_step", "panel_step", "channel_step", "out_step", "by_rows"),
            # tiles of a block of channels, and of the last block
            *("tiles", "tile_count", "last_tiles", "last_tile_count", "straight"),
            *("pad", "transpose", "touch", "workers", "lowered_at", "sums_at"),
        )
    ]
)
TILE = np.dtype(
    [
        (name, np.int64)
        for name in ("source", "target", "rows", "kernel", "kernel_last", "table", "table_short")
    ]
)


@njit(cache=True, nogil=True)
def _place(job, piece):
    """Return (first image, end of images, first row of dy) of a piece."""
    if job.together > 1:
        image = piece * job.together
        return image, min(image + job.together, job.images), np.int64(0)
    image = piece // job.pieces
    return image, image + 1, piece % job.pieces * job.band


@njit(cache=True, nogil=True)
def _gather(job, piece, group, first, last, target):
    """Transpose the rows of dy of a piece into panels ``[image, pixel][filter]``."""
    item = job.itemsize
    image0, image1, row = _place(job, piece)
    pixels = min(job.band, job.P - row) * job.Q
    panel_items = job.F * job.together * job.band * job.Q
    for panel in range(first, last):
        filters = min(job.F, job.results - panel * job.F)
        for image in range(image0, image1):
            at = target + (panel - first) * panel_items * item
            at += (image - image0) * job.band * job.Q * job.F * item
            for lane in range(0, filters, job.VL):
                filter_ = group * job.results + panel * job.F + lane
                source = image * job.filters_step + (filter_ * job.P + row) * job.Q
                call(
                    job.transpose,
                    (
                        job.filters + source * item, job.P * job.Q, min(job.VL, filters - lane),
                        pixels, at + lane * item, job.F, min(job.VL, job.F - lane),
                    ),
                )  # fmt: skip


@njit(cache=True, nogil=True)
def _lower(job, piece, group, channel, channels, target):
    """Copy the rows of x that a piece reads, zeros around them: ``[image][channel][row]``."""
    item = job.itemsize
    size = job.H * job.W
    image0, image1, row = _place(job, piece)
    for image in range(image0, image1):
        plane = image * job.source_step + (group * job.channels + channel) * size
        to = target + (image - image0) * job.channel_block * job.plane * item
        for number in range(channels):
            call(
                job.pad,
                (
                    job.source + (plane + number * size) * item, job.W, job.H, job.W,
                    row * job.stride_h + job.first_row, job.lowered_rows, job.left,
                    to + number * job.plane * item, job.pitch,
                ),
            )  # fmt: skip


@njit(cache=True, nogil=True)
def _ask_for(job, piece, group, channel, channels, panel0, panel1):
    """Prefetch what the next piece begins with: rows of dy, and of x if they are lowered."""
    item = job.itemsize
    size = job.H * job.W
    image0, image1, row = _place(job, piece)
    first = panel0 * job.F
    filters = min(panel1 * job.F, job.results) - first
    lines = min(job.band, job.P - row) * job.Q * item // 64 + 1
    for image in range(image0, image1):
        plane = image * job.filters_step + ((group * job.results + first) * job.P + row) * job.Q
        call(job.touch, (job.filters + plane * item, filters, job.P * job.Q * item, lines))
    if not job.lower:
        return
    row0 = max(0, row * job.stride_h + job.first_row)
    row1 = min(job.H, row * job.stride_h + job.first_row + job.lowered_rows)
    lines = (row1 - row0) * job.W * item // 64 + 1
    for image in range(image0, image1):
        plane = image * job.source_step + (group * job.channels + channel) * size + row0 * job.W
        call(job.touch, (job.source + plane * item, channels, size * item, lines))


def _correlate(jobs, worker):
    """Do one worker's tasks: (split, group, block of channels, block of panels)."""
    job = carray(jobs, 1)[0]
    item = job.itemsize
    scratch = job.scratch + worker * job.scratch_bytes
    lowered, sums = scratch + job.lowered_at, scratch + job.sums_at
    tasks = job.splits * job.groups * job.channel_blocks * job.panel_blocks
    task0, task1 = share(tasks, worker, job.workers)
    panel_items = job.F * job.together * job.band * job.Q
    for task in range(task0, task1):
        block = task % job.panel_blocks
        channel = task // job.panel_blocks % job.channel_blocks * job.channel_block
        group = task // (job.panel_blocks * job.channel_blocks) % job.groups
        split = task // (job.panel_blocks * job.channel_blocks * job.groups)
        panel0 = block * job.panels_per_block
        panel1 = min(panel0 + job.panels_per_block, job.panels)
        channels = min(job.channel_block, job.channels - channel)
        last_block = channel + job.channel_block > job.channels
        count = job.last_tile_count if last_block else job.tile_count
        address = job.last_tiles if last_block else job.tiles
        tiles = carray(pointer(address), count, TILE)
        # The gradient of this task, in the array that it goes to.
        place = split * job.dw_items + group * job.group_step
        place += panel0 * job.panel_step + channel * job.channel_step
        dw = (job.target if job.splits == 1 else job.scratch + job.partial_at) + place * item
        panel_sums = channels * job.taps * job.F * item
        pieces = job.pieces * job.images if job.together == 1 else job.pieces
        piece0, piece1 = share(pieces, split, job.splits)
        for piece in range(piece0, piece1):
            image0, image1, row = _place(job, piece)
            _gather(job, piece, group, panel0, panel1, scratch)
            if job.lower:
                _lower(job, piece, group, channel, channels, lowered)
                source = lowered
            else:
                plane = image0 * job.source_step + (group * job.channels + channel) * job.plane
                source = job.source + (plane + row * job.stride_h * job.pitch) * item
            if piece + 1 < piece1:
                _ask_for(job, piece + 1, group, channel, channels, panel0, panel1)
            # The last piece may have fewer images, or the last band of an image fewer rows.
            short = image1 - image0 < job.together or row + job.band > job.P
            mode = np.int64(1) if piece > piece0 or (job.straight and job.add) else np.int64(0)
            for panel in range(panel0, panel1):
                last = panel == job.panels - 1
                vectors = scratch + (panel - panel0) * panel_items * item
                valid = min(job.F, job.results - panel * job.F)
                for number in range(count):
                    tile = tiles[number]
                    table = tile.table_short if short else tile.table
                    steps = carray(pointer(table), 1, np.int64)[0]
                    kernel = tile.kernel_last if last else tile.kernel
                    if job.straight:
                        out = dw + ((panel - panel0) * job.panel_step + tile.target) * item
                        out_step, rows = job.out_step, tile.rows if job.by_rows else valid
                    else:
                        out = sums + (panel - panel0) * panel_sums + tile.target * job.F * item
                        out_step, rows = job.F, tile.rows
                    call(
                        kernel,
                        (
                            steps, vectors, source + tile.source * item, table + 8, out, out_step,
                            job.zeros, rows, mode,
                        ),
                    )  # fmt: skip
        if not job.straight:
            for panel in range(panel0, panel1):
                filters = min(job.F, job.results - panel * job.F)
                for i in range(0, channels * job.taps, job.VL):
                    rows = min(job.VL, channels * job.taps - i)
                    call(
                        job.transpose,
                        (
                            sums + (panel - panel0) * panel_sums + i * job.F * item, job.F, rows,
                            filters, dw + ((panel - panel0) * job.panel_step + i) * item,
                            job.out_step, rows,
                        ),
                    )  # fmt: skip


def _add_splits(jobs, worker):
    """Add the partial sums of the splits, in their order: one worker's share of the items."""
    job = carray(jobs, 1)[0]
    i0, i1 = share(job.dw_items, worker, job.workers)
    partial = job.scratch + job.partial_at
    if job.itemsize == 4:
        _add_up(
            carray(pointer(job.target), job.dw_items, np.float32),
            carray(pointer(partial), (job.splits, job.dw_items), np.float32),
            i0,
            i1,
        )
    else:
        _add_up(
            carray(pointer(job.target), job.dw_items, np.float64),
            carray(pointer(partial), (job.splits, job.dw_items), np.float64),
            i0,
            i1,
        )


@njit(cache=True, nogil=True)
def _add_up(total, partial, i0, i1):
    for i in range(i0, i1):
        total[i] = partial[0, i]
    for split in range(1, len(partial)):
        for i in range(i0, i1):
            total[i] += partial[split, i]


@lru_cache
def correlate_address() -> int:
    """Return the address of the loops of one core, ``(job, worker)``."""
    return loops(_correlate, JOB, "the weight gradient")


@lru_cache
def add_splits_address() -> int:
    """Return the address of the addition of partial sums into dw."""
    return loops(_add_splits, JOB, "adding up partial sums")
