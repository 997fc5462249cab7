"""Vectors of SVE as its instructions take them: of a type of their own, as long as registers are.

Code has vectors of a fixed length, as on every other instruction set; the registers of a function
that is generated for one length are as long.  So these casts are no instructions.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from lowerconv.codegen.emit import I1, I32, I64, Emitter

GRANULE = 128  # bits, whose multiples registers may be
_ALL = 31  # of the lanes, to a `ptrue`


class Scalable(ir.Type):
    """``<vscale x count x item>``, which llvmlite does not name: `count` items in 128 bits."""

    def __init__(self, item: ir.Type, count: int) -> None:
        self.item, self.count = item, count

    def _to_string(self) -> str:
        return f"<vscale x {self.count} x {self.item}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scalable) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))


def to_scalable(e: Emitter, value: ir.Value) -> ir.Value:
    """Return a vector as instructions of SVE take it."""
    fixed, kind = value.type, _like(e, value.type)
    name = f"llvm.vector.insert.{_name(kind)}.{_name(fixed)}"
    undefined = ir.Constant(kind, ir.Undefined)
    return e.call_named(name, [undefined, value, ir.Constant(I64, 0)], kind)


def from_scalable(e: Emitter, value: ir.Value, kind: ir.VectorType) -> ir.Value:
    """Return a vector of fixed length again."""
    name = f"llvm.vector.extract.{_name(kind)}.{_name(value.type)}"
    return e.call_named(name, [value, ir.Constant(I64, 0)], kind)


def widen_f16(e: Emitter, words: ir.Value) -> ir.Value:
    """Return float32 of the float16 in the lower half of each word."""
    halves = e.builder.bitcast(words, ir.VectorType(ir.HalfType(), 2 * e.lanes))
    kind, lanes = Scalable(ir.FloatType(), 4), Scalable(I1, 4)
    every = e.call_named("llvm.aarch64.sve.ptrue.nxv4i1", [ir.Constant(I32, _ALL)], lanes)
    operands = [ir.Constant(kind, ir.Undefined), every, to_scalable(e, halves)]
    wide = e.call_named("llvm.aarch64.sve.fcvt.f32f16", operands, kind)
    return from_scalable(e, wide, e.vector)


def _like(e: Emitter, fixed: ir.VectorType) -> Scalable:
    return Scalable(fixed.element, fixed.count * GRANULE // e.isa.bits)


def _name(kind: Any) -> str:
    """Return a type as it stands in the names of LLVM's functions."""
    if isinstance(kind, Scalable):
        return f"nxv{kind.count}{kind.item.intrinsic_name}"
    return f"v{kind.count}{kind.element.intrinsic_name}"
