"""Depthwise convolution and its weight gradient, executable: kernels of planes, and the record."""

from __future__ import annotations

from math import ceil

import numpy as np

from lowerconv.codegen.depthwise import PlaneKernel
from lowerconv.codegen.depthwise_small import SmallPlaneKernel
from lowerconv.codegen.epilogue import Function
from lowerconv.codegen.isa import LINE
from lowerconv.codegen.packing import pad_address, sum_lanes_address
from lowerconv.conv.depthwise import macrokernel
from lowerconv.conv.depthwise.schedule import PlaneSchedule
from lowerconv.conv.executable import Array, Options, RecordExecutable
from lowerconv.conv.phases import Phase
from lowerconv.conv.window import balanced
from lowerconv.runtime.launch import bind_operands, launch
from lowerconv.runtime.records import fill
from lowerconv.runtime.team import TeamHandle
from lowerconv.runtime.workspace import Scratch, scratch_stride

Taps = tuple[tuple[int, int, int], ...]


class Planes(RecordExecutable):
    """A pass plane by plane.

    Attributes
    ----------
    schedule : PlaneSchedule
    job : ndarray of `macrokernel.PLANE_JOB`
        A record for each phase; for a weight gradient, for each group of taps.
    """

    schedule: PlaneSchedule

    def __init__(self, schedule: PlaneSchedule, options: Options) -> None:
        s = schedule
        phases = [
            (phase, phase.taps[first : first + most], first)
            for phase in s.conv.phases
            for most in (s.taps_at_once if s.gradient else max(1, len(phase.taps)),)
            for first in range(0, max(1, len(phase.taps)), most)
        ]
        super().__init__(schedule, options, np.zeros(len(phases), macrokernel.PLANE_JOB))
        weights, planes = macrokernel.weight_grad_address, macrokernel.planes_address
        self._loops = weights() if s.gradient else planes()
        zeros = np.zeros(s.VL, s.conv.dtype)
        self.arrays.append(zeros)
        workers = _workers(s, zeros, len(phases), options.add)
        fill(self.job, *_parts(s), self._epilogue(options), workers)
        for number, (phase, taps, first) in enumerate(phases):
            kernel = _kernel(s, phase, taps, self.function)
            self.kernels.append(kernel)
            own = macrokernel.PlanePhase(
                phase.P, phase.out_offset, phase.out_row, kernel.address(), first
            )
            fill(self.job[number : number + 1], own)
        self.workspace_items = s.workers * workers.scratch_bytes // s.conv.dtype.itemsize

    def run(
        self, team: TeamHandle, a: Array, b: Array, bias: Array, out: Array, workspace: Scratch
    ) -> None:
        """Compute a pass; of a weight gradient `a` is dy, and `b` is x."""
        source, filters = (b, a) if self.schedule.gradient else (a, b)
        bind_operands(self.words, source, filters, bias, out, workspace.address)
        launch(team, self._loops, self.address, self.schedule.workers)

    def explain(self) -> dict[str, str]:
        """Return the decisions, for people."""
        s, kernel = self.schedule, self.kernels[0]
        assert isinstance(kernel, (PlaneKernel, SmallPlaneKernel))
        return {
            "instructions": s.isa.name,
            "kernel": f"planes: {len(kernel.taps)} taps, rows of {kernel.Q} pixels",
            "source": "padded bands" if s.padded else "in place",
            "tasks": f"on {s.workers} cores",
        }


def _kernel(
    s: PlaneSchedule, phase: Phase, taps: Taps, function: Function | None
) -> PlaneKernel | SmallPlaneKernel:
    """Return the kernel of some taps of a phase."""
    conv = s.conv
    if s.small:
        return SmallPlaneKernel(
            s.isa,
            conv.dtype,
            taps,
            H=conv.H,
            W=conv.W,
            P=phase.P,
            Q=phase.Q,
            stride_h=conv.stride_h,
            stride_w=conv.stride_w,
            out_row=phase.out_row,
            out_column=phase.out_column,
            together=balanced(phase.P, s.rows_at_once),
            gradient=s.gradient,
            function=function,
        )
    return PlaneKernel(
        s.isa,
        conv.dtype,
        tuple((tap, s.window.place(row, column)) for tap, row, column in taps),
        Q=phase.Q,
        row_step=conv.stride_h * s.window.pitch,
        out_row=phase.out_row,
        out_column=phase.out_column,
        together=balanced(s.band, s.rows_at_once),
        gradient=s.gradient,
        function=function,
    )


def _parts(s: PlaneSchedule) -> tuple[object, ...]:
    """Return the parts of the record that follow from the schedule alone."""
    conv = s.conv
    return (
        macrokernel.PlaneProblem(
            images=conv.images,
            groups=conv.groups,
            C=conv.C,
            K=conv.K,
            taps=conv.taps,
            transposed=conv.transposed,
            H=conv.H,
            W=conv.W,
            stride_h=conv.stride_h,
            out_plane=conv.out_plane,
            itemsize=conv.dtype.itemsize,
        ),
        macrokernel.PlaneBlocks(
            band=s.band,
            pieces=s.pieces,
            together=s.together,
            slot=s.slot,
            padded=s.padded,
            first_row=s.window.first_row,
            padded_rows=s.window.rows(s.band),
            left=s.window.left,
            pitch=s.window.pitch if s.padded else conv.W,
            VL=s.VL,
        ),
    )


def _workers(s: PlaneSchedule, zeros: Array, phases: int, add: bool) -> macrokernel.PlaneWorkers:
    """Return the emitted functions, and what each worker has of the scratch."""
    conv = s.conv
    sums_at = s.together * conv.C * s.slot
    sums = conv.C * conv.K * conv.taps * s.VL if s.gradient else 0
    own = sums_at + ceil(s.together * sums * conv.dtype.itemsize / LINE) * LINE
    return macrokernel.PlaneWorkers(
        pad=pad_address(s.isa, conv.dtype, s.window.split),
        sum_lanes=sum_lanes_address(s.isa, conv.dtype),
        zeros=zeros.ctypes.data,
        workers=s.workers,
        scratch_bytes=scratch_stride(own, s.nodes),
        sums_at=sums_at,
        phases=phases,
        add=add,
    )
