"""What one core does in the fused engine: pack filters, lower a band of an image, run tiles.

Forward and input gradient are the same loops: a convolution of a source with filters that were
packed into panels.  An input gradient with a stride is several such convolutions, its *phases*,
one for each remainder of the image coordinates by the stride.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import carray

from lowerconv.codegen.compiled import njit
from lowerconv.runtime.launch import OPERANDS, call, loops, pointer

# How filters reach the microkernel.
IN_PLACE, PACKED, FORWARD, TURNED = range(4)

# Everything a core needs to know; addresses and extents, all of them 64-bit integers.
JOB = np.dtype(
    [
        (name, np.int64)
        for name in (
            # operands: addresses; scratch_bytes of scratch for each worker
            *OPERANDS,
            *("scratch_bytes", "itemsize"),
            # the source: planes of H rows of W items
            *("images", "H", "W", "stride_h", "stride_w"),
            # channels are summed over, filters are the result's; both per group
            *("groups", "channels", "channel_block", "taps", "results"),
            # panels of F filters, panels_per_block of them packed at a time
            *("F", "VL", "panels", "panels_per_block", "feed", "swap"),
            # lowering: pieces of an image, each a band of rows, padded unless it is in place
            *("pieces", "band", "lower", "first_row", "lowered_rows", "left", "pitch", "plane"),
            # the result: items of a plane; what to do with sums
            *("out_plane", "add"),
            # phases follow each other in memory; the fields below are each one's own
            *("phases", "P", "Q", "TH", "TW", "tiles_per_row", "tiles", "tiles_per_piece"),
            *("tables", "out_offset", "out_row", "out_column"),
            *("kernel", "kernel_tail", "kernel_last", "kernel_last_tail"),
            # generated copies, the grid of workers, offsets in a worker's scratch
            *("pad", "transpose", "turn", "touch"),
            *("rectangles", "workers", "crews", "lowered_at", "bias_at"),
        )
    ]
)


@njit(cache=True, nogil=True)
def pack_panel(job, group, first_channel, channels, panel, target, exact):
    """Pack the filters of one panel as ``[channel, tap][filter]``.

    Unless it has to be `exact`, what follows the panel may be overwritten with the slack of its
    last vector: then nobody else may be packing that.
    """
    begin = panel * job.F
    valid = min(job.F, job.results - begin)
    item, taps, width = job.itemsize, job.taps, job.F
    if job.feed == TURNED and taps == 1 and not (exact and width % job.VL):
        at = ((group * job.channels + first_channel) * job.results + begin) * item
        call(
            job.pad,
            (
                job.filters + at, job.results, channels, valid, np.int64(0), channels,
                np.int64(0), target, width,
            ),
        )  # fmt: skip
        return
    for lane in range(0, valid, job.VL):
        lanes = min(job.VL, width - lane)
        rows = min(job.VL, valid - lane)
        if job.feed == FORWARD:
            row = group * job.results + begin + lane
            at = (row * job.channels + first_channel) * taps
            call(
                job.transpose,
                (
                    job.filters + at * item, job.channels * taps, rows, channels * taps,
                    target + lane * item, width, lanes,
                ),
            )  # fmt: skip
        else:
            row = (group * job.channels + first_channel) * job.results + begin + lane
            call(
                job.turn,
                (
                    job.filters + row * taps * item, job.results * taps, rows, channels,
                    target + lane * item, taps * width, width, lanes,
                ),
            )  # fmt: skip


@njit(cache=True, nogil=True)
def _lower(job, image, group, first_channel, channels, first_row, target):
    """Copy a band of rows of some channels, zeros around it."""
    item = job.itemsize
    plane = image * job.source_step + (group * job.channels + first_channel) * job.H * job.W
    for channel in range(channels):
        call(
            job.pad,
            (
                job.source + (plane + channel * job.H * job.W) * item, job.W, job.H, job.W,
                first_row, job.lowered_rows, job.left, target + channel * job.plane * item,
                job.pitch,
            ),
        )  # fmt: skip


@njit(cache=True, nogil=True)
def _ask_for(job, piece, group, first_channel, channels):
    """Prefetch the rows of the piece that is lowered next: they arrive while this one runs."""
    item = job.itemsize
    image, band = piece // job.pieces, piece % job.pieces
    row0 = max(0, band * job.band * job.stride_h + job.first_row)
    row1 = min(job.H, band * job.band * job.stride_h + job.first_row + job.lowered_rows)
    plane = image * job.source_step + (group * job.channels + first_channel) * job.H * job.W
    at = job.source + (plane + row0 * job.W) * item
    lines = (row1 - row0) * job.W * item // 64 + 1
    call(job.touch, (at, channels, job.H * job.W * item, lines))


@njit(cache=True, nogil=True)
def start_sums(target, room, source, count):
    """Write what sums start from: `count` bytes of the bias, and zeros up to `room`."""
    # Loops, because assigning slices would have numba compile the messages of its errors.
    sums = carray(pointer(target), room, np.uint8)
    start = carray(pointer(source), count, np.uint8)
    for i in range(count):
        sums[i] = start[i]
    for i in range(count, room):
        sums[i] = 0


@njit(cache=True, nogil=True)
def _rectangle(jobs, worker, panel0, panel1, piece0, piece1):
    """Convolve pieces with panels."""
    job = carray(jobs, 1)[0]
    phases = carray(jobs, job.phases)
    item = job.itemsize
    scratch = job.scratch + worker * job.scratch_bytes
    lowered = scratch + job.lowered_at
    biases = scratch + job.bias_at
    copy = carray(pointer(job.crews), (job.workers, 3), np.int64)[worker, 0]  # of its own node
    in_scratch = np.int64(-1)
    for group in range(panel0 // job.panels, (panel1 - 1) // job.panels + 1):
        g0 = max(panel0 - group * job.panels, 0)
        g1 = min(panel1 - group * job.panels, job.panels)
        for channel in range(0, job.channels, job.channel_block):
            channels = min(job.channel_block, job.channels - channel)
            mode = np.int64(1) if channel > 0 or job.add else np.int64(0)
            if job.relu and channel + channels == job.channels:
                mode |= 2
            for b0 in range(g0, g1, job.panels_per_block):
                b1 = min(b0 + job.panels_per_block, g1)
                # Where the panels are, how far apart, and what their sums start from.
                if job.feed == IN_PLACE:
                    row = group * job.results + b0 * job.F
                    weights = job.filters + (row * job.channels + channel) * job.taps * item
                    panel_bytes = job.F * job.channels * job.taps * item
                elif job.feed == PACKED:
                    panel_bytes = job.F * job.channels * job.taps * item
                    weights = job.filters + copy + (group * job.panels + b0) * panel_bytes
                else:
                    panel_bytes = job.F * channels * job.taps * item
                    weights = scratch
                    for panel in range(b0, b1):
                        to = scratch + (panel - b0) * panel_bytes
                        pack_panel(job, group, channel, channels, panel, to, False)
                begin = group * job.results + b0 * job.F
                count = min((b1 - b0) * job.F, job.results - b0 * job.F)
                if not job.bias or channel > 0:
                    count = 0
                room = (b1 - b0) * job.F * item
                start_sums(biases, room, job.bias + begin * item, count * item)
                for piece in range(piece0, piece1):
                    image, band = piece // job.pieces, piece % job.pieces
                    row0 = band * job.band
                    if job.lower:
                        wanted = (piece * job.groups + group) * job.channels + channel
                        if wanted != in_scratch:
                            first = row0 * job.stride_h + job.first_row
                            _lower(job, image, group, channel, channels, first, lowered)
                            in_scratch = wanted
                        if piece + 1 < piece1:
                            _ask_for(job, piece + 1, group, channel, channels)
                        source = lowered - row0 * job.stride_h * job.pitch * item
                    else:
                        plane = (group * job.channels + channel) * job.plane
                        source = job.source + (image * job.source_step + plane) * item
                    plane = (group * job.results + b0 * job.F) * job.out_plane
                    out = job.target + (image * job.target_step + plane) * item
                    for number in range(job.phases):
                        phase = phases[number]
                        tile0 = band * phase.tiles_per_piece
                        tile1 = min(tile0 + phase.tiles_per_piece, phase.tiles)
                        tables = carray(pointer(phase.tables), (tile1, 2), np.int64)
                        for tile in range(tile0, tile1):
                            table, steps = tables[tile // phase.tiles_per_row]
                            row = tile // phase.tiles_per_row * phase.TH
                            column = tile % phase.tiles_per_row * phase.TW
                            tail = row + phase.TH > phase.P or column + phase.TW > phase.Q
                            pixels = source + item * (
                                row * job.stride_h * job.pitch + column * job.stride_w
                            )
                            to = out + item * (
                                phase.out_offset + row * phase.out_row + column * phase.out_column
                            )
                            for panel in range(b0, b1):
                                valid = min(job.F, job.results - panel * job.F)
                                last = panel == job.panels - 1
                                if tail:
                                    kernel = phase.kernel_last_tail if last else phase.kernel_tail
                                else:
                                    kernel = phase.kernel_last if last else phase.kernel
                                at = weights + (panel - b0) * panel_bytes
                                if job.feed == PACKED:
                                    at += channel * job.taps * job.F * item
                                bias = biases + (panel - b0) * job.F * item
                                result = to + (panel - b0) * job.F * job.out_plane * item
                                if job.swap:
                                    first, second = pixels, at
                                else:
                                    first, second = at, pixels
                                call(
                                    kernel,
                                    (
                                        channels * steps, first, second, table, result,
                                        job.out_plane, bias, valid, mode,
                                    ),
                                )  # fmt: skip


def _convolve(jobs, worker):
    """Do one worker's share: rectangles of panels x pieces."""
    job = carray(jobs, 1)[0]
    numbers = carray(pointer(job.rectangles), job.workers + 1, np.int64)
    begin, end = numbers[worker], numbers[worker + 1]
    numbers = carray(pointer(job.rectangles), end, np.int64)
    for at in range(begin, end, 4):
        _rectangle(jobs, worker, numbers[at], numbers[at + 1], numbers[at + 2], numbers[at + 3])


def _pack_all(jobs, worker):
    """Pack every panel once for each NUMA node: ``target`` is kept by a plan of constant filters.

    Who works for a node is a crew: where its copy begins, the worker's number in it, their number.
    """
    job = carray(jobs, 1)[0]
    panel_bytes = job.F * job.channels * job.taps * job.itemsize
    copy, number, workers = carray(pointer(job.crews), (job.workers, 3), np.int64)[worker]
    for panel in range(number, job.groups * job.panels, workers):
        target = job.target + copy + panel * panel_bytes
        pack_panel(job, panel // job.panels, 0, job.channels, panel % job.panels, target, True)


@lru_cache
def convolve_address() -> int:
    """Return the address of the loops of one core, ``(job, worker)``."""
    return loops(_convolve, JOB, "forward and input gradient")


@lru_cache
def pack_address() -> int:
    """Return the address of the packing of constant filters, ``(job, worker)``."""
    return loops(_pack_all, JOB, "packing filters")
