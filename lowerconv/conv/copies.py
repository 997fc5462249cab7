"""What loops copy before they multiply: filters into panels, starts of sums, bands with padding."""

from __future__ import annotations

import numpy as np
from numba import carray

from lowerconv.codegen.amx import SIZE
from lowerconv.codegen.compiled import internal
from lowerconv.codegen.signatures import Pad, Transpose, TransposeTaps
from lowerconv.conv.records import PACKED_FROM_FORWARD
from lowerconv.runtime.launch import call, pointer


@internal
def pack_panel(job, group, channel, channels, panel, target, exact):
    """Pack some channels of a panel of filters, ``[channel, tap][NR filters]``.

    The slack of its last vector may overwrite what follows the panel, unless it is `exact`: another
    worker may be packing there.
    """
    begin = panel * job.NR
    valid = min(job.NR, job.K - begin)
    item, taps = job.itemsize, job.taps
    transposed = job.filters_from != PACKED_FROM_FORWARD  # filters come as [channel][filter][tap]
    if transposed and taps == 1 and not (exact and job.NR % job.VL):
        call(
            job.pad,
            Pad(
                source=job.filters + ((group * job.C + channel) * job.K + begin) * item,
                ld_source=job.K,
                H=channels,
                W=valid,
                first=np.int64(0),
                rows=channels,
                left=np.int64(0),
                target=target,
                pitch=job.NR,
                value=np.int64(0),
            ),
        )
        return
    for lane in range(0, valid, job.VL):
        lanes, rows = min(job.VL, job.NR - lane), min(job.VL, valid - lane)
        if transposed:
            row = (group * job.C + channel) * job.K + begin + lane
            call(
                job.transpose_taps,
                TransposeTaps(
                    source=job.filters + row * taps * item,
                    ld_source=job.K * taps,
                    rows=rows,
                    channels=channels,
                    target=target + lane * item,
                    ld_target=taps * job.NR,
                    width=job.NR,
                    lanes=lanes,
                ),
            )
        else:
            row = (group * job.K + begin + lane) * job.C + channel
            call(
                job.transpose,
                Transpose(
                    source=job.filters + row * taps * item,
                    ld_source=job.C * taps,
                    rows=rows,
                    columns=channels * taps,
                    target=target + lane * item,
                    ld_target=job.NR,
                    lanes=lanes,
                ),
            )


@internal
def pack_tiles(job, group, panel, target):
    """Pack a panel of filters for tiles, ``[step of k][NR filters][SIZE words]``.

    Zeros are behind the last word of k; places of filters that do not exist are not written.
    """
    k, K = job.C * job.taps, job.K
    steps = (k + SIZE - 1) // SIZE
    begin = panel * job.NR
    valid = min(job.NR, K - begin)
    to = carray(pointer(target), (steps, job.NR, SIZE), np.int32)
    first = job.filters + group * K * k * job.itemsize
    if job.filters_from == PACKED_FROM_FORWARD:
        source = carray(pointer(first + begin * k * job.itemsize), (valid, k), np.int32)
        for i in range(valid):
            for step in range(k // SIZE):
                for j in range(SIZE):
                    to[step, i, j] = source[i, step * SIZE + j]
            for j in range(k % SIZE):
                to[steps - 1, i, j] = source[i, k // SIZE * SIZE + j]
    elif job.taps == 1:  # they come as [channel][filter]
        for step in range(steps):
            call(
                job.transpose,
                Transpose(
                    source=first + (step * SIZE * K + begin) * job.itemsize,
                    ld_source=K,
                    rows=min(SIZE, job.C - step * SIZE),
                    columns=valid,
                    target=target + step * job.NR * SIZE * job.itemsize,
                    ld_target=np.int64(SIZE),
                    lanes=np.int64(SIZE),
                ),
            )
        return
    else:  # they come as [channel][filter][tap]
        by_channel = carray(pointer(first), (job.C, K * job.taps), np.int32)
        for channel in range(job.C):
            for i in range(valid):
                step, place = channel * job.taps // SIZE, channel * job.taps % SIZE
                for tap in range(job.taps):
                    to[step, i, place] = by_channel[channel, (begin + i) * job.taps + tap]
                    place += 1
                    if place == SIZE:
                        step, place = step + 1, 0
    for j in range(k % SIZE or SIZE, SIZE):
        for i in range(valid):
            to[steps - 1, i, j] = 0


@internal
def start_sums(target, room, source, count):
    """Write what sums start from: `count` bytes of the bias, and zeros up to `room`."""
    # Loops, because assigning slices would have numba compile the messages of its errors.
    sums = carray(pointer(target), room, np.uint8)
    start = carray(pointer(source), count, np.uint8)
    for i in range(count):
        sums[i] = start[i]
    for i in range(count, room):
        sums[i] = 0


@internal
def pad_planes(job, source, planes, first, target, step, value):
    """Copy a band of rows of some planes, from row `first` on, with padding around it.

    Parameters
    ----------
    job : record
    source : int
        Address of the first plane.
    planes : int
        How many, one behind the other.
    first : int
        Rows outside a plane are all padding.
    target : int
        Address.
    step : int
        Bytes from one copy to the next.
    value : int
        The bits of an item of the padding.
    """
    for plane in range(planes):
        call(
            job.pad,
            Pad(
                source=source + plane * job.H * job.W * job.itemsize,
                ld_source=job.W,
                H=job.H,
                W=job.W,
                first=first,
                rows=job.padded_rows,
                left=job.left,
                target=target + plane * step,
                pitch=job.pitch,
                value=value,
            ),
        )
