"""What one core does in Winograd's convolution: transform a piece, multiply, transform back.

A piece is some tiles of the source.  Its transform, V, stays in the core's own cache while one
panel of filters after the other is multiplied with it, 36 small products for each; what a panel
leaves, M, is transformed back and stored at once::

    V [point][block of VL channels][tile][VL]
    U [panel][point][channel][F]                F filters of a panel, transformed once per call
    M [point][tile][F]

After Jia et al., "Optimizing N-dimensional, Winograd-based convolution for manycore CPUs" (2018),
with the order of the loops of Zlateski et al., "FFT convolutions are faster than Winograd on
modern CPUs, here's why" (2018): what is transformed never leaves the caches.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import carray

from lowerconv.codegen.compiled import njit
from lowerconv.codegen.transforms import POINTS_2D, M, R
from lowerconv.conv.macrokernel import pack_panel, start_sums
from lowerconv.runtime.launch import OPERANDS, call, loops, pointer, share

TAPS = R * R
CHUNK = 32  # channels of a panel that are transformed at a time

JOB = np.dtype(
    [
        (name, np.int64)
        for name in (
            *OPERANDS,
            *("scratch_bytes", "itemsize", "add"),
            *("images", "H", "W", "P", "Q"),
            # channels are summed over, filters are the result's; both per group
            *("groups", "channels", "channel_block", "taps", "results"),
            *("F", "VL", "panels", "feed", "pad", "transpose", "turn"),
            # pieces: images together, bands of rows of tiles, segments of those rows
            *("together", "bands", "band", "segments", "segment", "tiles_down", "tiles_across"),
            # the band of the source: where it begins, and where its tiles do
            *("first_row", "left", "skip", "pitch", "band_rows", "places"),
            # items from one point to the next; tiles that V has room for
            *("step_V", "step_U", "step_M", "room"),
            *("extent", "gather", "transform_source"),
            *("transform_filters", "transform_target", "scatter"),
            # microkernels by the tiles that are left: of a panel, and of the last one
            *("MR", "kernels", "table", "zeros"),
            # transformed filters: kept by the plan, else in the workspace, else of each core's own
            *("kept", "shared_at", "rectangles", "workers"),
            *("V_at", "U_at", "M_at", "taps_at", "band_at", "strip_at", "bias_at"),
        )
    ]
)


@njit(cache=True, nogil=True)
def _place(job, piece):
    """Return images from and to, first row of tiles and rows, first tile of a row and tiles."""
    segment = piece % job.segments
    band = piece // job.segments % job.bands
    image = piece // (job.segments * job.bands) * job.together
    images = min(job.together, job.images - image)
    row, column = band * job.band, segment * job.segment
    rows = min(job.band, job.tiles_down - row)
    return image, images, row, rows, column, min(job.segment, job.tiles_across - column)


@njit(cache=True, nogil=True)
def clear(address, count):
    """Write zeros to so many bytes."""
    target = carray(pointer(address), count, np.uint8)
    for i in range(count):
        target[i] = 0


@njit(cache=True, nogil=True)
def transform_block(job, image, group, channel, row, rows, column, across, band, target):
    """Transform tiles of VL channels of an image, `rows` times `across` of them.

    The band must have zeros where a tile reaches beyond the image: pixels of all images and
    channels go to the same places.
    """
    item, VL = job.itemsize, job.VL
    line, size = job.pitch * VL * item, job.H * job.W
    first_row, first_column = M * row + job.first_row, M * column - job.left
    row0, row1 = max(0, first_row), min(job.H, first_row + M * (rows - 1) + job.extent)
    plane = (group * job.channels + channel) * size
    source = job.source + (image * job.source_step + plane) * item
    count = min(VL, job.channels - channel)
    skip = job.skip
    if job.segments == 1:
        source += row0 * job.W * item
        corner = band + (row0 - first_row) * line + job.left * VL * item
        if row1 > row0:
            pixels = (row1 - row0) * job.W
            call(job.gather, (source, size, count, pixels, job.places, corner))
    else:
        first_column += skip
        skip = np.int64(0)
        column0 = max(0, first_column)
        column1 = min(job.W, first_column + M * (across - 1) + job.extent)
        for i in range(row0, row1):
            if column1 > column0:
                corner = band + (i - first_row) * line + (column0 - first_column) * VL * item
                begin = source + (i * job.W + column0) * item
                call(job.gather, (begin, size, count, column1 - column0, job.places, corner))
    for i in range(rows):
        call(
            job.transform_source,
            (
                band + M * i * line + skip * VL * item, job.pitch * VL, across,
                target + i * across * VL * item, job.step_V,
            ),
        )  # fmt: skip


@njit(cache=True, nogil=True)
def _source(job, piece, group, band, target):
    """Transform the source of a piece: V."""
    item, VL = job.itemsize, job.VL
    image0, images, row, rows, column, across = _place(job, piece)
    clear(band, job.band_rows * job.pitch * VL * item)
    for number in range(images):
        for channel in range(0, job.channels, VL):
            to = target + (channel * job.room + number * rows * across * VL) * item
            image = image0 + number
            transform_block(job, image, group, channel, row, rows, column, across, band, to)


@njit(cache=True, nogil=True)
def _filters(job, group, panel, channel, channels, step, taps, target):
    """Transform some channels of a panel of filters: ``target[point][channel][F]``."""
    item, width = job.itemsize, job.F
    valid = min(width, job.results - panel * width)
    for first in range(0, channels, CHUNK):
        count = min(CHUNK, channels - first)
        pack_panel(job, group, channel + first, count, panel, taps, False)
        for lane in range(0, valid, job.VL):
            call(
                job.transform_filters,
                (
                    taps + lane * item, count, width,
                    target + (first * width + lane) * item, step,
                ),
            )  # fmt: skip


@njit(cache=True, nogil=True)
def _multiply(job, panel, channel, channels, filters, sources, products, tiles):
    """Multiply V with some channels of a panel: M, at all points."""
    item = job.itemsize
    kernels = carray(pointer(job.kernels), (2, job.MR + 1), np.int64)
    last = np.int64(1) if panel == job.panels - 1 else np.int64(0)
    mode = np.int64(1) if channel > 0 else np.int64(0)
    row, MR = job.VL * item, job.MR
    for point in range(POINTS_2D):
        vectors = filters + point * job.step_U * item
        source = sources + (point * job.step_V + channel * job.room) * item
        product = products + point * job.step_M * item
        for tile in range(0, tiles, MR):
            count = min(MR, tiles - tile)
            call(
                kernels[last, count],
                (
                    channels, vectors, source + tile * row, job.table,
                    product + tile * job.F * item, job.F, job.zeros, count, mode,
                ),
            )  # fmt: skip


@njit(cache=True, nogil=True)
def _target(job, piece, group, panel, products, strip, biases):
    """Transform M back, and store it with what the epilogue adds."""
    item, VL = job.itemsize, job.VL
    image0, images, row, rows, column, across = _place(job, piece)
    begin = panel * job.F
    valid = min(job.F, job.results - begin)
    width = job.Q if job.segments == 1 else min(M * across, job.Q - M * column)
    high = min(M * rows, job.P - M * row)
    mode = np.int64(1) if job.add else np.int64(0)
    if job.relu:
        mode |= 2
    size = job.P * job.Q
    for number in range(images):
        for lane in range(0, valid, VL):
            source = products + (number * rows * across * job.F + lane) * item
            for i in range(rows):
                call(
                    job.transform_target,
                    (
                        source + i * across * job.F * item, job.step_M, job.F, across,
                        strip + M * i * width * VL * item, width * VL, M * VL,
                    ),
                )  # fmt: skip
            plane = (group * job.results + begin + lane) * size + M * row * job.Q + M * column
            out = job.target + ((image0 + number) * job.target_step + plane) * item
            bias = biases + lane * item
            count = min(VL, valid - lane)
            if job.segments == 1:
                call(job.scatter, (strip, high * width, count, out, size, bias, mode))
            else:
                for i in range(high):
                    call(
                        job.scatter,
                        (
                            strip + i * width * VL * item, width, count,
                            out + i * job.Q * item, size, bias, mode,
                        ),
                    )  # fmt: skip


@njit(cache=True, nogil=True)
def _rectangle(job, scratch, panel0, panel1, piece0, piece1):
    """Convolve pieces with panels."""
    item = job.itemsize
    V, products = scratch + job.V_at, scratch + job.M_at
    filters = job.kept
    if not filters and job.shared_at:
        filters = job.scratch + job.shared_at
    for group in range(panel0 // job.panels, (panel1 - 1) // job.panels + 1):
        first = max(panel0 - group * job.panels, 0)
        last = min(panel1 - group * job.panels, job.panels)
        for piece in range(piece0, piece1):
            _, images, _, rows, _, across = _place(job, piece)
            tiles = images * rows * across
            _source(job, piece, group, scratch + job.band_at, V)
            for panel in range(first, last):
                for channel in range(0, job.channels, job.channel_block):
                    channels = min(job.channel_block, job.channels - channel)
                    if filters:
                        number = (group * job.panels + panel) * POINTS_2D
                        U = filters + (number * job.step_U + channel * job.F) * item
                    else:
                        U = scratch + job.U_at
                        taps = scratch + job.taps_at
                        _filters(job, group, panel, channel, channels, job.step_U, taps, U)
                    _multiply(job, panel, channel, channels, U, V, products, tiles)
                begin = group * job.results + panel * job.F
                count = min(job.F, job.results - panel * job.F) if job.bias else np.int64(0)
                biases = scratch + job.bias_at
                start_sums(biases, job.F * item, job.bias + begin * item, count * item)
                _target(job, piece, group, panel, products, scratch + job.strip_at, biases)


def _winograd(jobs, worker):
    """Do one worker's share: rectangles of panels x pieces."""
    job = carray(jobs, 1)[0]
    numbers = carray(pointer(job.rectangles), job.workers + 1, np.int64)
    begin, end = numbers[worker], numbers[worker + 1]
    numbers = carray(pointer(job.rectangles), end, np.int64)
    scratch = job.scratch + worker * job.scratch_bytes
    for at in range(begin, end, 4):
        _rectangle(job, scratch, numbers[at], numbers[at + 1], numbers[at + 2], numbers[at + 3])


def _prepare(jobs, worker):
    """Transform one worker's share of the filters, to where all can read them."""
    job = carray(jobs, 1)[0]
    item = job.itemsize
    target = job.kept if job.kept else job.scratch + job.shared_at
    chunks = -(-job.channels // CHUNK)
    first, last = share(job.groups * job.panels * chunks, worker, job.workers)
    taps = job.scratch + worker * job.scratch_bytes + job.taps_at
    for number in range(first, last):
        panel, channel = number // chunks, number % chunks * CHUNK
        count = min(CHUNK, job.channels - channel)
        to = target + (panel * POINTS_2D * job.step_U + channel * job.F) * item
        _filters(
            job, panel // job.panels, panel % job.panels, channel, count, job.step_U, taps, to
        )  # fmt: skip


@lru_cache
def winograd_address() -> int:
    """Return the address of the loops of one core, ``(job, worker)``."""
    return loops(_winograd, JOB, "Winograd's convolution")


@lru_cache
def prepare_address() -> int:
    """Return the address of the transform of the filters, ``(job, worker)``."""
    return loops(_prepare, JOB, "Winograd's filters")
