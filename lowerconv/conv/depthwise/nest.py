"""Kernels for groups of very few channels: one plane of pixels after the other, no panels.

With one channel in a group (depthwise convolution) there is nothing to reuse but the pixels
themselves: several rows of the result are computed together, so that a loaded vector serves all
taps of its column that read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from llvmlite import ir
from numba import carray

from lowerconv.codegen.compiled import njit
from lowerconv.codegen.emit import Emitter
from lowerconv.codegen.isa import Isa
from lowerconv.codegen.jit import assembly, load
from lowerconv.codegen.microkernel import epilogue, store_pixels
from lowerconv.runtime.launch import OPERANDS, call, loops, share

JOB = np.dtype(
    [
        (name, np.int64)
        for name in (
            *OPERANDS,
            *("scratch_bytes", "itemsize"),
            *("images", "groups", "channels", "results", "taps", "turned", "H", "W", "stride_h"),
            *(
                "lower",
                "first_row",
                "lowered_rows",
                "left",
                "pitch",
                "band",
                "pieces",
                "pad",
                "fold",
            ),
            *("out_plane", "add", "workers", "zeros", "sums_at", "VL", "together", "slot"),
            # each phase its own; for a weight gradient each group of taps its own
            *("phases", "P", "out_offset", "out_row", "kernel", "first_tap"),
        )
    ]
)


@dataclass(frozen=True)
class PlaneKernel:
    """A kernel over a band of one plane.

    Attributes
    ----------
    taps : tuple of (int, int)
        Number of the filter's tap, and where pixel (0, 0) reads it.
    Q : int
        Pixels of a row.
    row_step, column_step : int
        Items of the source from one pixel to the next.
    out_row, out_column : int
        Items of the result from one pixel to the next.
    together : int
        Rows of the result that are computed at a time.
    gradient : bool
        Whether the kernel adds up the gradient of the taps instead of the result.
    """

    isa: Isa
    dtype: np.dtype
    taps: tuple[tuple[int, int], ...]
    Q: int
    row_step: int
    out_row: int
    out_column: int
    together: int
    gradient: bool = False

    def build(self) -> ir.Module:
        """Emit ``plane(source, filter, bias, out, rows, mode)``."""
        names = ("source", "filter", "bias", "out", "rows", "mode")
        e = Emitter.function("plane", names, self.isa, self.dtype)
        if self.gradient:
            self._gradient(e)
        else:
            self._result(e)
        return e.finish()

    def _columns(self, e: Emitter, body, carried: list[ir.Value]) -> list[ir.Value]:
        """Run ``body(first pixel, lanes, carried)`` over the vectors of a row."""

        def vector(index: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            return body(e.builder.mul(index, e.constant(e.lanes)), e.lanes, carried)

        whole, rest = divmod(self.Q, e.lanes)
        carried = e.loop(e.constant(whole), vector, carried)
        if rest:
            carried = body(e.constant(whole * e.lanes), rest, carried)
        return carried

    def _result(self, e: Emitter) -> None:
        source, filter_, bias, out, rows, mode = e.arguments
        b = e.builder
        start = e.broadcast(bias, 0)
        few = len(self.taps) <= self.isa.registers - 8
        weights = {tap: e.broadcast(filter_, tap) for tap, _ in self.taps} if few else {}
        floor, add = epilogue(e, mode)

        def block(first: ir.Value, count: int) -> None:
            here = e.offset(source, b.mul(first, e.constant(self.row_step)))
            to = e.offset(out, b.mul(first, e.constant(self.out_row)))

            def body(pixel: ir.Value, lanes: int, _: list[ir.Value]) -> list[ir.Value]:
                at = e.offset(here, pixel)
                loaded: dict[int, ir.Value] = {}
                sums = [start] * count
                for tap, place in self.taps:
                    weight = weights[tap] if few else e.broadcast(filter_, tap)
                    for i in range(count):
                        offset = place + i * self.row_step
                        if offset not in loaded:
                            loaded[offset] = e.load(at, offset, lanes)
                        sums[i] = e.multiply_add(weight, loaded[offset], sums[i])
                target = e.offset(to, b.mul(pixel, e.constant(self.out_column)))
                with b.if_else(add, likely=False) as (adding, plain):
                    for branch, more in ((adding, True), (plain, False)):
                        with branch:
                            for i, value in enumerate(sums):
                                spot = i * self.out_row
                                store_pixels(
                                    e, value, target, spot, lanes, floor, more, self.out_column
                                )
                return []

            self._columns(e, body, [])

        together = self.together
        blocks = b.sdiv(rows, e.constant(together))

        def many(index: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            block(b.mul(index, e.constant(together)), together)
            return []

        e.loop(blocks, many)
        done = b.mul(blocks, e.constant(together))

        def one(index: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            block(b.add(done, index), 1)
            return []

        e.loop(b.sub(rows, done), one)

    def _gradient(self, e: Emitter) -> None:
        """Add ``dy * x`` to the vectors of sums at `filter`; `out` is dy."""
        source, filter_, _, dy, rows, mode = e.arguments
        b = e.builder
        zero = ir.Constant(e.vector, [0.0] * e.lanes)
        _, add = epilogue(e, mode)
        sums = [b.select(add, e.load(filter_, i * e.lanes), zero) for i in range(len(self.taps))]

        def row(index: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            here = e.offset(source, b.mul(index, e.constant(self.row_step)))
            gradient = e.offset(dy, b.mul(index, e.constant(self.out_row)))

            def body(pixel: ir.Value, lanes: int, sums: list[ir.Value]) -> list[ir.Value]:
                value = e.load(gradient, pixel, lanes)
                at = e.offset(here, pixel)
                return [
                    e.multiply_add(value, e.load(at, place, lanes), total)
                    for total, (_, place) in zip(sums, self.taps, strict=True)
                ]

            return self._columns(e, body, sums)

        for i, total in enumerate(e.loop(rows, row, sums)):
            e.store(total, filter_, i * e.lanes)

    def address(self) -> int:
        """Return the address of the compiled function."""
        return load(self, self.build, self.isa, "plane")

    def assembly(self) -> str:
        """Return the assembly of the function."""
        return assembly(self.build(), self.isa)


@njit(cache=True, nogil=True)
def _source(job, image, group, channel, band, slot):
    """Return where a band of a plane of the source lies: in place, or in a slot of the scratch."""
    if job.lower:
        return slot + channel * job.slot
    plane = image * job.source_step + (group * job.channels + channel) * job.H * job.W
    row = band * job.band * job.stride_h
    return job.source + (plane + row * job.pitch) * job.itemsize


@njit(cache=True, nogil=True)
def _lower(job, image, group, band, slot):
    """Copy a band of the planes of a group, zeros around it."""
    item = job.itemsize
    plane = image * job.source_step + group * job.channels * job.H * job.W
    for channel in range(job.channels):
        call(
            job.pad,
            (
                job.source + (plane + channel * job.H * job.W) * item, job.W, job.H, job.W,
                band * job.band * job.stride_h + job.first_row, job.lowered_rows, job.left,
                slot + channel * job.slot, job.pitch,
            ),
        )  # fmt: skip


@njit(cache=True, nogil=True)
def _results(jobs, image, group, band, slot):
    """Compute a band of the results of a group."""
    job = carray(jobs, 1)[0]
    phases = carray(jobs, job.phases)
    item = job.itemsize
    for channel in range(job.channels):
        source = _source(job, image, group, channel, band, slot)
        mode = np.int64(1) if channel > 0 or job.add else np.int64(0)
        if job.relu and channel == job.channels - 1:
            mode |= 2
        for result in range(job.results):
            if job.turned:
                number = (group * job.channels + channel) * job.results + result
            else:
                number = (group * job.results + result) * job.channels + channel
            bias = job.zeros
            if job.bias and channel == 0:
                bias = job.bias + (group * job.results + result) * item
            plane = group * job.results + result
            out = image * job.target_step + plane * job.out_plane
            for i in range(job.phases):
                phase = phases[i]
                row = band * job.band
                rows = min(job.band, phase.P - row)
                to = out + phase.out_offset + row * phase.out_row
                call(
                    phase.kernel,
                    (
                        source, job.filters + number * job.taps * item, bias,
                        job.target + to * item, rows, mode,
                    ),
                )  # fmt: skip


def _convolve(jobs, worker):
    """Do one worker's tasks: (image, group, band).

    Several are lowered before they are computed: what was just stored cannot be loaded at once.
    """
    job = carray(jobs, 1)[0]
    scratch = job.scratch + worker * job.scratch_bytes
    size = job.channels * job.slot
    first, last = share(job.images * job.groups * job.pieces, worker, job.workers)
    for begin in range(first, last, job.together):
        end = min(begin + job.together, last)
        if job.lower:
            for task in range(begin, end):
                image, group = task // (job.pieces * job.groups), task // job.pieces % job.groups
                band = task % job.pieces
                _lower(job, image, group, band, scratch + (task - begin) * size)
        for task in range(begin, end):
            image, group = task // (job.pieces * job.groups), task // job.pieces % job.groups
            _results(jobs, image, group, task % job.pieces, scratch + (task - begin) * size)


@njit(cache=True, nogil=True)
def _gradients(jobs, image, group, band, slot, sums):
    """Add a band of a group to the sums of its filters' gradients."""
    job = carray(jobs, 1)[0]
    parts = carray(jobs, job.phases)
    item = job.itemsize
    rows = min(job.band, job.P - band * job.band)
    mode = np.int64(image + band > 0)
    for channel in range(job.channels):
        source = _source(job, image, group, channel, band, slot)
        for result in range(job.results):
            plane = group * job.results + result
            dy = image * job.filters_step + plane * job.out_plane
            dy += band * job.band * job.out_row
            pair = (result * job.channels + channel) * job.taps
            for i in range(job.phases):
                part = parts[i]
                at = sums + (pair + part.first_tap) * job.VL * item
                call(part.kernel, (source, at, job.zeros, job.filters + dy * item, rows, mode))


