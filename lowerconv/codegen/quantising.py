"""Microkernels of bytes whose sums are quantised as they are stored: exactly the same everywhere.

The sums s of a filter become, every operation rounded to float32 by itself::

    y = s * scale + shift  [ + (residual - zero) * residual_scale ]
    byte = round(clamp(y, low, high))                       half to even

Bytes of four filters become a word of the result: where pixels fill vectors, so that the sums of a
filter are one, no lane leaves its place.  Where the result is float32, y is stored, clamped too.

Rounding is an addition: the float32 nearest to ``y + 1.5 * 2**23`` has y, rounded, in its lowest
bits, in two's complement.  What is clamped to a byte's range is far from 2**22, to which that holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from llvmlite import ir

from lowerconv.codegen.emit import I32, Emitter
from lowerconv.codegen.microkernel import Microkernel
from lowerconv.codegen.signatures import TileOfBytes

TOGETHER = 4  # filters of a word
MAGIC = 1.5 * 2.0**23
FLOAT = ir.FloatType()

# What a record of constants holds, 4 bytes each: what the results are clamped to; how bytes of the
# residual are changed to be unsigned (a word), and what they and `zero` then mean.
CONSTANTS = np.dtype(
    [("low", "f4"), ("high", "f4"), ("residual_scale", "f4"), ("zero", "i4"), ("signs", "u4")]
)


class _Vectors(NamedTuple):
    """The constants, in every lane."""

    low: ir.Value
    high: ir.Value
    residual_scale: ir.Value
    zero: ir.Value
    signs: ir.Value


class _Piece(NamedTuple):
    """A vector of pixels of a word's filters: their sums, and where they go."""

    sums: list[ir.Value]
    place: int  # in a row of the result
    lanes: int


