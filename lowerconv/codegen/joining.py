"""Rounding filters to bf16 and joining them in words of two channels, taps in vectors."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from llvmlite import ir

from lowerconv.codegen.emit import Emitter
from lowerconv.codegen.half import Conversion
from lowerconv.codegen.isa import Isa
from lowerconv.codegen.kernel import kernel_address
from lowerconv.codegen.signatures import JoinTaps


def _join(e: Emitter) -> None:
    """Emit ``join``: taps of channels 2c and 2c + 1, the first one in the lower half."""
    source, channels, taps, target = e.arguments
    b, conversion = e.builder, Conversion("bf16", False)
    zero, two, lanes = e.constant(0), e.constant(2), e.constant(e.lanes)
    words = ir.VectorType(ir.IntType(32), e.lanes)
    up = ir.Constant(words, [16] * e.lanes)

    def part(v: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
        at, to, paired = carried
        begin = b.mul(v, lanes)
        mask = e.lanes_below(b.sub(taps, begin))
        second = e.lanes_below(b.select(b.trunc(paired, ir.IntType(1)), b.sub(taps, begin), zero))

        def bits(place: ir.Value, chosen: ir.Value) -> ir.Value:
            found = e.load_lanes(e.address(place, begin, e.vector), chosen, e.zeros)
            return b.zext(conversion.narrow(b, found), words)

        high = b.shl(bits(e.offset(at, taps), second), up)
        e.store_lanes(b.or_(bits(at, mask), high), e.address(to, begin, words), mask)
        return carried

    def pair(c: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
        at, to = carried
        more = b.icmp_signed("<", b.add(b.mul(c, two), e.constant(1)), channels)
        count = b.sdiv(b.add(taps, e.constant(e.lanes - 1)), lanes)
        e.loop(count, part, [at, to, b.zext(more, ir.IntType(64))])
        return [e.offset(at, b.mul(two, taps)), e.offset(to, taps)]

    pairs = b.sdiv(b.add(channels, e.constant(1)), two)
    e.loop(pairs, pair, [source, target])


@lru_cache
def join_address(isa: Isa) -> int:
    """Return the address of ``join``."""
    return kernel_address(JoinTaps, _join, isa, np.dtype(np.float32))
