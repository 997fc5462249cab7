"""The macro-kernel of forward and input gradient: what one core does, loop by loop.

C = A B, with pixels of the result in the rows of C (m), filters in its columns (n), and the taps of
all channels summed over (k)::

    for pc in blocks of k                       KC of k: some channels of a group, all of their taps
        for jc in blocks of n                   NC of n: panels of B that stay in L2, packed here
            for ic in pieces of m               MC of m: a band of rows of an image, padded here
                for ir in tiles of the piece    MR of m: some pixels, in registers
                    for jr in panels of NC      NR of n: the microkernel

(`ConvProblem.gemm_shape` and `ConvPlan.explain` tell the product of im2col, ``w . col(x)``: there
filters are m, and pixels n.)

Those are BLIS's loops in another order: a band of the source is padded once for all panels of a
block, and a tile of its pixels stays in L1 while they pass.  A, the source lowered by im2col, never
exists: a tap is an offset in a table of the microkernel's steps, into the image itself where
nothing is padded, else into a padded band of it.  An input gradient with a stride is several
convolutions, its *phases*, one for each remainder of the image's coordinates by the stride; they
share bands.

After Van Zee, van de Geijn, "BLIS: a framework for rapidly instantiating BLAS functionality"
(2015), section 5.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import carray

from lowerconv.codegen.compiled import internal
from lowerconv.codegen.isa import LINE
from lowerconv.codegen.signatures import (
    ACTIVATE,
    ADD,
    Activate,
    Configure,
    Gather,
    Prefetch,
    RequantizedTile,
    Tile,
)
from lowerconv.conv.copies import pack_panel, pack_tiles, pad_planes, start_sums
from lowerconv.conv.records import FILTERS_IN_PLACE, FORWARD_JOB, PACKED
from lowerconv.runtime.launch import call, pointer, worker_address

NONE = np.int64(-1)  # in place of a number, where nothing has been copied


class BlockOfK(NamedTuple):
    """Some channels of a group: what is summed at a time."""

    group: int
    channel: int
    channels: int
    mode: int  # what the microkernel does with the sums


class Panels(NamedTuple):
    """The panels of B of a block of n, and what their sums start from."""

    at: int  #    address of the first
    step: int  #  bytes from one filter to the next
    sums: int  #  address of an item for each filter


class Pixels(NamedTuple):
    """Where a piece of A is read, and its part of C written."""

    source: int  # address that pixel (0, 0) of the image reads from, even if it lies before a band
    target: int  # address of pixel (0, 0) of the first filter of the block
    residual: int  # likewise, of what is added
    number: int  # of the piece, in its image


@internal
def _steps(job, channels):
    """Return the steps that all taps of some channels take."""
    return (channels * job.taps + job.k_step - 1) // job.k_step


@internal
def _pack(job, group, channel, channels, panel, target, exact):
    """Pack some channels of a panel of filters."""
    if job.k_step > 1:
        pack_tiles(job, group, panel, target)
    else:
        pack_panel(job, group, channel, channels, panel, target, exact)


@internal
def _panels(job, worker, block, jc, end):
    """Return filters ``jc:end`` of a block of k as panels: where they are, or packed now."""
    item, k = job.itemsize, _steps(job, job.C) * job.k_step
    scratch = job.scratch + worker * job.scratch_bytes
    first = block.channel * job.taps
    if job.filters_from == FILTERS_IN_PLACE:
        step = k * item
        at = job.filters + (filter_index(job, block, jc) * k + first) * item
    elif job.filters_from == PACKED:  # by the plan, all of k: a copy for every NUMA node
        step = k * item
        copy = carray(pointer(job.copies), (job.workers, 3), np.int64)[worker, 0]
        at = job.filters + copy + (block.group * job.panels * job.NR + jc) * step
        at += first * job.NR * item
    else:
        step = _steps(job, block.channels) * job.k_step * item
        at = scratch
        for jr in range(jc, end, job.NR):
            to = at + (jr - jc) * step
            _pack(job, block.group, block.channel, block.channels, jr // job.NR, to, False)
    sums = scratch + job.sums_at
    count = min(end, job.K) - jc
    if not job.bias or block.channel > 0:
        count = 0
    start_sums(
        sums, (end - jc) * item, job.bias + filter_index(job, block, jc) * item, count * item
    )
    return Panels(at, step, sums)


@internal
def filter_index(job, block, n):
    """Return the number of a group's filter n among all filters."""
    return block.group * job.K + n


