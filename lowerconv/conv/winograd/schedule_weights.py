"""Decisions of Winograd's weight gradient: tiles of the sums, batches of tiles, workers."""

from __future__ import annotations

from math import ceil

import numpy as np

from lowerconv.codegen.isa import Isa
from lowerconv.codegen.microkernel import Microkernel, rows_max, step_time
from lowerconv.codegen.packing import slack
from lowerconv.codegen.transforms import (
    ALPHA,
    POINTS_2D,
    M,
    R,
    gather_address,
    scatter_address,
    transform_source_address,
    transform_target_address,
)
from lowerconv.conv.lowering import forward_convolution
from lowerconv.conv.partition import LAUNCH
from lowerconv.conv.problem import ConvProblem
from lowerconv.conv.window import balanced
from lowerconv.conv.winograd.nest_weights import JOB, TAPS
from lowerconv.conv.winograd.schedule import CALL, FAR, FILTERS, MOVED, SOURCE, STORED
from lowerconv.copying import not_copied
from lowerconv.runtime.launch import write
from lowerconv.runtime.workspace import LINE, scratch_stride

# Bytes of V and Y of a batch: as many as of the sums, which every batch reads and writes again.
BATCH_LEAST, BATCH_MOST = 6 * 2**20, 32 * 2**20
UNIT = 64  #    tiles that a core transforms at a time, at most
CHUNK = 16  #   channels that are transformed back at a time


