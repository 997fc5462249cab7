"""Sums of pixels that ternary weights select: nothing is multiplied, and zeros are skipped.

A weight is -1, 0 or 1.  Those of a filter are pairs of masks of 64 weights, which are 1 and which
are -1: 2 bits a weight.  The kernel finds the bits that are set, one after the other, and adds the
pixels that such a weight reads to its sums, or subtracts them: NV vectors of neighbouring pixels,
16 bits each.  Where the pixels of a weight begin is an entry of a table that all filters share.

Pixels are -128 to 127, so that sums of `PAIRS_MAX` pairs of masks fit 16 bits; they are then added
to sums of 32 bits in memory.

Kernels for ternary weights that add and subtract in place of multiplying are proposed by Li, Zhang,
Liu, "Ternary weight networks" (2016).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from llvmlite import ir

from lowerconv.codegen.emit import I1, I16, I32, I64, Emitter
from lowerconv.codegen.isa import Isa
from lowerconv.codegen.kernel import Kernel
from lowerconv.codegen.signatures import TernarySums, WidenBytes
from lowerconv.codegen.transposing import pick

BITS = 64  # weights of a mask
PAIR_BYTES = 16  # of masks
PAIRS_MAX = 3  # pairs of masks whose sums fit 16 bits: 4 could be 256 times 128
PIXEL, WORD = np.dtype(np.int16), np.dtype(np.int32)

Values = list[ir.Value]


@dataclass(frozen=True)
class TernaryKernel(Kernel):
    """Adds to the sums of one filter what some of its weights select.

    Attributes
    ----------
    NV : int
        Vectors of pixels.
    """

    name, signature = "ternary_sums", TernarySums

    isa: Isa
    NV: int
    dtype: np.dtype = PIXEL

    def emit(self, e: Emitter) -> None:
        """Write the instructions of the function."""
        source, offsets, masks, pairs, sums, add, start = e.arguments
        b = e.builder

        def add_pair(index: ir.Value, carried: Values) -> Values:
            table = b.add(offsets, b.mul(index, e.constant(4 * BITS)))
            pair = b.add(masks, b.mul(index, e.constant(PAIR_BYTES)))
            for number, operation in enumerate((b.add, b.sub)):

                def weight(bit: ir.Value, totals: Values, operation=operation) -> Values:
                    at = b.add(source, e.entry(table, bit))
                    pixels = [e.load(at, v * e.lanes) for v in range(self.NV)]
                    return [operation(t, p) for t, p in zip(totals, pixels, strict=True)]

                carried = each_bit(e, e.load_i64(pair, number), weight, carried)
            return carried

        totals = e.loop(pairs, add_pair, [e.zeros] * self.NV)
        half = e.lanes // 2
        wide = ir.VectorType(I32, half)
        keep = e.splat(b.icmp_signed("!=", add, e.constant(0)), half)
        begin = e.splat(b.trunc(start, I32), half)
        for v, total in enumerate(totals):
            for part in range(2):
                lanes = e.shuffle(total, total, range(part * half, (part + 1) * half))
                at = e.address(sums, 2 * (v * e.lanes + part * half), wide)
                before = b.load(at, align=4, typ=wide)
                before = b.select(keep, before, begin)
                b.store(b.add(before, b.sext(lanes, wide)), at, align=4)


def each_bit(
    e: Emitter, mask: ir.Value, body: Callable[[ir.Value, Values], Values], carried: Values
) -> Values:
    """Run ``body(number of a bit, carried)`` for every bit of a mask that is set."""
    b, before, zero = e.builder, e.builder.block, e.constant(0)
    head, after = e.block("bit"), e.block("after")
    b.cbranch(b.icmp_signed("==", mask, zero), after, head)
    b.position_at_end(head)
    left = b.phi(I64)
    phis = [b.phi(value.type) for value in carried]
    number = e.call_named("llvm.cttz.i64", [left, ir.Constant(I1, 1)], I64)
    results = body(number, list(phis))
    rest = b.and_(left, b.sub(left, e.constant(1)))
    end = b.block
    left.add_incoming(mask, before)
    left.add_incoming(rest, end)
    b.cbranch(b.icmp_signed("==", rest, zero), after, head)
    b.position_at_end(after)
    final = []
    for phi, value, result in zip(phis, carried, results, strict=True):
        phi.add_incoming(value, before)
        phi.add_incoming(result, end)
        last = b.phi(value.type)
        last.add_incoming(value, before)
        last.add_incoming(result, end)
        final.append(last)
    return final


@dataclass(frozen=True)
class WideningKernel(Kernel):
    """Writes bytes of words as pixels of 16 bits, with up to a vector of anything behind them.

    Attributes
    ----------
    stride : int
        Words from one pixel to the next.
    """

    name, signature = "widen_bytes", WidenBytes

    isa: Isa
    stride: int
    dtype: np.dtype = WORD

    def emit(self, e: Emitter) -> None:
        """Write the instructions of the function."""
        source, count, target, step, flip = e.arguments
        b, together = e.builder, e.lanes * self.stride
        flips = e.splat(b.trunc(flip, I32))
        low, middle = (ir.Constant(e.vector, [number] * e.lanes) for number in (255, 128))
        half = ir.VectorType(I16, e.lanes)

        def write(block: ir.Value, words: Values) -> None:
            word = pick(e, words, 0) if self.stride > 1 else words[0]
            to = b.add(target, b.mul(block, e.constant(e.lanes * PIXEL.itemsize)))
            for byte in range(4):
                value = b.and_(b.lshr(word, ir.Constant(e.vector, [8 * byte] * e.lanes)), low)
                value = b.trunc(b.sub(b.xor(value, flips), middle), half)
                b.store(value, e.pointer(to, half), align=PIXEL.itemsize)
                to = b.add(to, step)

        def whole(block: ir.Value, _: Values) -> None:
            first = b.mul(block, e.constant(together))
            write(block, [e.load(source, b.add(first, at)) for at in starts])

        starts = [e.constant(i * e.lanes) for i in range(self.stride)]
        one = e.constant(1)
        exist = b.add(b.mul(b.sub(count, one), e.constant(self.stride)), one)
        blocks = b.sdiv(exist, e.constant(together))
        e.loop(blocks, whole)
        first = b.mul(blocks, e.constant(together))
        with b.if_then(b.icmp_signed("<", b.mul(blocks, e.constant(e.lanes)), count)):
            rest = [(b.add(first, at), b.sub(b.sub(exist, first), at)) for at in starts]
            masks = [e.lanes_between(e.constant(0), left, e.lanes) for _, left in rest]
            pairs = zip(rest, masks, strict=True)
            write(blocks, [e.masked_load(source, at, mask) for (at, _), mask in pairs])