@internal
def _band(job, block, piece):
    """Return the address of a band's first channel, and the first row of it that is read."""
    image, number = piece // job.pieces, piece % job.pieces
    plane = image * job.ld_source + (block.group * job.C + block.channel) * job.H * job.W
    return job.source + plane * job.itemsize, number * job.band * job.stride_h + job.first_row


@internal
def _prefetch(job, block, piece):
    """Ask for the rows of the band that is padded next: they arrive while this one runs."""
    source, first = _band(job, block, piece)
    row0, row1 = max(0, first), min(job.H, first + job.padded_rows)
    row_bytes = job.W * job.itemsize
    lines = (row1 - row0) * row_bytes // LINE + 1
    call(
        job.prefetch, Prefetch(source + row0 * row_bytes, block.channels, job.H * row_bytes, lines)
    )


@internal
def _pixels(job, block, jc, piece, padded):
    """Return where a piece is read, in place or in its padded band, and written."""
    item = job.itemsize
    image, number = piece // job.pieces, piece % job.pieces
    if job.padded:
        source = padded - number * job.band * job.stride_h * job.pitch * item
    else:
        plane = (block.group * job.C + block.channel) * job.plane
        source = job.source + (image * job.ld_source + plane) * item
    plane = filter_index(job, block, jc) * job.out_plane * job.out_filter_bytes
    target = job.target + image * job.ld_target * job.out_item_bytes + plane
    residual = job.residual + image * job.ld_residual * job.out_item_bytes + plane
    return Pixels(source, target, residual, number)


@internal
def requantized(job, tile, place, residual):
    """Return a tile whose sums are requantized; its filters' scales begin `place` bytes on."""
    return RequantizedTile(
        k=tile.k,
        vectors=tile.vectors,
        broadcasts=tile.broadcasts,
        table=tile.table,
        out=tile.out,
        ld_out=tile.ld_out,
        bias=tile.bias,
        valid=tile.valid,
        scales=job.scales + place,
        shifts=job.shifts + place,
        residual=residual,
        geometry=tile.geometry,
        constants=job.requantize_constants,
    )


