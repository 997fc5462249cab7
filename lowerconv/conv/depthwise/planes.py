"""Depthwise convolution and its weight gradient, executable: kernels of planes, and the record."""

from __future__ import annotations

from functools import lru_cache
from math import ceil

import numpy as np

from lowerconv.codegen.activation import Activation
from lowerconv.codegen.depthwise import PlaneKernel
from lowerconv.codegen.depthwise_small import SmallPlaneKernel
from lowerconv.codegen.isa import LINE, Isa
from lowerconv.codegen.packing import pad_address, sum_lanes_address
from lowerconv.codegen.signatures import PlaneGeometry
from lowerconv.conv.depthwise import macrokernel
from lowerconv.conv.depthwise.schedule import PlaneSchedule
from lowerconv.conv.executable import Array, Options, RecordExecutable
from lowerconv.conv.phases import CACHE_SIZE, Phase
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
        fill(self.job, *_schedule_fields(s), self._epilogue(options), workers)
        for number, (phase, taps, first) in enumerate(phases):
            kernel, address = _kernel(s, phase, taps, self.activation)
            self.kernels.append(kernel)
            own = macrokernel.PlanePhase(
                phase.P, phase.out_offset, phase.out_row, address, self._geometry(phase), first
            )
            fill(self.job[number : number + 1], own)
        self.workspace_items = s.workers * workers.scratch_bytes // s.conv.dtype.itemsize

    def _geometry(self, phase: Phase) -> int:
        """Return the address of what the kernel of a phase reads."""
        s = self.schedule
        geometry = PlaneGeometry(Q=phase.Q, out_row=phase.out_row, W=s.conv.W)
        return self._keep(np.array(geometry, np.int64))

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
        Q = s.conv.phases[0].Q
        return {
            "instructions": s.isa.name,
            "kernel": f"plane by plane: {len(kernel.taps)} taps, rows of {Q} pixels",
            "source": "padded bands" if s.padded else "in place",
            "tasks": f"{s.tasks} on {s.workers} workers",
        }


Made = tuple["PlaneKernel | SmallPlaneKernel", int]  # a kernel and its address


def _kernel(s: PlaneSchedule, phase: Phase, taps: Taps, activation: Activation) -> Made:
    """Return the kernel of some taps of a phase."""
    conv, masks = s.conv, s.isa.masks
    common = phase.out_column, s.gradient, activation
    if s.small:
        together = balanced(phase.P, s.rows_at_once)
        widths = (None, None) if masks else (conv.W, phase.Q)
        extents = conv.H, phase.P, *widths, conv.stride_h, conv.stride_w
        return _small_kernel(s.isa, conv.dtype, taps, *extents, together, *common)
    together, rest = balanced(s.band, s.rows_at_once), None if masks else phase.Q % s.VL
    places = tuple((tap, s.window.place(row, column)) for tap, row, column in taps)
    row_step = conv.stride_h * s.window.pitch
    return _plane_kernel(s.isa, conv.dtype, places, row_step, rest, together, *common)


@lru_cache(maxsize=CACHE_SIZE)
def _small_kernel(
    isa: Isa,
    dtype: np.dtype,
    taps: Taps,
    H: int,
    P: int,
    W: int | None,
    Q: int | None,
    stride_h: int,
    stride_w: int,
    together: int,
    out_column: int,
    gradient: bool,
    activation: Activation,
) -> Made:
    kernel = SmallPlaneKernel(
        isa,
        dtype,
        taps,
        H=H,
        P=P,
        W=W,
        Q=Q,
        stride_h=stride_h,
        stride_w=stride_w,
        out_column=out_column,
        together=together,
        gradient=gradient,
        activation=activation,
    )
    return kernel, kernel.address()


@lru_cache(maxsize=CACHE_SIZE)
def _plane_kernel(
    isa: Isa,
    dtype: np.dtype,
    places: tuple[tuple[int, int], ...],
    row_step: int,
    rest: int | None,
    together: int,
    out_column: int,
    gradient: bool,
    activation: Activation,
) -> Made:
    kernel = PlaneKernel(
        isa,
        dtype,
        places,
        row_step=row_step,
        out_column=out_column,
        rest=rest,
        together=together,
        gradient=gradient,
        activation=activation,
    )
    return kernel, kernel.address()


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
