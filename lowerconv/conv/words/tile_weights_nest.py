"""The loops of the weight gradient in tiles: what one core does; see `conv.words.tile_weights`.

dw = dy x', filters in the rows of tiles, channels in their columns, pairs of pixels summed over::

    1  dy is copied into panels [16 pixels][NR filters][16 words],
       x is transposed into blocks [pixel][16 channels]
    2  for kb in blocks of k             both operands of a block stay in L2
           for panel, tile of channels, tap
               microkernel               x a tap's distance farther on
    3  sums [tap][filter][channel] become dw

Each task of 2 is computed by one core, k in its order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import carray

from lowerconv.codegen.compiled import internal
from lowerconv.codegen.ranges import share
from lowerconv.codegen.signatures import ADD, Configure, Tile, Transpose
from lowerconv.runtime.launch import call, pointer, worker_address
from lowerconv.runtime.records import Operands, record_dtype

SIZE = 16  # as `codegen.amx.SIZE`
NR = 2 * SIZE  # filters of a panel, and channels of a tile
WORD, HALF = 4, 2  # bytes
_16 = np.uint32(16)


class TilesProblem(NamedTuple):
    """The gradient: `source` is x, `filters` dy, bits of bf16; C and K are those of a group."""

    images: int
    groups: int
    C: int
    K: int
    taps: int
    H: int
    W: int
    stride_h: int
    stride_w: int
    P: int
    Q: int


class TilesOfPixels(NamedTuple):
    """Planes of words, and how they are cut."""

    pairs: int
    pitch: int  #        pixels from one row to the next
    plane: int
    pixels: int  #       of a block of channels, those behind the last plane included
    steps: int  #        of k, 16 pixels each
    block_steps: int
    panels: int  #       of NR filters
    blocks: int  #       of 16 channels
    phases: int
    phase_table: int  #  address: first row, rows, where they lie; likewise columns
    tap_table: int  #    address: phase, pixels


class Places(NamedTuple):
    """Where things begin in the workspace, in bytes."""

    dy_at: int
    x_at: int
    sums_at: int
    buffers_at: int
    buffer_bytes: int  # of each worker
    end: int


class TilesKernels(NamedTuple):
    """Addresses."""

    kernel: int
    kernel_last_channels: int
    kernel_last_filters: int
    kernel_last: int
    geometry: int
    zeros: int
    transpose: int
    configure: int
    configuration: int


class TilesWorkers(NamedTuple):
    """How many there are."""

    workers: int


TILES_JOB = record_dtype(Operands, TilesProblem, TilesOfPixels, Places, TilesKernels, TilesWorkers)


@internal
def _clear(target, items):
    """Write zeros."""
    to = carray(pointer(target), items, np.uint32)
    for i in range(items):
        to[i] = 0


@internal
def _row(first, second, to, columns, step):
    """Join pixels of two images, `step` apart."""
    if step == 1:
        for j in range(columns):
            to[j] = np.uint32(first[j]) | np.uint32(np.uint32(second[j]) << _16)
    else:
        for j in range(columns):
            at = j * step
            to[j] = np.uint32(first[at]) | np.uint32(np.uint32(second[at]) << _16)


@internal
def _row_alone(first, to, columns, step):
    """Join pixels of an image that has no other with zeros."""
    for j in range(columns):
        to[j] = first[j * step]


@internal
def _join(first, second, target, rows, columns, row_step, step, pitch):
    """Join rows of two images; a `second` of 0 is none.  Steps are items."""
    reach = (columns - 1) * step + 1
    for i in range(rows):
        to = carray(pointer(target + i * pitch * WORD), columns, np.uint32)
        at = i * row_step * HALF
        one = carray(pointer(first + at), reach, np.uint16)
        if second:
            _row(one, carray(pointer(second + at), reach, np.uint16), to, columns, step)
        else:
            _row_alone(one, to, columns, step)


@internal
def _pack_dy(job, number, buffer):
    """Copy the filters of a panel, of a pair of images."""
    pair, panel, group = (
        number % job.pairs,
        number // job.pairs % job.panels,
        number // (job.pairs * job.panels),
    )
    size, groups_of_words = job.P * job.Q, job.plane // SIZE
    line = carray(pointer(buffer), job.plane, np.uint32)
    begin = ((group * job.panels + panel) * job.steps + pair * groups_of_words) * NR * SIZE
    to = carray(
        pointer(job.scratch + job.dy_at + begin * WORD), (groups_of_words, NR, SIZE), np.uint32
    )
    for i in range(min(NR, job.K - panel * NR)):
        at = 2 * pair * job.ld_filters + (group * job.K + panel * NR + i) * size
        first = job.filters + at * HALF
        second = first + job.ld_filters * HALF if 2 * pair + 1 < job.images else 0
        _join(first, second, buffer, job.P, job.Q, job.Q, 1, job.pitch)
        for s in range(groups_of_words):
            for j in range(SIZE):
                to[s, i, j] = line[s * SIZE + j]


@internal
def _pack_x(job, number, phase, phases, buffer):
    """Transpose a block of channels, of a phase of a pair of images."""
    pair, block, group = (
        number % job.pairs,
        number // job.pairs % job.blocks,
        number // (job.pairs * job.blocks),
    )
    row, rows, row_at, column, columns, column_at = phases[phase]
    valid = min(SIZE, job.C - block * SIZE)
    for i in range(valid):
        at = 2 * pair * job.ld_source + (group * job.C + block * SIZE + i) * job.H * job.W
        first = job.source + (at + row * job.W + column) * HALF
        second = first + job.ld_source * HALF if 2 * pair + 1 < job.images else 0
        target = buffer + (i * job.plane + row_at * job.pitch + column_at) * WORD
        _join(first, second, target, rows, columns, job.stride_h * job.W, job.stride_w, job.pitch)
    begin = _block_of(job, phase, group, block) + pair * job.plane * SIZE * WORD
    call(
        job.transpose,
        Transpose(
            source=buffer,
            ld_source=job.plane,
            rows=valid,
            columns=job.plane,
            target=begin,
            ld_target=SIZE,
            lanes=SIZE,
        ),
    )
    if pair + 1 == job.pairs:
        rest = job.pixels - job.pairs * job.plane
        _clear(begin + job.plane * SIZE * WORD, rest * SIZE)


@internal
def _block_of(job, phase, group, block):
    """Return the address of a block of channels of x."""
    number = (phase * job.groups + group) * job.blocks + block
    return job.scratch + job.x_at + number * job.pixels * SIZE * WORD


def _pack(jobs, worker):
    """Copy and transpose one worker's share of both operands."""
    job = carray(jobs, 1)[0]
    buffer = job.scratch + job.buffers_at + worker * job.buffer_bytes
    phases = carray(pointer(job.phase_table), (job.phases, 6), np.int64)
    filters = job.groups * job.panels * job.pairs
    channels = job.groups * job.blocks * job.pairs
    first, last = share(filters + job.phases * channels, worker, job.workers)
    before = np.int64(-2)  # whose zeros are in the buffer
    for number in range(first, last):
        phase = (number - filters) // channels if number >= filters else np.int64(-1)
        if phase != before:
            _clear(buffer, SIZE * job.plane)
            before = phase
        if number < filters:
            _pack_dy(job, number, buffer)
        else:
            _pack_x(job, (number - filters) % channels, phase, phases, buffer)


