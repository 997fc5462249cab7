"""Winograd's weight gradient, executable: microkernels, and the records of x and dy."""

from __future__ import annotations

from math import ceil

import numpy as np

from lowerconv.codegen.microkernel import Microkernel
from lowerconv.codegen.transforms import (
    ALPHA,
    POINTS_2D,
    TILE,
    R,
    planes_to_vectors_address,
    transform_source_address,
    transform_target_address,
    vectors_to_planes_address,
)
from lowerconv.conv.executable import Array, Options, RecordExecutable
from lowerconv.conv.winograd import records
from lowerconv.conv.winograd.macrokernel import TAPS
from lowerconv.conv.winograd.macrokernel_weights import (
    finish_address,
    multiply_address,
    transform_address,
)
from lowerconv.conv.winograd.schedule import odd_lines
from lowerconv.conv.winograd.schedule_weights import SumSchedule
from lowerconv.runtime.launch import bind_operands, launch
from lowerconv.runtime.records import fill
from lowerconv.runtime.team import TeamHandle
from lowerconv.runtime.workspace import Scratch, scratch_stride

CHUNK = 16  # channels that are transformed back at a time


class WinogradWeightGrad(RecordExecutable):
    """A weight gradient by tiles.

    Attributes
    ----------
    schedule : SumSchedule
    job : ndarray of `records.SUM_JOB`
        Two records, of x and of dy.
    """

    schedule: SumSchedule

    def __init__(self, schedule: SumSchedule, options: Options) -> None:
        super().__init__(schedule, options, np.zeros(2, records.SUM_JOB))
        s = schedule
        conv, dtype, item = s.conv, s.conv.dtype, s.conv.dtype.itemsize
        whole = self._microkernel(s.NV)
        last = self._microkernel(s.blocks[1] - (s.panels - 1) * s.NV)
        self.kernels += [whole, last]
        zeros = np.zeros(max(s.NR, s.MR), dtype)
        self.arrays.append(zeros)
        top, _, first_column, _ = conv.reach
        (phase,) = conv.phases
        x = (conv.C, conv.H, conv.W, ALPHA, top, max(0, -first_column))
        dy = (conv.K, phase.P, phase.Q, TILE, 0, 0)
        sides, at = [], 0
        for extents, blocks in zip((x, dy), s.blocks, strict=True):
            sides.append(self._side(extents, blocks, at))
            at += s.line_bytes(POINTS_2D * sides[-1].step_V)
        step_D = odd_lines(s.rows * s.NR, item)
        bands = max(side.band_rows * side.pitch * s.VL for side in sides)
        sums_at = s.line_bytes(bands)
        own = sums_at + s.line_bytes(CHUNK * TAPS * s.VL)
        scratch_bytes = scratch_stride(own, s.nodes)
        shared = at + s.line_bytes(conv.groups * s.panels * POINTS_2D * step_D)
        sums = records.Sums(
            NR=s.NR,
            MR=s.MR,
            panels=s.panels,
            chunk=CHUNK,
            kernel=whole.address(),
            kernel_last=last.address(),
            planes_to_vectors=planes_to_vectors_address(s.isa, dtype),
            vectors_to_planes=vectors_to_planes_address(s.isa, dtype),
            transform_target=transform_target_address(s.isa, dtype, R),
            zeros=zeros.ctypes.data,
            D_at=s.workers * scratch_bytes + at,
            step_D=step_D,
            workers=s.workers,
            scratch_bytes=scratch_bytes,
            sums_at=sums_at,
        )
        fill(self.job, *_schedule_fields(s, options.add), sums)
        for number, side in enumerate(sides):
            fill(self.job[number : number + 1], side)
        # What all cores use comes after what each has of its own.
        self.job["at"] += s.workers * scratch_bytes
        self.workspace_items = (s.workers * scratch_bytes + shared) // item

    def run(
        self, team: TeamHandle, a: Array, b: Array, bias: Array, out: Array, workspace: Scratch
    ) -> None:
        """Sum the products of `a`, dy, and `b`, x, over the pixels."""
        s, job, nothing = self.schedule, self.address, self.no_bias
        half = len(self.fields) // 2
        bind_operands(self.fields, b, a, nothing, out, workspace.address)
        bind_operands(self.fields[half:], a, b, nothing, out, workspace.address)
        for first in range(0, s.units, s.units_at_once):
            self.job["unit0"], self.job["unit1"] = first, min(s.units, first + s.units_at_once)
            launch(team, transform_address(), job, s.workers)
            launch(team, multiply_address(), job, s.workers)
        launch(team, finish_address(), job, s.workers)

    def _microkernel(self, NV: int) -> Microkernel:
        """Return the microkernel: MR channels broadcast, vectors of filters, a step for a tile."""
        s = self.schedule
        return Microkernel(
            s.isa,
            s.conv.dtype,
            rows=tuple(range(s.MR)),
            columns=tuple(v * s.room * s.VL for v in range(NV)),
            broadcast_step=s.VL,
            vector_step=s.VL,
            store="rows",
        )

    def _side(self, extents: tuple[int, ...], blocks: int, at: int) -> records.Side:
        """Return how x or dy is transformed."""
        s = self.schedule
        C, H, W, extent, first_row, left = extents
        rows, pitch = TILE * (s.band - 1) + extent, TILE * (s.segment - 1) + extent
        places = np.arange(pitch)
        if s.segment == s.across:
            pitch = max(left + W, pitch)
            places = np.arange(min(H, rows))[:, None] * pitch + np.arange(W)
        places = np.ascontiguousarray(places * s.VL, np.int32)
        self.arrays.append(places)
        return records.Side(
            H=H,
            W=W,
            C=C,
            blocks=blocks,
            first_row=first_row,
            left=left,
            skip=0,
            pitch=pitch,
            band_rows=rows,
            places=places.ctypes.data,
            extent=extent,
            transform_source=transform_source_address(s.isa, s.conv.dtype, extent),
            at=at,
            step_V=odd_lines(s.conv.groups * blocks * s.room * s.VL, s.conv.dtype.itemsize),
        )

    def explain(self) -> dict[str, str]:
        """Return the decisions, for people."""
        s = self.schedule
        return {
            "instructions": s.isa.name,
            "transform": f"{R} x {R} taps of {TILE} x {TILE} pixels, {POINTS_2D} products",
            "microkernel": f"{s.MR} channels x {s.NR} filters",
            "tiles": f"{s.down} x {s.across} of an image, {s.room} in a batch",
            "workers": f"{s.workers}",
        }


def _schedule_fields(s: SumSchedule, add: bool) -> tuple[object, ...]:
    """Return the parts of the records that x and dy have in common."""
    return (
        records.SumProblem(
            images=s.conv.images,
            groups=s.conv.groups,
            K=s.conv.K,
            VL=s.VL,
            itemsize=s.conv.dtype.itemsize,
            add=add,
        ),
        records.Units(
            bands=ceil(s.down / s.band),
            band=s.band,
            segments=ceil(s.across / s.segment),
            segment=s.segment,
            tiles_down=s.down,
            tiles_across=s.across,
            unit=s.unit,
            room=s.room,
        ),
    )
