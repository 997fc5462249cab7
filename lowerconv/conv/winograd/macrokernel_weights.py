"""What one core does for a weight gradient by Winograd: F(3x3, 4x4), products over the tiles.

A 3x3 gradient is what a 4x4 tile of dy makes of the 6x6 pixels of x beneath it, summed over all
tiles: 36 products again instead of 144::

    V [point][group, block of VL channels][tile][VL]     of x
    Y [point][group, block of VL filters][tile][VL]      of dy
    D [group, panel][point][channel][NR]                 sums of the products over the tiles

Batches of tiles are transformed by all cores, then multiplied by all cores: each owns sums of some
points and panels, so that nothing has to be added up afterwards, whatever the number of cores.
"""

from __future__ import annotations

import numpy as np
from numba import carray

from lowerconv.codegen.compiled import internal
from lowerconv.codegen.ranges import share
from lowerconv.codegen.signatures import ADD, Tile, TransformTarget, VectorsToPlanes
from lowerconv.codegen.transforms import POINTS_2D, R
from lowerconv.conv.winograd.macrokernel import Tiles, clear, transform_block
from lowerconv.conv.winograd.records import SUM_JOB
from lowerconv.runtime.launch import call, worker_address

TAPS = R * R


@internal
def _unit(job, unit):
    """Return the tiles of a unit."""
    segment = unit % job.segments
    band = unit // job.segments % job.bands
    row, column = band * job.band, segment * job.segment
    rows = min(job.band, job.tiles_down - row)
    across = min(job.segment, job.tiles_across - column)
    return Tiles(unit // (job.segments * job.bands), row, rows, column, across)


def _transform(jobs, worker):
    """Transform one worker's share of (unit, operand, block) of a batch."""
    job = carray(jobs, 1)[0]
    records = carray(jobs, 2)
    item = job.itemsize
    band = job.scratch + worker * job.scratch_bytes
    each = job.groups * (records[0].blocks + records[1].blocks)
    begin, end = share((job.unit1 - job.unit0) * each, worker, job.workers)
    cleared = np.int64(-1)
    for number in range(begin, end):
        unit, block = job.unit0 + number // each, number % each
        which = np.int64(0)
        if block >= job.groups * records[0].blocks:
            which = np.int64(1)
            block -= job.groups * records[0].blocks
        side = records[which]
        tiles = _unit(side, unit)
        if cleared != 2 * unit + which:
            clear(band, side.band_rows * side.pitch * side.VL * item)
            cleared = 2 * unit + which
        group, channel = block // side.blocks, block % side.blocks * side.VL
        # Full units have the same number of tiles; smaller ones leave some unused, cleared below.
        tile = (unit - job.unit0) * side.unit
        to = job.scratch + side.at + (block * side.room + tile) * side.VL * item
        transform_block(side, tiles, group, channel, band, to)
        made = tiles.rows * tiles.across
        missing = (side.unit - made) * side.VL * item
        if missing:
            for point in range(POINTS_2D):
                clear(to + (point * side.step_V + made * side.VL) * item, missing)


def _multiply(jobs, worker):
    """Add the products of a batch to one worker's share of (panel, point)."""
    x = carray(jobs, 2)[0]
    dy = carray(jobs, 2)[1]
    item, VL = x.itemsize, x.VL
    tiles = (x.unit1 - x.unit0) * x.unit
    begin, end = share(x.groups * x.panels * POINTS_2D, worker, x.workers)
    mode = ADD if x.unit0 > 0 else np.int64(0)
    for number in range(begin, end):
        # Panels of a point follow each other: they share its V.
        point, panel = number // (x.groups * x.panels), number % (x.groups * x.panels)
        group, first = panel // x.panels, panel % x.panels
        kernel = x.kernel_last if first == x.panels - 1 else x.kernel
        vectors = group * dy.blocks * VL + first * x.NR
        Y = x.scratch + dy.at + (point * dy.step_V + vectors * dy.room) * item
        V = x.scratch + x.at + (point * x.step_V + group * x.blocks * VL * x.room) * item
        D = x.scratch + x.D_at + (panel * POINTS_2D + point) * x.step_D * item
        for channel in range(0, x.C, x.MR):
            source = V + (channel // VL * x.room * VL + channel % VL) * item
            call(
                kernel,
                Tile(
                    k=tiles,
                    vectors=Y,
                    broadcasts=source,
                    table=np.int64(0),
                    out=D + channel * x.NR * item,
                    ld_out=x.NR,
                    bias=x.zeros,
                    valid=x.MR,
                    mode=mode,
                    geometry=np.int64(0),
                    constants=np.int64(0),
                ),
            )


def _finish(jobs, worker):
    """Transform one worker's share of the sums back, to dw."""
    job = carray(jobs, 1)[0]
    item, VL = job.itemsize, job.VL
    sums = job.scratch + worker * job.scratch_bytes + job.sums_at
    chunks = -(-job.C // job.chunk)
    begin, end = share(job.groups * job.panels * chunks, worker, job.workers)
    mode = ADD if job.add else np.int64(0)
    for number in range(begin, end):
        panel, channel = number // chunks, number % chunks * job.chunk
        group, first = panel // job.panels, panel % job.panels * job.NR
        count = min(job.chunk, job.C - channel)
        D = job.scratch + job.D_at + (panel * POINTS_2D * job.step_D + channel * job.NR) * item
        for lane in range(0, min(job.NR, job.K - first), VL):
            call(
                job.transform_target,
                TransformTarget(
                    source=D + lane * item,
                    step=job.step_D,
                    width=job.NR,
                    tiles=count,
                    target=sums,
                    row=R * VL,
                    advance=TAPS * VL,
                ),
            )
            row = group * job.K + first + lane
            call(
                job.vectors_to_planes,
                VectorsToPlanes(
                    source=sums,
                    pixels=count * TAPS,
                    rows=min(VL, job.K - first - lane),
                    target=job.target + (row * job.C + channel) * TAPS * item,
                    step=job.C * TAPS,
                    bias=job.zeros,
                    mode=mode,
                    constants=np.int64(0),
                ),
            )


transform_address = worker_address(_transform, SUM_JOB, "Winograd's weight gradient: transforms")
multiply_address = worker_address(_multiply, SUM_JOB, "Winograd's weight gradient: products")
finish_address = worker_address(_finish, SUM_JOB, "Winograd's weight gradient: sums")
