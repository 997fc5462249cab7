"""Microkernels whose sums, float32, are stored as bfloat16, rounded to nearest even.

The result is planes of 16-bit items, two bytes from one pixel to the next: so `out` and `ld_out`
count those.  The rounding is that of `lowerconv.ops.half`: by integers, denormal numbers kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from llvmlite import ir

from lowerconv.codegen.emit import Emitter
from lowerconv.codegen.microkernel import Geometry, Microkernel, Store

I16 = ir.IntType(16)


@dataclass(frozen=True)
class Bf16Microkernel(Microkernel):
    """A register tile whose sums become bfloat16.

    Raises
    ------
    ValueError
        The sums are not float32, or the result is spread.
    """

    name = "microkernel_bf16"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dtype != np.float32:
            raise ValueError(f"dtype: got {self.dtype}, expected float32")
        if self.pixel_step != 1 or self.result_rows:
            raise ValueError("pixel_step: got a result that is spread, expected rows of pixels")

    def _prefetch_result(
        self, e: Emitter, out: ir.Value, ld_out: ir.Value, geometry: Geometry
    ) -> None:
        """Leave that to hardware: rows have half as many lines."""

    def _row(self, e: Emitter, to: Store, number: int) -> ir.Value:
        """Return the address of a row of the result; ask for what the next tile has of it."""
        row = e.builder.add(to.out, e.builder.mul(to.ld_out, e.constant(2 * number)))
        if self.uses_amx:
            self._prefetch_ahead(e, row, 2, 1)
        return row

    def _target(self, e: Emitter, row: ir.Value, v: int, geometry: Geometry) -> ir.Value:
        """Return the address of a vector's row of pixels in a row of the result."""
        if geometry.out_row is None:
            return row
        step = e.builder.mul(geometry.out_row, e.constant(2 * self.pixel_rows[v]))
        return e.builder.add(row, step)

    def _put(
        self,
        e: Emitter,
        value: ir.Value,
        row: ir.Value,
        first: int,
        count: int | ir.Value,
        to: Store,
    ) -> None:
        """Store the first lanes of a vector."""
        builder, kind = e.builder, ir.VectorType(I16, e.lanes)
        place = e.pointer(builder.add(row, e.constant(2 * first)), kind)
        known = isinstance(count, int)
        chosen = e.first_lanes(count) if known else e.lanes_below(count)
        if to.add:
            if known and count == e.lanes:
                there = builder.load(place, align=2, typ=kind)
            else:
                there = e.load_lanes(place, chosen, ir.Constant(kind, None))
            wide = builder.shl(builder.zext(there, _words(e)), _same(e, 16))
            value = e.add(builder.bitcast(wide, e.vector), value)
        bits = builder.trunc(_rounded(e, to.epilogue.apply(value)), kind)
        if known and count == e.lanes:
            builder.store(bits, place, align=2)
        elif known and (count == 1 or not e.isa.masks):
            # Of a masked store of one lane of 16 bits LLVM 22 makes one of 32, on x86-64.
            e.store_run(bits, place, 0, count)
        else:
            e.store_lanes(bits, place, chosen)


def _words(e: Emitter) -> ir.VectorType:
    return ir.VectorType(ir.IntType(32), e.lanes)


def _same(e: Emitter, number: int) -> ir.Constant:
    return ir.Constant(_words(e), [number] * e.lanes)


def _rounded(e: Emitter, value: ir.Value) -> ir.Value:
    """Return the bits of numbers, as 32-bit integers."""
    builder = e.builder
    bits = builder.bitcast(value, _words(e))
    top = builder.lshr(bits, _same(e, 16))
    odd = builder.and_(top, _same(e, 1))
    rounded = builder.lshr(builder.add(builder.add(bits, _same(e, 0x7FFF)), odd), _same(e, 16))
    nan = builder.or_(top, _same(e, 0x40))
    return builder.select(builder.fcmp_unordered("uno", value, value), nan, rounded)
