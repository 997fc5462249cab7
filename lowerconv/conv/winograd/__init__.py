"""Winograd's convolution: four by four pixels with 36 products instead of 144.

For filters of 3x3 taps at stride 1 in float32.  Results are rounded differently than by the other
algorithms: on normal data the error is about twice theirs, 8e-7 of the results' root mean square
with 64 channels and 2e-6 with 512 (at worst 6e-6 and 1.5e-5).  A value that is not finite reaches
all pixels of the tiles that read it.
"""

from __future__ import annotations

from math import inf

import numpy as np

from lowerconv.codegen.isa import host_isa
from lowerconv.codegen.transforms import R
from lowerconv.conv import costs
from lowerconv.conv.algorithm import Algorithm
from lowerconv.conv.depthwise.schedule import by_planes
from lowerconv.conv.executable import Executable, Options
from lowerconv.conv.phases import convolution
from lowerconv.conv.problem import ConvProblem, Op
from lowerconv.conv.winograd.forward import WinogradForward
from lowerconv.conv.winograd.schedule import make_tile_schedule
from lowerconv.conv.winograd.schedule_weights import make_sum_schedule
from lowerconv.conv.winograd.weights import WinogradWeightGrad
from lowerconv.runtime.affinity import nodes


def takes(problem: ConvProblem) -> bool:
    """Return whether the algorithm takes a problem."""
    p = problem
    plain = p.stride == p.dilation == (1, 1)
    return plain and (p.R, p.S) == (R, R) and p.dtype == np.float32


def check(problem: ConvProblem) -> None:
    """Raise ValueError for what the algorithm does not take."""
    p = problem
    for name, got, expected in (
        ("dtype", p.dtype.name, ("float32",)),
        ("filters of R x S", (p.R, p.S), ((R, R),)),
        ("stride", p.stride, ((1, 1),)),
        ("dilation", p.dilation, ((1, 1),)),
    ):
        if got not in expected:
            wanted = " or ".join(map(str, expected))
            raise ValueError(f"algorithm: got 'winograd' where {name} is {got}, expected {wanted}")


def estimate(problem: ConvProblem, op: Op, constant: bool) -> float:
    """Return the cost in one thread.

    Results differ from those of "fused": the choice must not depend on the number of threads.
    """
    if not takes(problem) or by_planes(problem, op):
        return inf
    if op == "weight_grad":
        cost = make_sum_schedule(problem, host_isa(), (0,)).cost
    else:
        cost = make_tile_schedule(convolution(problem, op), host_isa(), (0,), constant).cost
    return costs.WINOGRAD_ROUNDING * cost


def build(problem: ConvProblem, op: Op, options: Options) -> Executable:
    """Return a pass by tiles."""
    isa, where = host_isa(), nodes(options.threads)
    if op == "weight_grad":
        return WinogradWeightGrad(make_sum_schedule(problem, isa, where), options)
    schedule = make_tile_schedule(convolution(problem, op), isa, where, options.constant)
    return WinogradForward(schedule, options)


ALGORITHM = Algorithm(
    name="winograd",
    reason="3x3 taps and enough to do that fewer multiplications pay for transforms",
    estimate=estimate,
    build=build,
    fuses_epilogue=lambda op: True,
    check=check,
    emits=True,
)
