"""The fused engine: lowering hidden inside the multiplication.

Generated microkernels multiply straight from the image, or from a padded band of it that stays in
L2: a tap of a filter is an offset in a table, so the lowered matrix never exists, not even in
parts.  What is left of lowering, the padding of a band and the packing of filters into panels, is
done by the core that uses it, piece by piece, while the next piece is on its way to the cache.
"""

from __future__ import annotations

import numpy as np

from lowerconv.kernels.call import launch
from lowerconv.kernels.convolve import convolve_address
from lowerconv.kernels.correlate import add_splits_address, correlate_address
from lowerconv.kernels.epilogue import Array, Epilogue
from lowerconv.kernels.simd import host_isa
from lowerconv.pipeline.fused.convolution import FILTERS, Layout
from lowerconv.pipeline.fused.correlation import Correlation
from lowerconv.pipeline.fused.phases import forward_convolution, input_grad_convolution
from lowerconv.problem import ConvProblem, Op


class Fused:
    """Microkernels fed from the image itself."""

    name = "fused"

    def __init__(self, problem: ConvProblem, op: Op, threads: int) -> None:
        self.problem, self.op = problem, op
        isa = host_isa()
        self.layout: Layout | Correlation
        extra = 0
        if op == "weight_grad":
            self.layout = Correlation(problem, isa, threads)
            extra = self.layout.partial_bytes
        else:
            make = forward_convolution if op == "forward" else input_grad_convolution
            self.layout = Layout(make(problem), isa, threads, FILTERS)
        self.extra = extra
        bytes_ = self.layout.workers * self.layout.scratch_bytes + extra
        self.workspace_items = bytes_ // problem.dtype.itemsize
        kernel = self.layout.kernels[0]
        self.blocking = {
            "instructions": isa.name,
            "microkernel": f"{kernel.MR} x {kernel.NV} vectors",
            "scratch": f"{self.layout.scratch_bytes:,} bytes per core",
        }
        self.job = self.layout.job
        self.job_address = self.job.ctypes.data

    def _run(self, source: Array, filters: Array, bias: Array, target: Array, scratch: Array):
        job = self.job
        job["source"], job["filters"] = source.ctypes.data, filters.ctypes.data
        job["bias"] = bias.ctypes.data if bias.size else 0
        job["target"], job["scratch"] = target.ctypes.data, scratch.ctypes.data
        launch(convolve_address(), self.job_address, self.layout.workers)

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
        assert isinstance(layout, Correlation)
        scratch = workspace.ctypes.data
        partial = scratch + layout.workers * layout.scratch_bytes
        job["dy"], job["x"], job["scratch"] = dy.ctypes.data, x.ctypes.data, scratch
        job["dw"] = partial if self.extra else dw.ctypes.data
        job["zeros"] = layout._zeros.ctypes.data
        launch(correlate_address(), self.job_address, layout.workers)
        if self.extra:
            job["zeros"] = dw.ctypes.data
            launch(add_splits_address(), self.job_address, layout.workers)
