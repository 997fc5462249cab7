"""The fused engine: lowering hidden inside the multiplication.

Generated microkernels multiply straight from the image, or from a padded band of it that stays in
L2: a tap of a filter is an offset in a table, so the lowered matrix never exists, not even in
parts.  What is left of lowering, the padding of a band and the packing of filters into panels, is
done by the core that uses it, piece by piece, while the next piece is on its way to the cache:
prefetches stand between the multiply-adds, where they cost nothing.

A layout decides how, and writes a job that the loops of `lowerconv.conv` follow:

* `convolution.Layout`: forward, and the input gradient as convolutions of dy (`phases`);
* `correlation.Correlation`: the weight gradient;
* `planes.Planes`: groups of very few channels, where there is nothing to pack.

`lowerconv.conv.winograd` has fewer multiplications: its transforms are another way to lower a
band, its products the same microkernels on what they leave.
"""

from __future__ import annotations

import numpy as np

from lowerconv.codegen.isa import host_isa
from lowerconv.conv.blas.epilogue import Array, Epilogue
from lowerconv.conv.depthwise import nest as plane_loops
from lowerconv.conv.depthwise.schedule import Planes
from lowerconv.conv.kept import Kept
from lowerconv.conv.lowering import forward_convolution, input_grad_convolution
from lowerconv.conv.macrokernel import convolve_address
from lowerconv.conv.macrokernel_weights import add_splits_address, correlate_address
from lowerconv.conv.problem import ConvProblem, Op
from lowerconv.conv.schedule import Layout
from lowerconv.conv.schedule_weights import NVS, Correlation
from lowerconv.conv.tiling import SPLIT_MAX, tilings
from lowerconv.copying import not_copied
from lowerconv.runtime.affinity import nodes
from lowerconv.runtime.launch import launch, place, write
from lowerconv.runtime.team import Handle
from lowerconv.runtime.workspace import Scratch


@not_copied("copy the ConvPlan that it is a part of")
class Fused:
    """Microkernels fed from the image itself."""

    name = "fused"
    pairs = False
    slices = True

    def __init__(
        self,
        problem: ConvProblem,
        op: Op,
        threads: int,
        constant: bool = False,
        variant: str | None = None,
    ) -> None:
        self.threads = threads
        isa = host_isa()
        make = input_grad_convolution if op == "input_grad" else forward_convolution
        conv = make(problem)
        gradient = op == "weight_grad"
        self.layout: Layout | Correlation | Planes
        self._partial_bytes = 0
        if by_planes(problem, op):
            self.layout = Planes(conv, isa, nodes(threads), gradient)
            self._loops = (
                plane_loops.correlate_address() if gradient else plane_loops.convolve_address()
            )
        elif gradient:
            NV = int(variant.split()[0]) if variant else None
            self.layout = Correlation(problem, isa, nodes(threads), NV)
            self._loops = correlate_address()
            self._partial_bytes = self.layout.partial_bytes
        else:
            found = tilings(conv, isa, constant)
            tiling = next((tiling for tiling in found if tiling.name == variant), found[0])
            self.layout = Layout(conv, isa, nodes(threads), tiling, constant)
            self._loops = convolve_address()
        self.adds = not gradient
        own = self.layout.workers * self.layout.scratch_bytes
        self.workspace_items = (own + self._partial_bytes) // problem.dtype.itemsize
        self.blocking = self.layout.explain()
        self._use_job()
        self._nothing = np.empty(0, problem.dtype)
        self._packed_from = Kept()

    def _use_job(self) -> None:
        # The job as plain integers, to write the addresses of a call into: those in the record of
        # the first phase are everybody's.
        self._words = self.layout.job.view(np.int64)
        self._job = self.layout.job.ctypes.data

    def accumulate(self, add: bool) -> None:
        """Add to the results from now on, in the epilogue of the microkernels."""
        write(self.layout.job, add=add and self.adds)

    def _run(
        self,
        team: Handle,
        source: Array,
        filters: Array,
        target: Array,
        workspace: Scratch,
        bias: Array | None = None,
        relu: bool = False,
    ) -> None:
        bias = self._nothing if bias is None else bias
        place(self._words, source, filters, bias, target, workspace.address, relu)
        launch(team, self._loops, self._job, self.layout.workers)

    def _kept(self, team: Handle, w: Array) -> Array:
        """Return the filters to multiply with: as they are, or packed once."""
        layout = self.layout
        if not isinstance(layout, Layout) or layout.packed is None or w is layout.packed:
            return w
        if not self._packed_from.has(w):
            self._packed_from.forget()  # whatever interrupts it
            layout.pack(team, w.ctypes.data)
            self._packed_from.take(w)
        return layout.packed

    def hold(self, team: Handle, w: Array, workspace: Scratch) -> Array:
        """Return the packed filters, where they are kept so."""
        kept = self._kept(team, w)
        self._packed_from.forget()
        return kept

    def forward(
        self, team: Handle, x: Array, w: Array, epilogue: Epilogue, y: Array, workspace: Scratch
    ) -> None:
        """Compute `y`."""
        self._run(team, x, self._kept(team, w), y, workspace, *epilogue)

    def input_grad(self, team: Handle, dy: Array, w: Array, dx: Array, workspace: Scratch) -> None:
        """Compute `dx`."""
        self._run(team, dy, self._kept(team, w), dx, workspace)

    def weight_grad(self, team: Handle, dy: Array, x: Array, dw: Array, workspace: Scratch) -> None:
        """Compute `dw`."""
        if isinstance(self.layout, Correlation) and self.layout.swap:
            dy, x = x, dy
        if isinstance(self.layout, Correlation) and len(x) > 1:
            self.layout.place_images(x.strides[0] // x.itemsize)
            self._use_job()
        self._run(team, x, dy, dw, workspace)
        if self._partial_bytes:
            launch(team, add_splits_address(), self._job, self.layout.workers)


GROUPS = 8
VARIANTS = 5  # of the tilings, by their price, that tuning measures
FEW = {"forward": 4, "input_grad": 4, "weight_grad": 16}  # products of a pixel


def by_planes(problem: ConvProblem, op: Op) -> bool:
    """Return whether groups have so few channels and filters that panels would be empty."""
    channels, filters = problem.C // problem.groups, problem.K // problem.groups
    if problem.geometry.stride_w > SPLIT_MAX:
        return False
    # A single result: a filter is used once for every pixel, and only pixels can be shared.
    results = {"forward": filters, "input_grad": channels, "weight_grad": 0}[op]
    single = results == 1 and problem.R > 1
    # A weight gradient is shared out by groups, so there have to be some.
    many = op != "weight_grad" or problem.groups >= GROUPS
    return (channels * filters <= FEW[op] and many) or single


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