def _correlate(jobs, worker):
    """Do one worker's groups of a weight gradient: source is x, filters dy, target dw."""
    job = carray(jobs, 1)[0]
    item = job.itemsize
    scratch = job.scratch + worker * job.scratch_bytes
    size = job.channels * job.slot
    count = job.channels * job.results * job.taps  # of the gradient of a group
    sums = scratch + job.sums_at
    first, last = share(job.groups, worker, job.workers)
    for begin in range(first, last, job.together):
        end = min(begin + job.together, last)
        for image in range(job.images):
            for band in range(job.pieces):
                if job.lower:
                    for group in range(begin, end):
                        _lower(job, image, group, band, scratch + (group - begin) * size)
                for group in range(begin, end):
                    slot = scratch + (group - begin) * size
                    at = sums + (group - begin) * count * job.VL * item
                    _gradients(jobs, image, group, band, slot, at)
        call(job.fold, (sums, (end - begin) * count, job.target + begin * count * item))


@lru_cache
def convolve_address() -> int:
    """Return the address of the loops of one core, ``(job, worker)``."""
    return loops(_convolve, JOB, "depthwise convolutions")


@lru_cache
def correlate_address() -> int:
    """Return the address of the loops of one core for a weight gradient, ``(job, worker)``."""
    return loops(_correlate, JOB, "depthwise weight gradients")
