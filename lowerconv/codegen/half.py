"""Numbers of 16 bits as instructions write them: float32 from and to bf16 and fp16, any lanes.

::

    float32   s eeeeeeee mmmmmmmmmmmmmmmmmmmmmmm     8 bits of exponent, 23 of mantissa
    bf16      s eeeeeeee mmmmmmm                     the range of float32, 2-3 decimal digits
    fp16      s eeeee mmmmmmmmmm                     to 65504, 3-4 digits; below 6.1e-5 ever fewer

Rounding is to nearest, ties to even (IEEE 754-2019, 4.3.1): what is too large becomes infinite,
what is too small a denormal or zero, and NaN stays NaN.  bf16 takes a few instructions on integers:
those that some CPUs have for it take denormals for zero.  fp16 has instructions of its own on most
(F16C, AVX-512, NEON); elsewhere it is done with integers and one addition of float32.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from lowerconv.copying import not_copied

KINDS = ("bf16", "fp16")
_F32, _F16, _I32, _I16 = ir.FloatType(), ir.HalfType(), ir.IntType(32), ir.IntType(16)


@not_copied("make another")
class Conversion:
    """Writes conversions of numbers of one kind, scalars or vectors of them.

    Parameters
    ----------
    kind : "bf16" or "fp16"
    native : bool
        Whether the CPU has instructions for fp16.
    """

    def __init__(self, kind: str, native: bool) -> None:
        self.kind, self.native = kind, native

    def widen(self, builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
        """Return the float32 that 16 bits stand for: exact."""
        number, integer = _like(bits, _F32), _like(bits, _I32)
        if self.kind == "fp16" and self.native:
            return builder.fpext(builder.bitcast(bits, _like(bits, _F16)), number)
        wide = builder.zext(bits, integer)
        if self.kind == "bf16":
            return builder.bitcast(builder.shl(wide, _all(integer, 16)), number)
        return _Integers(builder, integer, number).from_fp16(wide)

    def narrow(self, builder: ir.IRBuilder, values: ir.Value) -> ir.Value:
        """Return the 16 bits of float32, rounded."""
        number, integer = values.type, _like(values, _I32)
        if self.kind == "fp16" and self.native:
            half = builder.fptrunc(values, _like(values, _F16))
            return builder.bitcast(half, _like(values, _I16))
        bits = builder.bitcast(values, integer)
        integers = _Integers(builder, integer, number)
        code = integers.bf16(bits) if self.kind == "bf16" else integers.fp16(bits)
        return builder.trunc(code, _like(values, _I16))


def _like(value: ir.Value, kind: ir.Type) -> ir.Type:
    """Return a type with as many lanes as a value has."""
    vector = isinstance(value.type, ir.VectorType)
    return ir.VectorType(kind, value.type.count) if vector else kind


def _all(kind: ir.Type, value: Any) -> ir.Constant:
    """Return a constant, in all lanes of a type."""
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


class _Integers:
    """The same on 32-bit integers, which hold the bits of a float32 or a code."""

    def __init__(self, builder: ir.IRBuilder, integer: ir.Type, number: ir.Type) -> None:
        self.builder, self.integer, self.number = builder, integer, number

    def _bits(self, value: int) -> ir.Constant:
        return _all(self.integer, value)

    def _right(self, value: ir.Value, count: int) -> ir.Value:
        return self.builder.lshr(value, self._bits(count))

    def _rounded(self, bits: ir.Value, dropped: int) -> ir.Value:
        """Return integers without their last bits: to nearest, ties to even."""
        builder = self.builder
        odd = builder.and_(self._right(bits, dropped), self._bits(1))
        tie = self._bits((1 << dropped - 1) - 1)
        return self._right(builder.add(builder.add(bits, tie), odd), dropped)

    def bf16(self, bits: ir.Value) -> ir.Value:
        builder = self.builder
        size = builder.and_(bits, self._bits(0x7FFFFFFF))
        nan = builder.icmp_unsigned(">", size, self._bits(0x7F800000))
        quiet = builder.or_(self._right(bits, 16), self._bits(0x40))
        return builder.select(nan, quiet, self._rounded(bits, 16))

    def fp16(self, bits: ir.Value) -> ir.Value:
        builder = self.builder
        size = builder.and_(bits, self._bits(0x7FFFFFFF))
        normal = self._rounded(builder.sub(size, self._bits(112 << 23)), 13)
        # 0.5, whose last bit is worth as much as a denormal's: the sum's mantissa is the code.
        half = _all(self.number, 0.5)
        total = builder.fadd(builder.bitcast(size, self.number), half)
        denormal = builder.sub(builder.bitcast(total, self.integer), self._bits(126 << 23))
        small = builder.icmp_unsigned("<", size, self._bits(113 << 23))  # 2^-14
        code = builder.select(small, denormal, normal)
        # NaN keeps the upper bits of its mantissa, as the instructions have it.
        kept = builder.or_(self._right(size, 13), self._bits(0x7E00))
        kept = builder.and_(kept, self._bits(0x7FFF))
        nan = builder.icmp_unsigned(">", size, self._bits(0x7F800000))
        special = builder.select(nan, kept, self._bits(0x7C00))
        large = builder.icmp_unsigned(">=", size, self._bits(143 << 23))  # 2^16
        code = builder.select(large, special, code)
        return builder.or_(code, builder.and_(self._right(bits, 16), self._bits(0x8000)))

    def from_fp16(self, code: ir.Value) -> ir.Value:
        builder = self.builder
        shifted = builder.shl(builder.and_(code, self._bits(0x7FFF)), self._bits(13))
        exponent = builder.and_(shifted, self._bits(0x1F << 23))
        normal = builder.add(shifted, self._bits(112 << 23))
        special = builder.add(normal, self._bits(112 << 23))
        quiet = builder.or_(special, self._bits(0x400000))
        mantissa = builder.and_(shifted, self._bits(0x7FFFFF))
        nan = builder.icmp_unsigned("!=", mantissa, self._bits(0))
        special = builder.select(nan, quiet, special)
        # A denormal has no leading one: it is given one, which is then taken away.
        given = builder.bitcast(builder.add(normal, self._bits(1 << 23)), self.number)
        smallest = builder.bitcast(self._bits(113 << 23), self.number)
        denormal = builder.bitcast(builder.fsub(given, smallest), self.integer)
        least = builder.icmp_unsigned("==", exponent, self._bits(0))
        bits = builder.select(least, denormal, normal)
        most = builder.icmp_unsigned("==", exponent, self._bits(0x1F << 23))
        bits = builder.select(most, special, bits)
        sign = builder.shl(builder.and_(code, self._bits(0x8000)), self._bits(16))
        return builder.bitcast(builder.or_(bits, sign), self.number)
