"""Decisions of the fused engine for groups of very few channels."""

from __future__ import annotations

from math import ceil

import numpy as np

from lowerconv.kernels.call import write
from lowerconv.kernels.planes import JOB, PlaneKernel
from lowerconv.kernels.rearrange import fold_address, pad_address, slack
from lowerconv.kernels.simd import Isa
from lowerconv.machine.workspace import LINE
from lowerconv.pipeline.fused.partition import LAUNCH
from lowerconv.pipeline.fused.phases import Convolution
from lowerconv.pipeline.fused.window import balanced, window

BAND_BYTES = 128 * 1024  # of a lowered band of one plane


class Planes:
    """All decisions for a convolution plane by plane, or its weight gradient, and their job."""

    def __init__(self, conv: Convolution, isa: Isa, threads: int, gradient: bool) -> None:
        self.isa, self.conv, self.gradient = isa, conv, gradient
        item, dtype = conv.dtype.itemsize, conv.dtype
        VL = isa.lanes(dtype)
        self.window = window(conv, VL)
        P = max(phase.P for phase in conv.phases)
        band = P
        if self.window.lower:
            while band > 1 and self.window.plane(band) * item > BAND_BYTES:
                band = -(-band // 2)
            band = balanced(P, band)
        if not gradient:  # bands for all threads
            planes = conv.images * conv.groups
            band = min(band, max(1, ceil(P / ceil(threads / planes))))
        pieces = ceil(P / band)
        tasks = conv.groups if gradient else conv.images * conv.groups * pieces
        pixels = sum(phase.P * phase.Q * (10 + len(phase.taps)) for phase in conv.phases)
        work = conv.images * conv.groups * conv.channels * conv.results * pixels / VL
        self.workers = max(1, min(threads, tasks)) if work > LAUNCH else 1
        self.kernels: list[PlaneKernel] = []
        self.job = np.zeros(self._parts(), JOB)
        self._zeros = np.zeros(VL, dtype)
        plane = self.window.plane(band) if self.window.lower else 0
        sums_at = -(-(plane + slack(isa, dtype)) * item // LINE) * LINE
        sums = conv.channels * conv.results * conv.taps * VL if gradient else 0
        self.scratch_bytes = sums_at + -(-sums * item // LINE) * LINE
        write(
            self.job,
            scratch_bytes=self.scratch_bytes, itemsize=item, images=conv.images,
            groups=conv.groups, channels=conv.channels, results=conv.results, taps=conv.taps,
            turned=conv.turned, H=conv.H, W=conv.W, stride_h=conv.stride_h,
            lower=self.window.lower, first_row=self.window.first_row,
            lowered_rows=self.window.rows(band), left=self.window.left, pitch=self.window.pitch,
            band=band, pieces=pieces, pad=pad_address(isa, dtype, self.window.split),
            fold=fold_address(isa, dtype),
            out_plane=conv.out_plane, workers=self.workers, zeros=self._zeros.ctypes.data,
            sums_at=sums_at, VL=VL, phases=len(self.job),
        )  # fmt: skip
        number = 0
        for phase in conv.phases:
            taps = [(tap, self.window.place(row, column)) for tap, row, column in phase.taps]
            most = self._taps_at_once() if gradient else max(1, len(taps))
            for first in range(0, max(1, len(taps)), most):
                kernel = PlaneKernel(
                    isa, dtype, tuple(taps[first : first + most]), phase.Q,
                    self.window.stride_h * self.window.pitch, phase.out_row, phase.out_column,
                    balanced(band, 7 if isa.registers >= 32 else 3), gradient,
                )  # fmt: skip
                self.kernels.append(kernel)
                write(
                    self.job[number : number + 1],
                    P=phase.P, out_offset=phase.out_offset, out_row=phase.out_row,
                    kernel=kernel.address(), first_tap=first,
                )  # fmt: skip
                number += 1

    def _taps_at_once(self) -> int:
        """Return the taps whose sums fit in registers beside the operands."""
        return self.isa.registers - 6

    def _parts(self) -> int:
        if not self.gradient:
            return len(self.conv.phases)
        return -(-self.conv.taps // self._taps_at_once())

    def explain(self) -> dict[str, str]:
        """Return the decisions, for people."""
        kernel = self.kernels[0]
        return {
            "instructions": self.isa.name,
            "kernel": f"planes: {len(kernel.taps)} taps, rows of {kernel.Q} pixels",
            "source": "lowered" if self.window.lower else "in place",
            "tasks": f"on {self.workers} cores",
        }
