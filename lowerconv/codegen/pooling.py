"""The kernel of pooling without gradients: rows of one plane, for windows of a width, any plane.

What a row of windows reads is first combined down the columns, in whole vectors; then the taps of a
row are lanes of these, every one or, with a stride of two, every other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from llvmlite import ir

from lowerconv.codegen.emit import I32, Emitter
from lowerconv.codegen.isa import Isa
from lowerconv.codegen.kernel import Kernel
from lowerconv.codegen.signatures import PoolPlane

STRIDE_MAX = 2  # of columns
SIZE_MAX = 8  #   of either axis: more vectors than that stay in no registers


def pools(isa: Isa, size: tuple[int, int], stride: tuple[int, int]) -> bool:
    """Return whether there is a kernel for such windows: where some lanes are read at no cost."""
    return isa.masks and stride[1] <= STRIDE_MAX and max(size) <= SIZE_MAX


@dataclass(frozen=True)
class PoolKernel(Kernel):
    """The largest pixel of each window of a plane, or the mean.

    Attributes
    ----------
    width, across : int
        Columns of a window, and from one window to the next.
    mean : bool
        Windows are whole then: pixels of the padding count as zeros.
    """

    name, signature = "pool", PoolPlane

    isa: Isa
    dtype: np.dtype
    width: int
    across: int
    mean: bool = False

    def emit(self, e: Emitter) -> None:
        """Write ``pool(source, H, W, above, before, height, down, out, P, Q)``."""
        source, H, W, above, before, height, down, out, P, Q = e.arguments
        b, zero = e.builder, e.constant(0)
        S, across = self.width, self.across
        outside = 0.0 if self.mean else -np.inf
        other = ir.Constant(e.vector, [outside] * e.lanes)
        area = b.sitofp(b.mul(height, e.constant(S)), e.scalar)
        scale = e.splat(b.fdiv(ir.Constant(e.scalar, 1.0), area))
        # A vector of pixels begins at every tap, or at every other one and goes on for another.
        begins = range(0, S, across)
        places = [begin + part * e.lanes for begin in begins for part in range(across)]

        def least(x: ir.Value, y: ir.Value) -> ir.Value:
            return b.select(b.icmp_signed("<", x, y), x, y)

        def combine(best: ir.Value, more: ir.Value) -> ir.Value:
            if self.mean:
                return b.fadd(best, more)
            wins = b.fcmp_unordered(">", more, best)  # NaN wins, of either
            stays = b.fcmp_unordered("uno", best, best)
            return b.select(b.and_(wins, b.not_(stays)), more, best)

        # Unsigned: a negative column is a large one.
        width, windows = (e.splat(b.trunc(extent, I32)) for extent in (W, Q))

        def far(items: int) -> ir.Constant:
            return ir.Constant(ir.VectorType(I32, e.lanes), [items] * e.lanes)

        def row(p: ir.Value, _: list[ir.Value]) -> None:
            top = b.sub(b.mul(p, down), above)
            first = b.select(b.icmp_signed("<", top, zero), zero, top)
            last = least(b.add(top, height), H)
            line = e.offset(source, b.mul(first, W))

            def vector(index: ir.Value, _: list[ir.Value]) -> None:
                q = b.mul(index, e.constant(e.lanes))
                left = b.sub(b.mul(q, e.constant(across)), before)
                columns = [b.add(left, e.constant(place)) for place in places]
                at = b.add(e.splat(b.trunc(left, I32)), e.lane_numbers(e.lanes))
                masks = [b.icmp_unsigned("<", b.add(at, far(place)), width) for place in places]

                def one(i: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
                    here = e.offset(line, b.mul(i, W))
                    return [
                        combine(
                            total,
                            e.load_lanes(e.address(here, column, e.vector), mask, other),
                        )
                        for total, column, mask in zip(sums, columns, masks, strict=True)
                    ]

                found = e.loop(b.sub(last, first), one, [other] * len(places))
                best = None
                for tap in range(S):
                    begin = tap // across * across
                    parts = found[begin : begin + across]
                    value = parts[0]
                    if across > 1:
                        lanes = [tap % across + across * j for j in range(e.lanes)]
                        value = e.shuffle(parts[0], parts[1], lanes)
                    best = value if best is None else combine(best, value)
                assert best is not None
                best = b.fmul(best, scale) if self.mean else best
                to = e.offset(out, b.add(b.mul(p, Q), q))
                number = b.add(e.splat(b.trunc(q, I32)), e.lane_numbers(e.lanes))
                exists = b.icmp_unsigned("<", number, windows)
                e.store_lanes(best, e.address(to, 0, e.vector), exists)

            more = e.constant(e.lanes - 1)
            e.loop(b.sdiv(b.add(Q, more), e.constant(e.lanes)), vector)

        e.loop(P, row)