@not_copied("copy the ConvPlan that it is a part of")
class Weights:
    """All decisions for a weight gradient; `build` makes the job."""

    def __init__(self, problem: ConvProblem, isa: Isa, threads_nodes: tuple[int, ...]) -> None:
        self.problem, self.isa, self.nodes = problem, isa, threads_nodes
        self.conv = conv = forward_convolution(problem)
        self.item, self.VL = conv.dtype.itemsize, isa.lanes(conv.dtype)
        (phase,) = conv.phases
        self.P, self.Q = phase.P, phase.Q
        self.down, self.across = ceil(self.P / M), ceil(self.Q / M)
        self.blocks = ceil(conv.channels / self.VL), ceil(conv.results / self.VL)
        self._choose()

    def _choose(self) -> None:
        """Choose units, batches and the tile of the sums; batches round, so threads do not count.

        A batch is large, so that the microkernel runs long and sums travel rarely.
        """
        conv, isa, VL = self.conv, self.isa, self.VL
        self.segment = balanced(self.across, UNIT)
        self.band = 1
        if self.segment == self.across:
            self.band = balanced(self.down, max(1, UNIT // self.across))
        self.unit = self.band * self.segment
        self.units = conv.images * ceil(self.down / self.band) * ceil(self.across / self.segment)
        vectors = self.blocks[1]
        self.MR = max(rows for rows in (1, 2, 4, 8) if VL % rows == 0 and rows <= rows_max(isa, 2))
        options = [NV for NV in (1, 2, 3) if vectors >= NV and rows_max(isa, NV) >= self.MR]

        def steps(NV: int) -> float:
            rest = vectors % NV
            last = step_time(self.MR, rest, isa) if rest else 0.0
            return vectors // NV * step_time(self.MR, NV, isa) + last

        self.NV = min(options, key=steps)
        self.F, self.panels = self.NV * VL, ceil(vectors / self.NV)
        self.rows = ceil(conv.channels / self.MR) * self.MR
        sums = POINTS_2D * conv.groups * self.panels * self.F * self.rows * self.item
        tile = POINTS_2D * conv.groups * sum(self.blocks) * VL * self.item
        room = min(max(sums, BATCH_LEAST), BATCH_MOST) // tile
        self.units_at_once = balanced(self.units, max(1, room // self.unit))
        self.room = self.units_at_once * self.unit
        batches = ceil(self.units / self.units_at_once)
        tiles = self.units * self.unit
        pixels = conv.images * (conv.H * conv.W + self.P * self.Q)
        transforms = conv.groups * (sum(self.blocks) * tiles * SOURCE)
        transforms += conv.groups * max(self.blocks) * pixels / VL * MOVED
        calls = POINTS_2D * conv.groups * self.rows / self.MR
        multiply = tiles * steps(self.NV)
        multiply += batches * self.panels * (CALL + 2 * STORED * self.MR * self.NV)
        finish = conv.groups * conv.channels * vectors * FILTERS
        far = FAR * (2 * tile * tiles + 2 * sums * batches)
        self.cost = transforms + max(calls * multiply, far) + finish
        self.workers = 1
        if self.cost > 4 * LAUNCH:
            self.workers = min(len(self.nodes), POINTS_2D * conv.groups * self.panels)

    def _lines(self, items: int) -> int:
        """Return the bytes of so many items with room for slack, in whole cache lines."""
        return ceil((items + slack(self.isa, self.conv.dtype)) * self.item / LINE) * LINE

    def _step(self, items: int) -> int:
        """Return a distance of an odd number of lines: points then use all sets of a cache."""
        return (ceil(items * self.item / LINE) | 1) * LINE // self.item

    def _kernel(self, NV: int) -> Microkernel:
        """Return the microkernel: MR channels broadcast, vectors of filters, a step for a tile."""
        kernel = Microkernel(
            self.isa, self.conv.dtype, tuple(range(self.MR)),
            tuple(v * self.room * self.VL for v in range(NV)), self.VL, self.VL, "rows",
        )  # fmt: skip
        self.kernels.append(kernel)
        return kernel

    def build(self) -> None:
        """Emit the microkernels and write the job, all of it but the addresses of a call."""
        conv, isa, VL, dtype = self.conv, self.isa, self.VL, self.conv.dtype
        self.kernels: list[Microkernel] = []
        top, _, first_column, _ = conv.reach
        whole = self.segment == self.across
        sides = (
            (conv.channels, conv.H, conv.W, ALPHA, top, max(0, -first_column)),
            (conv.results, self.P, self.Q, M, 0, 0),
        )
        self.job = np.zeros(2, JOB)
        self._places = []
        bands = []
        at = 0
        for record, (channels, H, W, extent, first_row, left), blocks in zip(
            (self.job[:1], self.job[1:]), sides, self.blocks, strict=True
        ):
            rows, pitch = M * (self.band - 1) + extent, M * (self.segment - 1) + extent
            places = np.arange(pitch)
            if whole:
                pitch = max(left + W, pitch)
                places = np.arange(min(H, rows))[:, None] * pitch + np.arange(W)
            self._places.append(np.ascontiguousarray(places * VL, np.int32))
            bands.append(rows * pitch * VL)
            step = self._step(conv.groups * blocks * self.room * VL)
            write(
                record,
                H=H, W=W, channels=channels, blocks=blocks,
                first_row=first_row, left=left, pitch=pitch, band_rows=rows,
                places=self._places[-1].ctypes.data, extent=extent,
                transform_source=transform_source_address(isa, dtype, extent),
                at=at, step_V=step,
            )  # fmt: skip
            at += self._lines(POINTS_2D * step)
        step_D = self._step(self.rows * self.F)
        sums_at = self._lines(max(bands))
        own = sums_at + self._lines(CHUNK * TAPS * VL)
        self.scratch_bytes = scratch_stride(own, self.nodes)
        self.shared_bytes = at + self._lines(conv.groups * self.panels * POINTS_2D * step_D)
        # What all cores use comes after what each has of its own.
        self.job["at"] += self.workers * self.scratch_bytes
        rest = self.blocks[1] - (self.panels - 1) * self.NV
        self._zeros = np.zeros(max(self.F, self.MR), dtype)
        write(
            self.job,
            scratch_bytes=self.scratch_bytes, itemsize=self.item, images=conv.images,
            groups=conv.groups, VL=VL, bands=ceil(self.down / self.band), band=self.band,
            segments=ceil(self.across / self.segment), segment=self.segment,
            tiles_down=self.down, tiles_across=self.across, unit=self.unit,
            gather=gather_address(isa, dtype), scatter=scatter_address(isa, dtype),
            transform_target=transform_target_address(isa, dtype, R), room=self.room,
            F=self.F, MR=self.MR, panels=self.panels, results=conv.results,
            kernel=self._kernel(self.NV).address(), kernel_last=self._kernel(rest).address(),
            zeros=self._zeros.ctypes.data, D_at=self.workers * self.scratch_bytes + at,
            step_D=step_D, sums_at=sums_at, chunk=CHUNK, workers=self.workers,
        )  # fmt: skip

    def take(self, first: int) -> None:
        """Make the batch that begins with unit `first` the next one."""
        write(self.job, unit0=first, unit1=min(self.units, first + self.units_at_once))

    def explain(self) -> dict[str, str]:
        """Return the decisions, for people."""
        return {
            "instructions": self.isa.name,
            "transform": f"{R} x {R} taps of {M} x {M} pixels, {POINTS_2D} products",
            "microkernel": f"{self.MR} channels x {self.F} filters",
            "tiles": f"{self.down} x {self.across} of an image, {self.room} in a batch",
            "cores": f"{self.workers}",
        }