@dataclass(frozen=True)
class Quantising(Microkernel):
    """A register tile whose sums become bytes, or float32.

    Attributes
    ----------
    result : {"bytes", "float32"}
        "bytes": words of four filters; rows and lanes of the tile are as many as filters.
    residual : bool
        Whether bytes of another array, laid out as the result, are added.

    Raises
    ------
    ValueError
        The sums are not int32, or the result is spread, or a residual is asked for in float32.
    """

    name, signature = "quantising", TileOfBytes

    result: str = "bytes"
    residual: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dtype != np.int32:
            raise ValueError(f"dtype: got {self.dtype}, expected int32")
        if self.pixel_step != 1 or self.result_rows:
            raise ValueError("pixel_step: got a result that is spread, expected rows of pixels")

    def emit(self, e: Emitter) -> None:
        """Write the instructions of the function."""
        k, vectors, broadcasts, table, out, ld_out, bias, valid, *places = e.arguments
        scales, shifts, residual, constants = places
        sums = self._loop_over_k(e, k, vectors, broadcasts, table, bias)
        builder, numbers = e.builder, self._numbers(e, constants)
        for word, pieces in enumerate(self._words(e, sums)):
            first = word * TOGETHER
            some = builder.icmp_signed("<", e.constant(first), valid)
            with builder.if_then(some, likely=True):
                count = min(TOGETHER, self.MR - first) if self.store == "rows" else TOGETHER
                lines = [
                    (e.offset(scales, first + i), e.offset(shifts, first + i)) for i in range(count)
                ]
                line = [(_broadcast(e, scale), _broadcast(e, shift)) for scale, shift in lines]
                row = builder.mul(ld_out, e.constant(word))
                for piece in pieces:
                    added = None
                    if self.residual and self.result == "bytes":
                        there = e.load(e.offset(residual, row), piece.place, piece.lanes)
                        added = builder.xor(there, numbers.signs)
                    floats = [
                        self._float(e, value, *line[i], numbers, added, i)
                        for i, value in enumerate(piece.sums)
                    ]
                    if self.result == "bytes":
                        packed = _packed(e, floats)
                        if self.store == "columns":
                            packed = builder.and_(packed, _existing(e, valid, first))
                        e.store(packed, e.offset(out, row), piece.place, piece.lanes)
                        continue
                    for i, value in enumerate(floats):
                        number = e.constant(first + i)
                        exists = builder.icmp_signed("<", number, valid)
                        with builder.if_then(exists, likely=True):
                            to = e.offset(out, builder.mul(ld_out, number))
                            bits = builder.bitcast(value, e.vector)
                            e.store(bits, to, piece.place, piece.lanes)

    def _numbers(self, e: Emitter, constants: ir.Value) -> _Vectors:
        """Load the constants."""
        loaded = []
        for number, name in enumerate(CONSTANTS.names or ()):
            value = e.broadcast(constants, number)
            floating = CONSTANTS[name].kind == "f"
            loaded.append(e.builder.bitcast(value, _floats(e)) if floating else value)
        return _Vectors(*loaded)

    def _words(self, e: Emitter, sums: list[list[ir.Value]]) -> list[list[_Piece]]:
        """Return, for each word of filters, the sums by vectors of pixels."""
        if self.store == "rows":
            places = [self._vector_place(e, v) for v in range(self.NV)]
            lanes = self.lanes or (e.lanes,) * self.NV
            return [
                [
                    _Piece([row[v] for row in sums[first : first + TOGETHER]], places[v], lanes[v])
                    for v in range(self.NV)
                ]
                for first in range(0, self.MR, TOGETHER)
            ]
        words: list[list[_Piece]] = [[] for _ in range(self.NV * e.lanes // TOGETHER)]
        for v in range(self.NV):
            for i in range(0, self.MR, e.lanes):
                rows = [row[v] for row in sums[i : i + e.lanes]]
                filters = e.transpose(rows + [e.undefined] * (e.lanes - len(rows)))
                for first in range(0, e.lanes, TOGETHER):
                    piece = _Piece(filters[first : first + TOGETHER], i, len(rows))
                    words[(v * e.lanes + first) // TOGETHER].append(piece)
        return words

    def _float(
        self,
        e: Emitter,
        value: ir.Value,
        scale: ir.Value,
        shift: ir.Value,
        numbers: _Vectors,
        added: ir.Value | None,
        byte: int,
    ) -> ir.Value:
        """Return y of the sums of a filter, clamped."""
        builder = e.builder
        y = builder.fmul(builder.sitofp(value, _floats(e)), scale)
        y = builder.fadd(y, shift)
        if added is not None:
            number = builder.lshr(added, _same(e, 8 * byte)) if byte else added
            if byte < TOGETHER - 1:
                number = builder.and_(number, _same(e, 0xFF))
            number = builder.sitofp(builder.sub(number, numbers.zero), _floats(e))
            y = builder.fadd(y, builder.fmul(number, numbers.residual_scale))
        y = builder.select(builder.fcmp_ordered(">", y, numbers.low), y, numbers.low)
        return builder.select(builder.fcmp_ordered("<", y, numbers.high), y, numbers.high)


def _floats(e: Emitter) -> ir.VectorType:
    return ir.VectorType(FLOAT, e.lanes)


def _same(e: Emitter, number: int) -> ir.Constant:
    return ir.Constant(e.vector, [number] * e.lanes)


def _broadcast(e: Emitter, address: ir.Value) -> ir.Value:
    return e.builder.bitcast(e.broadcast(address, 0), _floats(e))


def _packed(e: Emitter, floats: list[ir.Value]) -> ir.Value:
    """Return the words of the rounded numbers, the first in the lowest byte."""
    builder, magic = e.builder, ir.Constant(_floats(e), [MAGIC] * e.lanes)
    total = None
    for i, value in enumerate(floats):
        byte = builder.bitcast(builder.fadd(value, magic), e.vector)
        if i < TOGETHER - 1:
            byte = builder.and_(byte, _same(e, 0xFF))
        byte = builder.shl(byte, _same(e, 8 * i)) if i else byte
        total = byte if total is None else builder.or_(total, byte)
    assert total is not None
    return total


def _existing(e: Emitter, valid: ir.Value, first: int) -> ir.Value:
    """Return the mask of the bytes of a word, whose first filter is `first`, that exist."""
    builder = e.builder
    count = builder.sub(valid, e.constant(first))
    few = builder.icmp_signed("<", count, e.constant(TOGETHER))
    bits = builder.trunc(builder.mul(count, e.constant(8)), I32)
    some = builder.sub(builder.shl(ir.Constant(I32, 1), bits), ir.Constant(I32, 1))
    return e.splat(builder.select(few, some, ir.Constant(I32, -1)))
