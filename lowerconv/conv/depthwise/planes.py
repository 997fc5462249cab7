"""Depthwise convolution and its weight gradient, executable: kernels of planes, and the record."""

from __future__ import annotations

from math import ceil

import numpy as np

from lowerconv.codegen.activation import Activation
from lowerconv.codegen.depthwise import PlaneKernel
from lowerconv.codegen.depthwise_in_place import GradientInPlace, ResultsInPlace
from lowerconv.codegen.depthwise_small import SmallPlaneKernel
from lowerconv.codegen.isa import LINE
from lowerconv.codegen.kernel import Kernel
from lowerconv.codegen.packing import pad_address, sum_lanes_address
from lowerconv.codegen.planes import InPlaceKernel
from lowerconv.codegen.signatures import PlaneGeometry
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
            for phase in s.conv.phases[: 1 if s.in_place else None]  # all of them together
            for most in (s.taps_at_once if s.gradient else max(1, len(phase.taps)),)
            for first in range(0, max(1, len(phase.taps)), most)
        ]
        super().__init__(schedule, options, np.zeros(len(phases), macrokernel.PLANE_JOB))
        weights, planes = macrokernel.weight_grad_address, macrokernel.planes_address
        self._loops = weights() if s.gradient else planes()
        zeros = np.zeros(s.VL, s.conv.dtype)
        self.arrays.append(zeros)
        workers = _workers(s, zeros, len(phases), options.add)
        fill(self.job, *_schedule_fields(s), self._epilogue(options), workers)
        for number, (phase, taps, first) in enumerate(phases):
            kernel = _kernel(s, phase, taps, self.activation)
            self.kernels.append(kernel)
            address = kernel.address()
            own = macrokernel.PlanePhase(
                phase.P, phase.out_offset, phase.out_row, address, self._geometry(phase), first
            )
            fill(self.job[number : number + 1], own)
        self.workspace_items = s.workers * workers.scratch_bytes // s.conv.dtype.itemsize

    def _geometry(self, phase: Phase) -> int:
        """Return the address of what the kernel of a phase reads."""
        conv = self.schedule.conv
        geometry = PlaneGeometry(
            Q=phase.Q,
            out_row=phase.out_row,
            W=conv.W,
            H=conv.H,
            out_W=conv.out_W,
            out_H=conv.out_H,
        )
        return self._keep(np.array(geometry, np.int64))

    def run(
        self, team: TeamHandle, a: Array, b: Array, bias: Array, out: Array, workspace: Scratch
    ) -> None:
        """Compute a pass; of a weight gradient `a` is dy, and `b` is x."""
        source, filters = (b, a) if self.schedule.gradient else (a, b)
        bind_operands(self.fields, source, filters, bias, out, workspace.address)
        launch(team, self._loops, self.address, self.schedule.workers)

    def explain(self) -> dict[str, str]:
        """Return the decisions, for people."""
        s, kernel = self.schedule, self.kernels[0]
        assert isinstance(kernel, (InPlaceKernel, PlaneKernel, SmallPlaneKernel))
        Q = s.conv.phases[0].Q
        return {
            "instructions": s.isa.name,
            "kernel": f"plane by plane: {len(kernel.taps)} taps, rows of {Q} pixels",
            "source": "padded bands" if s.padded else "in place",
            "tasks": f"{s.tasks} on {s.workers} workers",
        }


def _kernel(s: PlaneSchedule, phase: Phase, taps: Taps, activation: Activation) -> Kernel:
    """Return the kernel of some taps of a phase; planes in place have all phases in one."""
    conv, masks = s.conv, s.isa.masks
    if s.in_place:
        return _in_place(s, phase, taps, activation)
    if s.small:
        return SmallPlaneKernel(
            s.isa,
            conv.dtype,
            taps,
            H=conv.H,
            P=phase.P,
            W=None if masks else conv.W,
            Q=None if masks else phase.Q,
            stride_h=conv.stride_h,
            stride_w=conv.stride_w,
            out_column=phase.out_column,
            together=balanced(phase.P, s.rows_at_once),
            gradient=s.gradient,
            activation=activation,
        )
    return PlaneKernel(
        s.isa,
        conv.dtype,
        tuple((tap, s.window.place(row, column)) for tap, row, column in taps),
        row_step=conv.stride_h * s.window.pitch,
        out_column=phase.out_column,
        rest=phase.Q % s.VL,
        together=balanced(s.band, s.rows_at_once),
        gradient=s.gradient,
        activation=activation,
    )


def _in_place(s: PlaneSchedule, phase: Phase, taps: Taps, activation: Activation) -> InPlaceKernel:
    """Return the kernel of some taps of the one phase, or of all phases."""
    conv = s.conv
    out_rows = phase.out_row // conv.out_W
    # Rows that are left over are computed one at a time.
    band, most = max(1, min(s.band, conv.out_H // out_rows)), s.rows_at_once
    together = min(range(min(band, most), most // 2, -1), key=lambda rows: band % rows, default=1)
    strides = conv.stride_h, conv.stride_w, out_rows, phase.out_column
    if s.gradient:
        return GradientInPlace(s.isa, conv.dtype, ((0, 0, taps),), *strides, together)
    phases = tuple((*divmod(each.out_offset, conv.out_W), each.taps) for each in conv.phases)
    return ResultsInPlace(s.isa, conv.dtype, phases, *strides, together, activation)


def _schedule_fields(s: PlaneSchedule) -> tuple[object, ...]:
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
