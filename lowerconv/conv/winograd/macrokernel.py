"""The macro-kernel of Winograd's convolution: transform a piece, multiply, transform back.

A piece is some tiles of the source.  Its transform, V, stays in the core's own cache while one
panel of filters after the other is multiplied with it, 36 small products for each; what a panel
leaves, M, is transformed back and stored at once.  So pieces are outermost, unlike in
`conv.macrokernel`::

    for ic in pieces of m                       V is made here
        for jr in panels of n
            for pc in blocks of k               U is made here, unless it is kept
                for ir in tiles of the piece    at all 36 points: the microkernel
            M becomes pixels

    V [point][block of VL channels][tile][VL]
    U [panel][point][channel][NR]               NR filters of a panel, transformed once per call
    M [point][tile][NR]

After Jia et al., "Optimizing N-dimensional, Winograd-based convolution for manycore CPUs" (2018),
with the order of the loops of Zlateski et al., "FFT convolutions are faster than Winograd on
modern CPUs, here's why" (2018): what is transformed never leaves the caches.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import carray

from lowerconv.codegen.compiled import internal
from lowerconv.codegen.ranges import share
from lowerconv.codegen.signatures import (
    ACTIVATE,
    ADD,
    Activate,
    PlanesToVectors,
    Tile,
    TransformFilters,
    TransformSource,
    TransformTarget,
    VectorsToPlanes,
)
from lowerconv.codegen.transforms import POINTS_2D, TILE, R
from lowerconv.conv.copies import pack_panel, start_sums
from lowerconv.conv.macrokernel import parts_of
from lowerconv.conv.winograd.records import TILE_JOB
from lowerconv.runtime.launch import call, pointer, worker_address

TAPS = R * R
CHUNK = 32  # channels of a panel that are transformed at a time


class Tiles(NamedTuple):
    """A block of tiles of an image: rows of tiles from `row` on, tiles of each from `column` on."""

    image: int
    row: int
    rows: int
    column: int
    across: int


class Channels(NamedTuple):
    """A block of k of a panel."""

    group: int
    panel: int
    channel: int
    channels: int


@internal
def _piece(job, piece):
    """Return the tiles of a piece in its first image, and how many images it has."""
    segment = piece % job.segments
    band = piece // job.segments % job.bands
    image = piece // (job.segments * job.bands) * job.together
    row, column = band * job.band, segment * job.segment
    rows = min(job.band, job.tiles_down - row)
    across = min(job.segment, job.tiles_across - column)
    return Tiles(image, row, rows, column, across), min(job.together, job.images - image)


@internal
def clear(address, count):
    """Set `count` bytes to zero."""
    target = carray(pointer(address), count, np.uint8)
    for i in range(count):
        target[i] = 0


@internal
def transform_block(job, tiles, group, channel, band, target):
    """Transform tiles of VL channels of an image.

    The band must have zeros where a tile reaches beyond the image: pixels of all images and
    channels go to the same places.
    """
    item, VL = job.itemsize, job.VL
    line, size = job.pitch * VL * item, job.H * job.W
    first_row, first_column = TILE * tiles.row + job.first_row, TILE * tiles.column - job.left
    row0, row1 = max(0, first_row), min(job.H, first_row + TILE * (tiles.rows - 1) + job.extent)
    plane = (group * job.C + channel) * size
    source = job.source + (tiles.image * job.ld_source + plane) * item
    count = min(VL, job.C - channel)
    skip = job.skip
    if job.segments == 1:
        source += row0 * job.W * item
        corner = band + (row0 - first_row) * line + job.left * VL * item
        if row1 > row0:
            pixels = (row1 - row0) * job.W
            copy = PlanesToVectors(source, size, count, pixels, job.places, corner)
            call(job.planes_to_vectors, copy)
    else:
        first_column += skip
        skip = np.int64(0)
        column0 = max(0, first_column)
        column1 = min(job.W, first_column + TILE * (tiles.across - 1) + job.extent)
        for i in range(row0, row1):
            if column1 > column0:
                corner = band + (i - first_row) * line + (column0 - first_column) * VL * item
                begin = source + (i * job.W + column0) * item
                pixels = column1 - column0
                copy = PlanesToVectors(begin, size, count, pixels, job.places, corner)
                call(job.planes_to_vectors, copy)
    for i in range(tiles.rows):
        call(
            job.transform_source,
            TransformSource(
                source=band + TILE * i * line + skip * VL * item,
                pitch=job.pitch * VL,
                tiles=tiles.across,
                target=target + i * tiles.across * VL * item,
                step=job.step_V,
            ),
        )


@internal
def _make_V(job, piece, group, band, target):
    """Transform the source of a piece: V."""
    item, VL = job.itemsize, job.VL
    first, images = _piece(job, piece)
    clear(band, job.band_rows * job.pitch * VL * item)
    for number in range(images):
        tiles = Tiles(first.image + number, first.row, first.rows, first.column, first.across)
        for channel in range(0, job.C, VL):
            at = channel * job.room + number * first.rows * first.across * VL
            transform_block(job, tiles, group, channel, band, target + at * item)


@internal
def _make_U(job, block, taps, target):
    """Transform some channels of a panel of filters: ``target[point][channel][NR]``."""
    item, width = job.itemsize, job.NR
    valid = min(width, job.K - block.panel * width)
    for first in range(0, block.channels, CHUNK):
        count = min(CHUNK, block.channels - first)
        pack_panel(job, block.group, block.channel + first, count, block.panel, taps, False)
        for lane in range(0, valid, job.VL):
            call(
                job.transform_filters,
                TransformFilters(
                    source=taps + lane * item,
                    channels=count,
                    width=width,
                    target=target + (first * width + lane) * item,
                    step=job.step_U,
                ),
            )


@internal
def _multiply(job, block, U, V, products, tiles):
    """Multiply V with some channels of a panel: M, at all points."""
    item = job.itemsize
    kernels = carray(pointer(job.kernels), (2, job.MR + 1), np.int64)
    last = np.int64(1) if block.panel == job.panels - 1 else np.int64(0)
    mode = ADD if block.channel > 0 else np.int64(0)
    row = job.VL * item
    for point in range(POINTS_2D):
        vectors = U + point * job.step_U * item
        source = V + (point * job.step_V + block.channel * job.room) * item
        product = products + point * job.step_M * item
        for ir in range(0, tiles, job.MR):
            count = min(job.MR, tiles - ir)
            call(
                kernels[last, count],
                Tile(
                    k=block.channels,
                    vectors=vectors,
                    broadcasts=source + ir * row,
                    table=job.table,
                    out=product + ir * job.NR * item,
                    ld_out=job.NR,
                    bias=job.zeros,
                    valid=count,
                    mode=mode,
                    geometry=np.int64(0),
                    constants=np.int64(0),
                ),
            )


@internal
def _store(job, piece, group, panel, products, scratch):
    """Transform M back, and store it with what the epilogue adds."""
    item, VL = job.itemsize, job.VL
    strip, sums = scratch + job.strip_at, scratch + job.sums_at
    first, images = _piece(job, piece)
    begin = group * job.K + panel * job.NR
    valid = min(job.NR, job.K - panel * job.NR)
    count = valid if job.bias else np.int64(0)
    start_sums(sums, job.NR * item, job.bias + begin * item, count * item)
    across = first.across
    width = job.Q if job.segments == 1 else min(TILE * across, job.Q - TILE * first.column)
    high = min(TILE * first.rows, job.P - TILE * first.row)
    mode = ADD if job.add else np.int64(0)
    if job.kernels_activate:
        mode |= ACTIVATE
    size = job.P * job.Q
    for number in range(images):
        for lane in range(0, valid, VL):
            source = products + (number * first.rows * across * job.NR + lane) * item
            for i in range(first.rows):
                call(
                    job.transform_target,
                    TransformTarget(
                        source=source + i * across * job.NR * item,
                        step=job.step_M,
                        width=job.NR,
                        tiles=across,
                        target=strip + TILE * i * width * VL * item,
                        row=width * VL,
                        advance=TILE * VL,
                    ),
                )
            plane = (begin + lane) * size + TILE * first.row * job.Q + TILE * first.column
            out = job.target + ((first.image + number) * job.ld_target + plane) * item
            bias = sums + lane * item
            rows = min(VL, valid - lane)
            if job.segments == 1:
                pixels, last = high * width, job.constants
                copy = VectorsToPlanes(strip, pixels, rows, out, size, bias, mode, last)
                call(job.vectors_to_planes, copy)
                if job.activate:
                    call(job.activate, Activate(out, rows, high * width, size, job.constants))
            else:
                for i in range(high):
                    line, to = strip + i * width * VL * item, out + i * job.Q * item
                    last = job.constants
                    copy = VectorsToPlanes(line, width, rows, to, size, bias, mode, last)
                    call(job.vectors_to_planes, copy)
                    if job.activate:
                        call(job.activate, Activate(to, rows, width, size, job.constants))


@internal
def _part(job, scratch, panel0, panel1, piece0, piece1):
    """Convolve pieces with panels, which are counted over all groups."""
    item = job.itemsize
    V, products = scratch + job.V_at, scratch + job.M_at
    filters = job.kept
    if not filters and job.shared_at:
        filters = job.scratch + job.shared_at
    for group in range(panel0 // job.panels, (panel1 - 1) // job.panels + 1):
        first = max(panel0 - group * job.panels, 0)
        last = min(panel1 - group * job.panels, job.panels)
        for ic in range(piece0, piece1):
            piece, images = _piece(job, ic)
            tiles = images * piece.rows * piece.across
            _make_V(job, ic, group, scratch + job.band_at, V)
            for jr in range(first, last):
                for pc in range(0, job.C, job.KC):
                    block = Channels(group, jr, pc, min(job.KC, job.C - pc))
                    if filters:
                        number = (group * job.panels + jr) * POINTS_2D
                        U = filters + (number * job.step_U + pc * job.NR) * item
                    else:
                        U = scratch + job.U_at
                        _make_U(job, block, scratch + job.taps_at, U)
                    _multiply(job, block, U, V, products, tiles)
                _store(job, ic, group, jr, products, scratch)


def _winograd(jobs, worker):
    """Compute one worker's parts."""
    job = carray(jobs, 1)[0]
    scratch = job.scratch + worker * job.scratch_bytes
    parts = parts_of(job, worker)
    for i in range(len(parts)):
        panel0, panel1, piece0, piece1 = parts[i]
        _part(job, scratch, panel0, panel1, piece0, piece1)


def _prepare(jobs, worker):
    """Transform one worker's share of the filters, to where all can read them."""
    job = carray(jobs, 1)[0]
    target = job.kept if job.kept else job.scratch + job.shared_at
    chunks = -(-job.C // CHUNK)
    first, last = share(job.groups * job.panels * chunks, worker, job.workers)
    taps = job.scratch + worker * job.scratch_bytes + job.taps_at
    for number in range(first, last):
        panel, channel = number // chunks, number % chunks * CHUNK
        count = min(CHUNK, job.C - channel)
        at = panel * POINTS_2D * job.step_U + channel * job.NR
        block = Channels(panel // job.panels, panel % job.panels, channel, count)
        _make_U(job, block, taps, target + at * job.itemsize)


winograd_address = worker_address(_winograd, TILE_JOB, "Winograd's convolution")
prepare_address = worker_address(_prepare, TILE_JOB, "Winograd's filters")
