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
from lowerconv.machine.workspace import Scratch
from lowerconv.pipeline.fused.convolution import Layout
from lowerconv.pipeline.fused.correlation import NVS, Correlation
from lowerconv.pipeline.fused.phases import forward_convolution, input_grad_convolution
from lowerconv.pipeline.fused.planes import Planes
from lowerconv.pipeline.fused.tiling import SPLIT_MAX, tilings
from lowerconv.problem import ConvProblem, Op


class Fused:
    """Microkernels fed from the image itself."""

    name = "fused"
    uses_blas = False

    def __init__(
        self,
        problem: ConvProblem,
        op: Op,
        threads: int,
        constant: bool = False,
        variant: str | None = None,
    ) -> None:
        isa = host_isa()
        make = input_grad_convolution if op == "input_grad" else forward_convolution
        conv = make(problem)
        gradient = op == "weight_grad"
        self.layout: Layout | Correlation | Planes
        self._partial_bytes = 0
        if by_planes(problem, op):
            self.layout = Planes(conv, isa, threads, gradient)
            self._loops = (
                plane_loops.correlate_address() if gradient else plane_loops.convolve_address()
            )
        elif gradient:
            NV = int(variant.split()[0]) if variant else None
            self.layout = Correlation(problem, isa, threads, NV)
            self._loops = correlate_address()
            self._partial_bytes = self.layout.partial_bytes
        else:
            found = tilings(conv, isa, constant)
            tiling = next((tiling for tiling in found if tiling.name == variant), found[0])
            self.layout = Layout(conv, isa, threads, tiling, constant)
            self._loops = convolve_address()
        own = self.layout.workers * self.layout.scratch_bytes
        self._partial_at = own
        self.workspace_items = (own + self._partial_bytes) // problem.dtype.itemsize
        self.blocking = self.layout.explain()
        # The job as plain integers, to set the addresses of a call in: those of the first phase
        # are everybody's.
        self._words = self.layout.job.view(np.int64).reshape(len(self.layout.job), -1)[0]
        self._job = self.layout.job.ctypes.data
        self._field = {name: i for i, name in enumerate(self.layout.job.dtype.names or ())}
        self._packed_from: Array | None = None

    def _launch(self, loops: int, **addresses: int) -> None:
        for name, address in addresses.items():
            self._words[self._field[name]] = address
        launch(loops, self._job, self.layout.workers)

    def _convolve(self, source: Array, w: Array, target: Array, workspace: Scratch) -> None:
        filters = w.ctypes.data
        layout = self.layout
        if isinstance(layout, Layout) and layout.packed is not None:
            kept = self._packed_from
            if kept is None or kept.ctypes.data != filters:
                # Nobody else may take the memory of `w`, or its address would mean other filters.
                self._packed_from = None
                layout.pack(filters)
                self._packed_from = w
            filters = layout.packed.ctypes.data
        self._launch(
            self._loops,
            source=source.ctypes.data,
            filters=filters,
            target=target.ctypes.data,
            scratch=workspace.address,
        )

    def forward(self, x: Array, w: Array, epilogue: Epilogue, y: Array, workspace: Scratch) -> None:
        """Compute `y`."""
        words, field = self._words, self._field
        words[field["relu"]] = epilogue.relu
        words[field["bias"]] = epilogue.bias.ctypes.data if epilogue.bias.size else 0
        self._convolve(x, w, y, workspace)

    def input_grad(self, dy: Array, w: Array, dx: Array, workspace: Scratch) -> None:
        """Compute `dx`."""
        self._convolve(dy, w, dx, workspace)

    def weight_grad(self, dy: Array, x: Array, dw: Array, workspace: Scratch) -> None:
        """Compute `dw`."""
        if not isinstance(self.layout, Correlation):
            self._convolve(x, dy, dw, workspace)
            return
        partial = workspace.address + self._partial_at
        target = dw.ctypes.data
        if self.layout.swap:
            dy, x = x, dy
        self._launch(
            self._loops,
            dy=dy.ctypes.data,
            x=x.ctypes.data,
            dw=partial if self._partial_bytes else target,
            scratch=workspace.address,
        )
        if self._partial_bytes:
            self._launch(add_splits_address(), total=target)


VARIANTS = 5  # of the tilings, by their price, that tuning measures
FEW = {"forward": 4, "input_grad": 4, "weight_grad": 16}  # products of a pixel


def by_planes(problem: ConvProblem, op: Op) -> bool:
    """Return whether groups have so few channels and filters that panels would be empty."""
    channels, filters = problem.C // problem.groups, problem.K // problem.groups
    near = problem.geometry.stride_w <= SPLIT_MAX
    return channels * filters <= FEW[op] and near


def variants(problem: ConvProblem, op: Op, constant: bool) -> list[str | None]:
    """Return the names of the variants that may be fastest; None is the only one there is."""
    if by_planes(problem, op):
        return [None]
    isa = host_isa()
    if op == "weight_grad":
        rows = problem.C if (problem.R, problem.S, problem.stride) == (1, 1, (1, 1)) else problem.K
        vectors = -(-(rows // problem.groups) // isa.lanes(problem.dtype))
        return [f"{NV} vectors" for NV in NVS if vectors >= NV]
    make = input_grad_convolution if op == "input_grad" else forward_convolution
    return [tiling.name for tiling in tilings(make(problem), isa, constant)[:VARIANTS]]
