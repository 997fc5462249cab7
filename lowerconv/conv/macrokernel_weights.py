"""The macro-kernel of the weight gradient: what one core does, loop by loop.

dw = dy x', with taps of all channels in the rows of dw (m), filters in its columns (n), and the
pixels of the batch summed over (k).  A task is a block of taps by a block of filters::

    for pc in pieces of k                   KC of k: several images, or a band of rows of one;
                                            dy is transposed into panels, x padded
        for jr in panels of the block       NR of n: filters in the lanes of vectors
            for ir in tiles of the block    MR of m: taps, broadcast from where they read x

Sums of a block stay in the core's cache, ``[tap][filter]``, and are transposed into dw at the end;
or tiles go straight there, where each sum is complete at once.  Of 1x1 filters at stride 1 x and
dy have changed places, and with them C and K (`WeightSchedule.channels_in_vectors`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import carray

from lowerconv.codegen.compiled import internal
from lowerconv.codegen.isa import LINE
from lowerconv.codegen.ranges import share
from lowerconv.codegen.signatures import ADD, Prefetch, Tile, Transpose
from lowerconv.conv.copies import pad_planes
from lowerconv.runtime.launch import call, pointer, worker_address
from lowerconv.runtime.records import Operands, record_dtype


class WeightProblem(NamedTuple):
    """The gradient: `source` is x, `filters` is dy, `target` is dw; C and K are of a group."""

    images: int
    groups: int
    C: int
    K: int
    taps: int
    H: int
    W: int
    P: int
    Q: int
    stride_h: int
    itemsize: int
    dw_items: int


class WeightBlocks(NamedTuple):
    """How m, n and k are cut, and the tasks that makes."""

    NR: int  #              filters of a panel
    NC: int  #              filters of a task, a multiple of NR
    VL: int
    panel_blocks: int
    channel_block: int
    channel_blocks: int
    splits: int  #          partial sums over the pixels
    together: int  #        images of a piece
    pieces: int  #          of an image, or of the batch where images are together
    band: int  #            rows of pixels of a piece


class WeightPadding(NamedTuple):
    """How the rows of x that a piece reads lie in memory: in place, or padded."""

    padded: int  # whether they are copied with zeros around them
    first_row: int
    padded_rows: int
    left: int
    pitch: int
    plane: int


class WeightResult(NamedTuple):
    """Where sums go: items of dw from one thing to the next."""

    group_step: int
    filter_step: int
    channel_step: int
    ld_out: int  #       of a tile
    by_rows: int  #      whether rows of a tile are rows of dw, else its lanes are
    straight: int  #     whether tiles go straight to dw
    tiles: int  #        address of the tiles of a block of channels
    tile_count: int
    last_tiles: int  #   likewise, of the last block
    last_tile_count: int


class WeightWorkers(NamedTuple):
    """Emitted functions, and where each worker's parts of the scratch begin, in bytes."""

    pad: int
    transpose: int
    prefetch: int
    zeros: int  #      address
    workers: int
    scratch_bytes: int
    padded_at: int
    sums_at: int
    partial_at: int  # of the partial sums, after all workers' scratch


WEIGHT_JOB = record_dtype(
    Operands, WeightProblem, WeightBlocks, WeightPadding, WeightResult, WeightWorkers
)


class TapTileRecord(NamedTuple):
    """A tile of taps; addresses of its microkernels and of tables of the pixels it sums over."""

    source: int  #       items, from where the block begins in x, to its first tap
    target: int  #       items, likewise in dw, or among the sums in taps
    rows: int
    kernel: int
    kernel_last: int  #  of the last panel
    table: int
    table_short: int  #  of the last piece, which may be shorter


TAP_TILE = record_dtype(TapTileRecord)


class Task(NamedTuple):
    """A block of channels by a block of filters, of a group; a split of its sum."""

    split: int
    group: int
    channel: int
    channels: int
    n0: int  # filters from and to
    n1: int


class Piece(NamedTuple):
    """Images from and to, first row of dy."""

    image0: int
    image1: int
    row: int