@internal
def _tiles(job, phase, block, panels, pixels, gathered, jc, end):
    """Multiply the tiles of a piece, of one phase, with the panels of a block of n."""
    item = job.itemsize
    first = pixels.number * phase.tiles_per_piece
    last = min(first + phase.tiles_per_piece, phase.tiles)
    tables = carray(pointer(phase.tables), (last, 2), np.int64)
    for ir in range(first, last):
        table, taps = tables[ir // phase.tiles_per_row]
        row = ir // phase.tiles_per_row * phase.TH
        column = ir % phase.tiles_per_row * phase.TW
        tail = row + phase.TH > phase.P or column + phase.TW > phase.Q
        kernel, kernel_last, geometry = phase.kernel, phase.kernel_last, phase.geometry
        if tail:
            kernel, kernel_last = phase.kernel_tail, phase.kernel_last_tail
            geometry = phase.geometry_tail
        a = pixels.source + (row * job.stride_h * job.pitch + column * job.stride_w) * item
        c = phase.out_offset + row * phase.out_row + column * phase.out_column
        c *= job.out_item_bytes
        k = block.channels * taps
        if job.k_step > 1:
            k = _steps(job, block.channels)
        if job.gather:
            count = min(phase.TW, phase.Q - column)
            numbers_at, taps_at = job.gather_numbers, job.gather_taps
            call(job.gather, Gather(pixels.source, column, count, gathered, numbers_at, taps_at))
            a = gathered
        for jr in range(jc, end, job.NR):
            b = panels.at + (jr - jc) * panels.step
            plane = c + (jr - jc) * job.out_plane * job.out_filter_bytes
            tile = Tile(
                k=k,
                vectors=a if job.pixels_in_vectors else b,
                broadcasts=b if job.pixels_in_vectors else a,
                table=table,
                out=pixels.target + plane,
                ld_out=job.out_plane,
                bias=panels.sums + (jr - jc) * item,
                valid=min(job.NR, job.K - jr),
                mode=block.mode,
                geometry=geometry,
                constants=job.constants,
            )
            address = kernel if jr + job.NR < job.K else kernel_last
            if job.scales:
                place = (block.group * job.panels * job.NR + jr) * item
                call(address, requantized(job, tile, place, pixels.residual + plane))
            else:
                call(address, tile)


@internal
def _activate(job, phase, pixels, filters):
    """Apply the activation to what the tiles of a piece have left in some filters' planes."""
    per_row = phase.tiles_per_row
    first = pixels.number * phase.tiles_per_piece
    last = min(first + phase.tiles_per_piece, phase.tiles)
    while first < last:
        row, column = first // per_row, first % per_row
        line, lines = row * phase.TH, min(phase.TH, phase.P - row * phase.TH)
        if column == 0 and last - first >= per_row:  # rows of tiles follow each other in memory
            rows = (last - first) // per_row
            begin, items = np.int64(0), min(rows * phase.TH, phase.P - line) * phase.Q
            lines, first = np.int64(1), first + rows * per_row
        else:
            end = min(last - row * per_row, per_row)
            begin = column * phase.TW
            items, first = min(end * phase.TW, phase.Q) - begin, row * per_row + end
        for i in range(lines):
            target = pixels.target + ((line + i) * phase.Q + begin) * job.itemsize
            call(job.activate, Activate(target, filters, items, job.out_plane, job.constants))


@internal
def _multiply(jobs, worker, panel0, panel1, piece0, piece1):
    """Compute a part of C: some panels, counted over all groups, of some pieces."""
    job = carray(jobs, 1)[0]
    phases = carray(jobs, job.phases)
    padded = job.scratch + worker * job.scratch_bytes + job.padded_at
    gathered = job.scratch + worker * job.scratch_bytes + job.gathered_at
    in_scratch = NONE
    for group in range(panel0 // job.panels, (panel1 - 1) // job.panels + 1):
        n0 = max(panel0 - group * job.panels, 0) * job.NR
        n1 = min(panel1 - group * job.panels, job.panels) * job.NR
        for pc in range(0, job.C, job.KC):
            channels = min(job.KC, job.C - pc)
            mode = ADD if pc > 0 or job.add else np.int64(0)
            if job.kernels_activate and pc + channels == job.C:
                mode |= ACTIVATE
            block = BlockOfK(group, pc, channels, mode)
            for jc in range(n0, n1, job.NC):
                end = min(jc + job.NC, n1)
                panels = _panels(job, worker, block, jc, end)
                for ic in range(piece0, piece1):
                    if job.padded:
                        wanted = (ic * job.groups + group) * job.C + pc
                        if wanted != in_scratch:
                            source, first = _band(job, block, ic)
                            step = job.plane * job.itemsize
                            pad_planes(job, source, channels, first, padded, step, job.pad_bits)
                            in_scratch = wanted
                        if ic + 1 < piece1:
                            _prefetch(job, block, ic + 1)
                    pixels = _pixels(job, block, jc, ic, padded)
                    for phase in range(job.phases):
                        _tiles(job, phases[phase], block, panels, pixels, gathered, jc, end)
                    if job.activate and pc + channels == job.C:  # forward, which has one phase
                        _activate(job, phases[0], pixels, min(end, job.K) - jc)


@internal
def parts_of(job, worker):
    """Return a worker's parts, four numbers each; see `partition.part_table`."""
    begins = carray(pointer(job.parts), job.workers + 1, np.int64)
    begin, end = begins[worker], begins[worker + 1]
    return carray(pointer(job.parts + 8 * begin), ((end - begin) // 4, 4), np.int64)


def _macrokernel(jobs, worker):
    """Compute one worker's parts of C."""
    job = carray(jobs, 1)[0]
    parts = parts_of(job, worker)
    if job.configure:
        call(job.configure, Configure(job.configuration))
    for i in range(len(parts)):
        panel0, panel1, piece0, piece1 = parts[i]
        _multiply(jobs, worker, panel0, panel1, piece0, piece1)
    if job.configure:
        call(job.configure, Configure(np.int64(0)))


def _pack_all(jobs, worker):
    """Pack every panel once for each NUMA node: ``target`` is kept by a plan of constant filters.

    The workers of a node pack its copy together; ``copies`` has for each worker where that copy
    begins, its number among them, and how many they are.
    """
    job = carray(jobs, 1)[0]
    panel_bytes = job.NR * _steps(job, job.C) * job.k_step * job.itemsize
    copy, number, workers = carray(pointer(job.copies), (job.workers, 3), np.int64)[worker]
    for panel in range(number, job.groups * job.panels, workers):
        target = job.target + copy + panel * panel_bytes
        _pack(job, panel // job.panels, 0, job.C, panel % job.panels, target, True)


macrokernel_address = worker_address(_macrokernel, FORWARD_JOB, "forward and input gradient")
pack_address = worker_address(_pack_all, FORWARD_JOB, "packing filters")
