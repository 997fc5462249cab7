"""Decisions of the fused engine for groups of very few channels."""

from __future__ import annotations

from math import ceil

import numpy as np

from lowerconv.codegen.depthwise_small import PRODUCTS_MAX, SmallPlaneKernel
from lowerconv.codegen.isa import Isa
from lowerconv.codegen.packing import fold_address, pad_address, slack
from lowerconv.conv.depthwise.nest import JOB, PlaneKernel
from lowerconv.conv.lowering import Convolution, Phase
from lowerconv.conv.partition import LAUNCH
from lowerconv.conv.window import balanced, window
from lowerconv.copying import not_copied
from lowerconv.runtime.launch import write
from lowerconv.runtime.workspace import LINE, scratch_stride

TOGETHER, SLOTS_BYTES = 16, 32 * 1024  # groups lowered at a time, in L1
BAND_BYTES = 128 * 1024  # of a lowered band of one plane


def is_small(conv: Convolution, VL: int) -> bool:
    """Return whether rows fit a vector, and a plane so few of them that all can be written out."""
    width = max(conv.W, *(phase.Q for phase in conv.phases))
    products = sum(phase.P * len(phase.taps) for phase in conv.phases)
    return width <= VL and products <= PRODUCTS_MAX


@not_copied("copy the ConvPlan that it is a part of")
class Planes:
    """All decisions for a convolution plane by plane, or its weight gradient, and their job."""

    def __init__(self, conv: Convolution, isa: Isa, nodes: tuple[int, ...], gradient: bool) -> None:
        self.isa, self.conv, self.gradient = isa, conv, gradient
        threads = len(nodes)
        item, dtype = conv.dtype.itemsize, conv.dtype
        VL = isa.lanes(dtype)
        self.window = window(conv, VL)
        P = max(phase.P for phase in conv.phases)
        band = P
        # Decided without regard to the threads, because the order of the sums is another.
        self.small = is_small(conv, VL)
        self.lower = self.window.lower and not self.small
        if self.lower:
            while band > 1 and self.window.plane(band) * item > BAND_BYTES:
                band = -(-band // 2)
            band = balanced(P, band)
        if not gradient and not self.small:  # bands for all threads
            planes = conv.images * conv.groups
            band = min(band, max(1, ceil(P / ceil(threads / planes))))
        pieces = ceil(P / band)
        tasks = conv.groups if gradient else conv.images * conv.groups * pieces
        pixels = sum(phase.P * phase.Q * (10 + len(phase.taps)) for phase in conv.phases)
        work = conv.images * conv.groups * conv.channels * conv.results * pixels / VL
        self.workers = max(1, min(threads, tasks)) if work > LAUNCH else 1
        self.kernels: list[PlaneKernel | SmallPlaneKernel] = []
        self.job = np.zeros(self._parts(), JOB)
        self._zeros = np.zeros(VL, dtype)
        # A slot has room for a plane, and for what its last vector spills.
        slot = 0
        if self.lower:
            slot = ceil((self.window.plane(band) + slack(isa, dtype)) * item / LINE) * LINE
        group = max(1, conv.channels * slot)
        together = max(1, min(TOGETHER, tasks // self.workers, SLOTS_BYTES // group))
        sums_at = together * conv.channels * slot
        sums = conv.channels * conv.results * conv.taps * VL if gradient else 0
        own = sums_at + ceil(together * sums * item / LINE) * LINE
        self.scratch_bytes = scratch_stride(own, nodes)
        write(
            self.job,
            scratch_bytes=self.scratch_bytes, itemsize=item, images=conv.images,
            groups=conv.groups, channels=conv.channels, results=conv.results, taps=conv.taps,
            turned=conv.turned, H=conv.H, W=conv.W, stride_h=conv.stride_h,
            lower=self.lower, first_row=self.window.first_row,
            lowered_rows=self.window.rows(band), left=self.window.left,
            pitch=self.window.pitch if self.lower else conv.W,
            band=band, pieces=pieces, pad=pad_address(isa, dtype, self.window.split),
            fold=fold_address(isa, dtype),
            out_plane=conv.out_plane, workers=self.workers, zeros=self._zeros.ctypes.data,
            sums_at=sums_at, VL=VL, together=together, slot=slot, phases=len(self.job),
        )  # fmt: skip
        number = 0
        for phase in conv.phases:
            most = self._taps_at_once() if gradient else max(1, len(phase.taps))
            for first in range(0, max(1, len(phase.taps)), most):
                kernel = self._kernel(phase, phase.taps[first : first + most], band)
                self.kernels.append(kernel)
                write(
                    self.job[number : number + 1],
                    P=phase.P, out_offset=phase.out_offset, out_row=phase.out_row,
                    kernel=kernel.address(), first_tap=first,
                )  # fmt: skip
                number += 1

    def _kernel(
        self, phase: Phase, taps: tuple[tuple[int, int, int], ...], band: int
    ) -> PlaneKernel | SmallPlaneKernel:
        """Return the kernel of some taps of a phase."""
        conv, isa = self.conv, self.isa
        together = 7 if isa.registers >= 32 else 3
        if self.small:
            return SmallPlaneKernel(
                isa, conv.dtype, taps, conv.H, conv.W, phase.P, phase.Q, conv.stride_h,
                conv.stride_w, phase.out_row, phase.out_column, balanced(phase.P, together),
                self.gradient,
            )  # fmt: skip
        places = tuple((tap, self.window.place(row, column)) for tap, row, column in taps)
        return PlaneKernel(
            isa, conv.dtype, places, phase.Q, conv.stride_h * self.window.pitch, phase.out_row,
            phase.out_column, balanced(band, together), self.gradient,
        )  # fmt: skip

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
            "source": "lowered" if self.lower else "in place",
            "tasks": f"on {self.workers} cores",
        }