@internal
def _task(job, number):
    """Return a task by its number."""
    block = number % job.panel_blocks
    channel = number // job.panel_blocks % job.channel_blocks * job.channel_block
    group = number // (job.panel_blocks * job.channel_blocks) % job.groups
    split = number // (job.panel_blocks * job.channel_blocks * job.groups)
    n0 = block * job.NC
    channels = min(job.channel_block, job.C - channel)
    n1 = min(n0 + job.NC, -(-job.K // job.NR) * job.NR)
    return Task(split, group, channel, channels, n0, n1)


@internal
def _piece(job, number):
    """Return a piece by its number."""
    if job.together > 1:
        image = number * job.together
        return Piece(image, min(image + job.together, job.images), np.int64(0))
    image = number // job.pieces
    return Piece(image, image + 1, number % job.pieces * job.band)


@internal
def _pack_dy(job, piece, task, target):
    """Transpose the rows of dy of a piece into panels ``[image, pixel][NR filters]``."""
    item = job.itemsize
    pixels = min(job.band, job.P - piece.row) * job.Q
    image_items = job.NR * job.band * job.Q
    for jr in range(task.n0, task.n1, job.NR):
        filters = min(job.NR, job.K - jr)
        for image in range(piece.image0, piece.image1):
            at = target + (jr - task.n0) // job.NR * image_items * job.together * item
            at += (image - piece.image0) * image_items * item
            for lane in range(0, filters, job.VL):
                row = (task.group * job.K + jr + lane) * job.P + piece.row
                call(
                    job.transpose,
                    Transpose(
                        source=job.filters + (image * job.ld_filters + row * job.Q) * item,
                        ld_source=job.P * job.Q,
                        rows=min(job.VL, filters - lane),
                        columns=pixels,
                        target=at + lane * item,
                        ld_target=job.NR,
                        lanes=min(job.VL, job.NR - lane),
                    ),
                )


@internal
def _pad_x(job, piece, task, target):
    """Copy the rows of x that a piece reads, zeros around them: ``[image][channel][row]``."""
    item, size = job.itemsize, job.H * job.W
    first = piece.row * job.stride_h + job.first_row
    step = job.plane * item
    for image in range(piece.image0, piece.image1):
        plane = image * job.ld_source + (task.group * job.C + task.channel) * size
        to = target + (image - piece.image0) * job.channel_block * step
        pad_planes(job, job.source + plane * item, task.channels, first, to, step, np.int64(0))


@internal
def _prefetch(job, piece, task):
    """Ask for what the next piece begins with: rows of dy, and of x if they are padded."""
    item, size = job.itemsize, job.H * job.W
    filters = min(task.n1, job.K) - task.n0
    lines = min(job.band, job.P - piece.row) * job.Q * item // LINE + 1
    for image in range(piece.image0, piece.image1):
        row = (task.group * job.K + task.n0) * job.P + piece.row
        at = job.filters + (image * job.ld_filters + row * job.Q) * item
        call(job.prefetch, Prefetch(at, filters, job.P * job.Q * item, lines))
    if not job.padded:
        return
    first = piece.row * job.stride_h + job.first_row
    row0, row1 = max(0, first), min(job.H, first + job.padded_rows)
    lines = (row1 - row0) * job.W * item // LINE + 1
    for image in range(piece.image0, piece.image1):
        plane = image * job.ld_source + (task.group * job.C + task.channel) * size
        at = job.source + (plane + row0 * job.W) * item
        call(job.prefetch, Prefetch(at, task.channels, size * item, lines))


class Target(NamedTuple):
    """Where a task's tiles go: its part of dw, and its sums in the scratch."""

    dw: int
    sums: int
    panel_sums: int  # bytes from the sums of one panel to those of the next


@internal
def _tiles(job, task, piece, panels, source, to, first):
    """Sum the pixels of a piece into all tiles of a task; those of the first piece begin sums."""
    item = job.itemsize
    last_block = task.channel + job.channel_block > job.C
    count = job.last_tile_count if last_block else job.tile_count
    tiles = carray(pointer(job.last_tiles if last_block else job.tiles), count, TAP_TILE)
    # The last piece may have fewer images, or the last band of an image fewer rows.
    short = piece.image1 - piece.image0 < job.together or piece.row + job.band > job.P
    mode = np.int64(0) if first else ADD
    panel_items = job.NR * job.together * job.band * job.Q
    for jr in range(task.n0, task.n1, job.NR):
        panel = (jr - task.n0) // job.NR
        valid = min(job.NR, job.K - jr)
        for ir in range(count):
            tile = tiles[ir]
            table = tile.table_short if short else tile.table
            if job.straight:
                out = to.dw + ((jr - task.n0) * job.filter_step + tile.target) * item
                ld_out, rows = job.ld_out, tile.rows if job.by_rows else valid
            else:
                out = to.sums + panel * to.panel_sums + tile.target * job.NR * item
                ld_out, rows = job.NR, tile.rows
            call(
                tile.kernel if jr + job.NR < job.K else tile.kernel_last,
                Tile(
                    k=carray(pointer(table), 1, np.int64)[0],
                    vectors=panels + panel * panel_items * item,
                    broadcasts=source + tile.source * item,
                    table=table + 8,
                    out=out,
                    ld_out=ld_out,
                    bias=job.zeros,
                    valid=rows,
                    mode=mode,
                    geometry=np.int64(0),
                    constants=np.int64(0),
                ),
            )


@internal
def _store(job, task, to):
    """Transpose the sums of a task into dw."""
    item = job.itemsize
    for jr in range(task.n0, task.n1, job.NR):
        sums = to.sums + (jr - task.n0) // job.NR * to.panel_sums
        for tap in range(0, task.channels * job.taps, job.VL):
            rows = min(job.VL, task.channels * job.taps - tap)
            call(
                job.transpose,
                Transpose(
                    source=sums + tap * job.NR * item,
                    ld_source=job.NR,
                    rows=rows,
                    columns=min(job.NR, job.K - jr),
                    target=to.dw + ((jr - task.n0) * job.filter_step + tap) * item,
                    ld_target=job.ld_out,
                    lanes=rows,
                ),
            )


@internal
def _multiply(job, worker, task):
    """Compute one task: a block of dw, or one of its partial sums."""
    item = job.itemsize
    panels = job.scratch + worker * job.scratch_bytes
    padded = panels + job.padded_at
    place = task.split * job.dw_items + task.group * job.group_step
    place += task.n0 * job.filter_step + task.channel * job.channel_step
    dw = job.target if job.splits == 1 else job.scratch + job.partial_at
    sums = task.channels * job.taps * job.NR * item
    to = Target(dw + place * item, panels + job.sums_at, sums)
    pieces = job.pieces * job.images if job.together == 1 else job.pieces
    first, end = share(pieces, task.split, job.splits)
    for pc in range(first, end):
        piece = _piece(job, pc)
        _pack_dy(job, piece, task, panels)
        if job.padded:
            _pad_x(job, piece, task, padded)
            source = padded
        else:
            plane = piece.image0 * job.ld_source + (task.group * job.C + task.channel) * job.plane
            source = job.source + (plane + piece.row * job.stride_h * job.pitch) * item
        if pc + 1 < end:
            _prefetch(job, _piece(job, pc + 1), task)
        _tiles(job, task, piece, panels, source, to, pc == first)
    if not job.straight:
        _store(job, task, to)


def _macrokernel(jobs, worker):
    """Compute one worker's tasks."""
    job = carray(jobs, 1)[0]
    tasks = job.splits * job.groups * job.channel_blocks * job.panel_blocks
    first, end = share(tasks, worker, job.workers)
    for number in range(first, end):
        _multiply(job, worker, _task(job, number))


def _add_splits(jobs, worker):
    """Add the partial sums of the splits, in their order: one worker's share of the items."""
    job = carray(jobs, 1)[0]
    if job.itemsize == 4:
        _add_up(job, worker, np.float32)
    else:
        _add_up(job, worker, np.float64)


@internal
def _add_up(job, worker, dtype):
    total = carray(pointer(job.target), job.dw_items, dtype)
    partial = carray(pointer(job.scratch + job.partial_at), (job.splits, job.dw_items), dtype)
    i0, i1 = share(job.dw_items, worker, job.workers)
    for i in range(i0, i1):
        total[i] = partial[0, i]
    for split in range(1, len(partial)):
        for i in range(i0, i1):
            total[i] += partial[split, i]


weights_address = worker_address(_macrokernel, WEIGHT_JOB, "the weight gradient")
add_splits_address = worker_address(_add_splits, WEIGHT_JOB, "adding up partial sums")
