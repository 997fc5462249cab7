"""The fused engine: lowering hidden inside the multiplication.

Generated microkernels multiply straight from the image, or from a padded band of it that stays in
L2: a tap of a filter is an offset in a table, so the lowered matrix never exists, not even in
parts.  What is left of lowering, the padding of a band and the packing of filters into panels, is
done by the core that uses it, piece by piece, while the next piece is on its way to the cache.
"""

from __future__ import annotations

import numpy as np

from lowerconv.kernels import planes as plane_loops
from lowerconv.kernels.call import launch
from lowerconv.kernels.convolve import convolve_address
from lowerconv.kernels.correlate import add_splits_address, correlate_address
from lowerconv.kernels.epilogue import Array, Epilogue
from lowerconv.kernels.simd import host_isa
from lowerconv.pipeline.fused.convolution import Layout, choose_feed
from lowerconv.pipeline.fused.correlation import Correlation
from lowerconv.pipeline.fused.phases import forward_convolution, input_grad_convolution
from lowerconv.pipeline.fused.planes import SPLIT_MAX, Planes
from lowerconv.problem import ConvProblem, Op


class Fused:
    """Microkernels fed from the image itself."""

    name = "fused"

    def __init__(self, problem: ConvProblem, op: Op, threads: int) -> None:
        self.problem, self.op = problem, op
        isa = host_isa()
        self.layout: Layout | Correlation | Planes
        make = input_grad_convolution if op == "input_grad" else forward_convolution
        conv = make(problem)
        self.planes = by_planes(problem, op)
        gradient = op == "weight_grad"
        if self.planes:
            self.layout = Planes(conv, isa, threads, gradient)
            self.driver = (
                plane_loops.correlate_address() if gradient else plane_loops.convolve_address()
            )
        elif gradient:
            self.layout = Correlation(problem, isa, threads)
            self.driver = correlate_address()
        else:
            self.layout = Layout(conv, isa, threads, choose_feed(conv, isa))
            self.driver = convolve_address()
        self.extra = getattr(self.layout, "partial_bytes", 0)
        bytes_ = self.layout.workers * self.layout.scratch_bytes + self.extra
        self.workspace_items = bytes_ // problem.dtype.itemsize
        kernel = self.layout.kernels[0]
        self.blocking = {
            "instructions": isa.name,
            "microkernel": f"{kernel.MR} x {kernel.NV} vectors" if not self.planes else "planes",
            "scratch": f"{self.layout.scratch_bytes:,} bytes per core",
        }
        self.job = self.layout.job
        self.job_address = self.job.ctypes.data

    def _run(self, source: Array, filters: Array, bias: Array, target: Array, scratch: Array):
        job = self.job
        job["source"], job["filters"] = source.ctypes.data, filters.ctypes.data
        job["bias"] = bias.ctypes.data if bias.size else 0
        job["target"], job["scratch"] = target.ctypes.data, scratch.ctypes.data
        launch(self.driver, self.job_address, self.layout.workers)

    def forward(self, x: Array, w: Array, epilogue: Epilogue, y: Array, workspace: Array) -> None:
        """Compute `y`."""
        self.job["relu"] = epilogue.relu
        self._run(x, w, epilogue.bias, y, workspace)

    def input_grad(self, dy: Array, w: Array, dx: Array, workspace: Array) -> None:
        """Compute `dx`."""
        self._run(dy, w, np.empty(0, dy.dtype), dx, workspace)

    def weight_grad(self, dy: Array, x: Array, dw: Array, workspace: Array) -> None:
        """Compute `dw`."""
        job, layout = self.job, self.layout
        if self.planes:
            self._run(x, dy, np.empty(0, dy.dtype), dw, workspace)
            return
        assert isinstance(layout, Correlation)
        scratch = workspace.ctypes.data
        partial = scratch + layout.workers * layout.scratch_bytes
        job["dy"], job["x"], job["scratch"] = dy.ctypes.data, x.ctypes.data, scratch
        job["dw"] = partial if self.extra else dw.ctypes.data
        job["zeros"] = layout._zeros.ctypes.data
        launch(self.driver, self.job_address, layout.workers)
        if self.extra:
            job["zeros"] = dw.ctypes.data
            launch(add_splits_address(), self.job_address, layout.workers)


FEW = {"forward": 4, "input_grad": 4, "weight_grad": 16}  # products of a pixel


def by_planes(problem: ConvProblem, op: Op) -> bool:
    """Return whether groups have so few channels and filters that panels would be empty."""
    channels, filters = problem.C // problem.groups, problem.K // problem.groups
    near = problem.geometry.stride_w <= SPLIT_MAX
    return channels * filters <= FEW[op] and near