def _multiply(jobs, worker):
    """Compute one worker's tiles."""
    job = carray(jobs, 1)[0]
    taps = carray(pointer(job.tap_table), (job.taps, 2), np.int64)
    wide = (job.blocks + 1) // 2
    filters = job.groups * job.K
    first, last = share(job.groups * job.panels * wide * job.taps, worker, job.workers)
    call(job.configure, Configure(job.configuration))
    for k0 in range(0, job.steps, job.block_steps):
        k = min(job.block_steps, job.steps - k0)
        mode = ADD if k0 else np.int64(0)
        for number in range(first, last):
            tap, rest = number % job.taps, number // job.taps
            block, rest = rest % wide, rest // wide
            panel, group = rest % job.panels, rest // job.panels
            n0, c0 = panel * NR, block * NR
            phase, distance = taps[tap]
            if n0 + NR < job.K:
                kernel = job.kernel if c0 + NR < job.C else job.kernel_last_channels
            else:
                kernel = job.kernel_last_filters if c0 + NR < job.C else job.kernel_last
            x = _block_of(job, phase, group, 2 * block) + (k0 * SIZE + distance) * SIZE * WORD
            dy = ((group * job.panels + panel) * job.steps + k0) * NR * SIZE * WORD
            out = job.target if job.taps == 1 else job.scratch + job.sums_at
            out += ((tap * filters + group * job.K + n0) * job.C + c0) * WORD
            call(
                kernel,
                Tile(
                    k=k,
                    vectors=x,
                    broadcasts=job.scratch + job.dy_at + dy,
                    table=np.int64(0),
                    out=out,
                    ld_out=job.C,
                    bias=job.zeros,
                    valid=min(NR, job.K - n0),
                    mode=mode,
                    geometry=job.geometry,
                    constants=np.int64(0),
                ),
            )
    call(job.configure, Configure(np.int64(0)))


def _finish(jobs, worker):
    """Transpose the sums of one worker's share of the filters: taps become neighbours."""
    job = carray(jobs, 1)[0]
    filters = job.groups * job.K
    first, last = share(filters, worker, job.workers)
    for n in range(first, last):
        for tap in range(0, job.taps, SIZE):
            count = min(SIZE, job.taps - tap)
            call(
                job.transpose,
                Transpose(
                    source=job.scratch + job.sums_at + (tap * filters + n) * job.C * WORD,
                    ld_source=filters * job.C,
                    rows=count,
                    columns=job.C,
                    target=job.target + (n * job.C * job.taps + tap) * WORD,
                    ld_target=job.taps,
                    lanes=count,
                ),
            )


pack_address = worker_address(_pack, TILES_JOB, "packing for the weight gradient in tiles")
multiply_address = worker_address(_multiply, TILES_JOB, "the weight gradient in tiles")
finish_address = worker_address(_finish, TILES_JOB, "the weight gradient in tiles: taps")
