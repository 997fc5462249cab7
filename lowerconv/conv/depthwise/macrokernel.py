"""The loops of depthwise convolution: one plane of pixels after the other, nothing packed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import carray

from lowerconv.codegen.compiled import internal
from lowerconv.codegen.ranges import share
from lowerconv.codegen.signatures import ACTIVATE, ADD, Activate, Plane, SumLanes
from lowerconv.conv.copies import pad_planes
from lowerconv.conv.records import Epilogue
from lowerconv.runtime.launch import call, worker_address
from lowerconv.runtime.records import Operands, record_dtype


class PlaneProblem(NamedTuple):
    """The convolution: planes of H rows of W items; channels and filters are those of a group."""

    images: int
    groups: int
    C: int
    K: int
    taps: int
    transposed: int  # whether filters come as [channel][filter][tap]
    H: int
    W: int
    stride_h: int
    out_plane: int  #  items of a plane of the result, or of dy
    itemsize: int


class PlaneBlocks(NamedTuple):
    """How planes are cut, and padded."""

    band: int  #          rows of pixels
    pieces: int  #        bands of a plane
    together: int  #      groups whose bands are padded before they are computed
    slot: int  #          bytes of a padded band of a plane
    padded: int  #        whether bands are copied with zeros around them
    first_row: int  #     row of the source that pixel row 0 begins to read
    padded_rows: int  #  of a band
    left: int  #          zeros before a row
    pitch: int  #         items from one row to the next
    VL: int


class PlaneWorkers(NamedTuple):
    """Emitted functions, and what each worker has of the scratch."""

    pad: int
    sum_lanes: int
    zeros: int  #         address
    workers: int
    scratch_bytes: int
    sums_at: int  #       bytes, in a worker's scratch
    phases: int  #        records: of phases, or of groups of taps for a weight gradient
    add: int  #           whether results are added to what is there


class PlanePhase(NamedTuple):
    """What each phase has of its own; for a weight gradient, each group of taps."""

    P: int
    out_offset: int
    out_row: int
    kernel: int
    geometry: int  # address of `signatures.PlaneGeometry`
    first_tap: int


PLANE_JOB = record_dtype(Operands, PlaneProblem, PlaneBlocks, Epilogue, PlaneWorkers, PlanePhase)


@internal
def _source(job, image, group, channel, band, slot):
    """Return where a band of a plane of the source lies: in place, or in a slot of the scratch."""
    if job.padded:
        return slot + channel * job.slot
    plane = image * job.ld_source + (group * job.C + channel) * job.H * job.W
    row = band * job.band * job.stride_h
    return job.source + (plane + row * job.pitch) * job.itemsize


@internal
def _pad_band(job, image, group, band, slot):
    """Copy a band of the planes of a group, zeros around it."""
    plane = image * job.ld_source + group * job.C * job.H * job.W
    source, first = job.source + plane * job.itemsize, band * job.band * job.stride_h
    pad_planes(job, source, job.C, first + job.first_row, slot, job.slot, np.int64(0))


@internal
def _results(jobs, image, group, band, slot):
    """Compute a band of the results of a group."""
    job = carray(jobs, 1)[0]
    phases = carray(jobs, job.phases)
    item = job.itemsize
    for channel in range(job.C):
        source = _source(job, image, group, channel, band, slot)
        mode = ADD if channel > 0 or job.add else np.int64(0)
        if job.kernels_activate and channel == job.C - 1:
            mode |= ACTIVATE
        for result in range(job.K):
            if job.transposed:
                number = (group * job.C + channel) * job.K + result
            else:
                number = (group * job.K + result) * job.C + channel
            bias = job.zeros
            if job.bias and channel == 0:
                bias = job.bias + (group * job.K + result) * item
            plane = group * job.K + result
            out = image * job.ld_target + plane * job.out_plane
            for i in range(job.phases):
                phase = phases[i]
                row = band * job.band
                rows = min(job.band, phase.P - row)
                to = out + phase.out_offset + row * phase.out_row
                call(
                    phase.kernel,
                    Plane(
                        source=source,
                        filter=job.filters + number * job.taps * item,
                        bias=bias,
                        out=job.target + to * item,
                        first=row,
                        rows=rows,
                        mode=mode,
                        geometry=phase.geometry,
                        constants=job.constants,
                    ),
                )
                if job.activate and channel == job.C - 1:  # of a forward pass: its one phase
                    one, items = np.int64(1), rows * phase.out_row
                    to = job.target + to * item
                    call(job.activate, Activate(to, one, items, np.int64(0), job.constants))


def _planes(jobs, worker):
    """Do one worker's tasks: (image, group, band).

    Several bands are padded before they are computed: a load of what has just been stored waits.
    """
    job = carray(jobs, 1)[0]
    scratch = job.scratch + worker * job.scratch_bytes
    size = job.C * job.slot
    first, last = share(job.images * job.groups * job.pieces, worker, job.workers)
    for begin in range(first, last, job.together):
        end = min(begin + job.together, last)
        if job.padded:
            for task in range(begin, end):
                image, group = task // (job.pieces * job.groups), task // job.pieces % job.groups
                band = task % job.pieces
                _pad_band(job, image, group, band, scratch + (task - begin) * size)
        for task in range(begin, end):
            image, group = task // (job.pieces * job.groups), task // job.pieces % job.groups
            _results(jobs, image, group, task % job.pieces, scratch + (task - begin) * size)


@internal
def _gradients(jobs, image, group, band, slot, sums):
    """Add a band of a group to the sums of its filters' gradients."""
    job = carray(jobs, 1)[0]
    parts = carray(jobs, job.phases)
    item = job.itemsize
    rows = min(job.band, job.P - band * job.band)
    mode = np.int64(image + band > 0)
    for channel in range(job.C):
        source = _source(job, image, group, channel, band, slot)
        for result in range(job.K):
            plane = group * job.K + result
            dy = image * job.ld_filters + plane * job.out_plane
            dy += band * job.band * job.out_row
            pair = (result * job.C + channel) * job.taps
            for i in range(job.phases):
                part = parts[i]
                at = sums + (pair + part.first_tap) * job.VL * item
                dy_at = job.filters + dy * item
                first_row, constants = band * job.band, np.int64(0)
                own = Plane(
                    source, at, job.zeros, dy_at, first_row, rows, mode, part.geometry, constants
                )
                call(part.kernel, own)


def _weight_grad(jobs, worker):
    """Do one worker's groups of a weight gradient: source is x, filters dy, target dw."""
    job = carray(jobs, 1)[0]
    item = job.itemsize
    scratch = job.scratch + worker * job.scratch_bytes
    size = job.C * job.slot
    count = job.C * job.K * job.taps  # of the gradient of a group
    sums = scratch + job.sums_at
    first, last = share(job.groups, worker, job.workers)
    for begin in range(first, last, job.together):
        end = min(begin + job.together, last)
        for image in range(job.images):
            for band in range(job.pieces):
                if job.padded:
                    for group in range(begin, end):
                        _pad_band(job, image, group, band, scratch + (group - begin) * size)
                for group in range(begin, end):
                    slot = scratch + (group - begin) * size
                    at = sums + (group - begin) * count * job.VL * item
                    _gradients(jobs, image, group, band, slot, at)
        target = job.target + begin * count * item
        call(job.sum_lanes, SumLanes(sums, (end - begin) * count, target))


planes_address = worker_address(_planes, PLANE_JOB, "depthwise convolutions")
weight_grad_address = worker_address(_weight_grad, PLANE_JOB, "depthwise weight gradients")
