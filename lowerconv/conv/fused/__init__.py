"""The fused engine: lowering hidden inside the multiplication.

Generated microkernels multiply straight from the image, or from a padded band of it that stays in
L2: a tap of a filter is an offset in a table, so the lowered matrix never exists, not even in
parts.  What is left of lowering, the padding of a band and the packing of filters into panels, is
done by the core that uses it, piece by piece.  The next piece is prefetched before this one is
multiplied, and arrives meanwhile.

* `forward`: forward, and the input gradient as convolutions of dy;
* `weights`: the weight gradient;
* `conv.depthwise`: groups of very few channels, where there is nothing to pack.
"""

from __future__ import annotations

from functools import lru_cache
from math import inf
from typing import TypeVar

from lowerconv.codegen.isa import host_isa
from lowerconv.conv.algorithm import Algorithm
from lowerconv.conv.depthwise.planes import Planes
from lowerconv.conv.depthwise.schedule import by_planes, make_plane_schedule
from lowerconv.conv.executable import Executable, Options
from lowerconv.conv.fused.forward import Forward
from lowerconv.conv.fused.weights import WeightGrad
from lowerconv.conv.phases import convolution, countable, has_many_phases, is_product
from lowerconv.conv.problem import ConvProblem, Op
from lowerconv.conv.schedule import make_schedule
from lowerconv.conv.schedule_weights import NVS, make_weight_schedule
from lowerconv.conv.tiling_search import tilings
from lowerconv.runtime.affinity import nodes

Variant = TypeVar("Variant")

PATTERNS = 128  # kept: networks have the same layer several times, and for images of all sizes
VARIANTS = 5  # of the tilings, by their cost, that tuning measures


def estimate(problem: ConvProblem, op: Op, constant: bool) -> float:
    """Return the cost, infinite for images and strides that tables and microkernels do not suit.

    That of a weight gradient is taken to be that of the forward pass, whose multiply-adds are as
    many.
    """
    if not countable(problem) or has_many_phases(problem, op):
        return inf
    return tilings(convolution(problem, op), host_isa(), constant)[0].cost


def build(problem: ConvProblem, op: Op, options: Options) -> Executable:
    """Return a pass on microkernels."""
    isa, variant, where = host_isa(), options.variant, nodes(options.threads)
    if op == "weight_grad" and not by_planes(problem, op):
        NV = _named(variant, {f"{NV} vectors": NV for NV in NVS})
        return WeightGrad(make_weight_schedule(problem, isa, where, NV), options)
    activation = options.activation
    if activation is not None:  # layers are alike but for its constants
        options = options._replace(activation=activation.kind)
    return _pattern(problem, op, options, where).with_activation(activation)


@lru_cache(maxsize=PATTERNS)
def _pattern(
    problem: ConvProblem, op: Op, options: Options, where: tuple[int, ...]
) -> Forward | Planes:
    """Return a pass that is never run: others are copies of it, with an activation of their own."""
    isa, variant, conv = host_isa(), options.variant, convolution(problem, op)
    if by_planes(problem, op):
        _named(variant, {})
        return Planes(make_plane_schedule(conv, isa, where, op == "weight_grad"), options)
    found = tilings(conv, isa, options.constant)
    tiling = found[0]
    if variant is not None:  # of several that are called the same, the cheapest
        tiling = _named(variant, {each.name: each for each in reversed(found)}) or tiling
    return Forward(make_schedule(conv, isa, where, tiling, options.constant), options)


def _named(variant: str | None, known: dict[str, Variant]) -> Variant | None:
    """Return a variant by its name, None for None; raise ValueError where there is none."""
    if variant is None:
        return None
    if variant not in known:
        names = ", ".join(map(repr, (None, *known)))
        raise ValueError(f"variant: got {variant!r}, expected one of {names}")
    return known[variant]


def variants(problem: ConvProblem, op: Op, constant: bool) -> tuple[str | None, ...]:
    """Return the names of the variants that may be fastest; only None where there are no others."""
    if by_planes(problem, op):
        return (None,)
    isa = host_isa()
    if op == "weight_grad":
        rows = problem.C if is_product(problem) else problem.K
        vectors = -(-(rows // problem.groups) // isa.lanes(problem.dtype))
        return tuple(f"{NV} vectors" for NV in NVS if vectors >= NV)
    found = tilings(convolution(problem, op), isa, constant)
    return tuple(tiling.name for tiling in found[:VARIANTS])


ALGORITHM = Algorithm(
    name="fused",
    reason="microkernels multiply straight from the image",
    estimate=estimate,
    build=build,
    fuses_epilogue=lambda op: op != "weight_grad",
    variants=variants,
    emits=True,
)
