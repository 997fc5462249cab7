"""Microkernels of bytes whose sums are requantized as they are stored: exactly the same everywhere.

The sums s of a filter become, every operation rounded to float32 by itself::

    y = s * scale + shift  [ + (residual - zero) * residual_scale ]
    byte = clamp(round(y), low, high)                       half to even

Bytes of four filters become a word of the result.  Four vectors of y are packed with saturation,
first to 16 bits, then to 8, which leaves in every 16 bytes::

    a0 a1 a2 a3  b0 b1 b2 b3  c0 c1 c2 c3  d0 d1 d2 d3         of the vectors a, b, c, d

Where filters fill vectors, a, b, c, d are pixels: those are words already, and runs of four of them
are put beside each other.  Where pixels fill vectors, a, b, c, d are filters, and the bytes of each
square of four by four are transposed.

In tiles of AMX sums start from zeros, whatever `bias` is: shifts have it already.

y must be within int32; where results are float32 it may be anything, and is clamped as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from llvmlite import ir

from lowerconv.codegen.emit import I8, I32, Emitter
from lowerconv.codegen.microkernel import Geometry, Microkernel
from lowerconv.codegen.signatures import RequantizedTile
from lowerconv.codegen.transposing import transpose

PER_WORD = 4  # filters of a word
MAGIC = 1.5 * 2.0**23  # what added to a float leaves it, rounded to an integer, in the lowest bits
FLOAT = ir.FloatType()
I16 = ir.IntType(16)
RANGES = {"u8": (0, 255), "s8": (-128, 127)}

# What a record of constants holds, 4 bytes each: what results are clamped to (words of four equal
# bytes, or the bits of floats); what bytes of the residual are multiplied with; a word that changes
# them to be unsigned; what they mean by zero then.
CONSTANTS = np.dtype(
    [("low", "u4"), ("high", "u4"), ("scale", "f4"), ("signs", "u4"), ("zero", "i4")]
)


class _Vectors(NamedTuple):
    """The constants, in every lane."""

    low: ir.Value
    high: ir.Value
    scale: ir.Value
    signs: ir.Value
    zero: ir.Value


@dataclass(frozen=True)
class RequantizingMicrokernel(Microkernel):
    """A register tile whose sums become bytes, or float32.

    Attributes
    ----------
    result : {"u8", "s8", "float32"}
        Bytes are words of four filters.
    residual : bool
        Whether bytes of another array, laid out as the result, are added.

    Raises
    ------
    ValueError
        The sums are not int32, or the result is spread.
    """

    name = "microkernel_requantize"
    signature: ClassVar[type[Any]] = RequantizedTile

    result: str = "u8"
    residual: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dtype != np.int32:
            raise ValueError(f"dtype: got {self.dtype}, expected int32")
        if self.pixel_step != 1 or self.result_rows:
            raise ValueError("pixel_step: got a result that is spread, expected rows of pixels")

    def emit(self, e: Emitter) -> None:
        """Write the instructions of the function."""
        tile = e.arguments
        geometry = self._read_geometry(e)
        if self.uses_amx:
            tile = tile._replace(bias=None)
            if self.result != "float32":
                self._prefetch_words(e)
        sums = self._loop_over_k(e, tile, geometry)
        numbers = _Vectors(*(e.broadcast(tile.constants, i) for i in range(len(_Vectors._fields))))
        numbers = numbers._replace(scale=_as_floats(e, numbers.scale))
        if self.result == "float32":
            self._store_floats(e, sums, numbers, geometry)
        elif self.store == "rows":
            self._store_pixels(e, sums, numbers, geometry)
        else:
            self._store_filters(e, sums, numbers, geometry)

    def _prefetch_words(self, e: Emitter) -> None:
        """Prefetch the lines that words go to, and those that are added: tiles take no time."""
        to = e.arguments
        for first in range(0, self.MR, PER_WORD):
            line = e.builder.mul(to.ld_out, e.constant(first // PER_WORD))
            for base, write in ((to.residual, False), (to.out, True))[not self.residual :]:
                for v in range(self.NV):
                    e.prefetch(e.offset(e.offset(base, line), self._vector_place(e, v)), write, 3)

    def _store_pixels(
        self, e: Emitter, sums: Sequence[Sequence[ir.Value]], numbers: _Vectors, geometry: Geometry
    ) -> None:
        """Store words of filters that are rows of the tile."""
        to = e.arguments
        for first in range(0, self.MR, PER_WORD):
            rows = range(first, min(first + PER_WORD, self.MR))
            scales = [_as_floats(e, e.broadcast(to.scales, i)) for i in rows]
            shifts = [_as_floats(e, e.broadcast(to.shifts, i)) for i in rows]
            line = e.builder.mul(to.ld_out, e.constant(first // PER_WORD))
            for v in range(self.NV):
                place, added = self._vector_place(e, v), None
                lanes = self._lanes(e, v, geometry)
                if self.residual:
                    there = self._pixel_row(e, e.offset(to.residual, line), v, geometry.out_row)
                    added = e.load_first(there, place, lanes)
                    added = e.builder.xor(added, numbers.signs)
                floats = []
                for i, row in enumerate(rows):
                    y = _scaled(e, sums[row][v], scales[i], shifts[i])
                    if added is not None:
                        y = _added(e, y, _byte(e, added, i), numbers)
                    floats.append(y)
                zeros = [ir.Constant(_floats(e), None)] * (PER_WORD - len(floats))
                word = _squares(e, _packed(e, floats + zeros, self.result))
                word = _clamped(e, word, numbers, self.result)
                if zeros:  # of filters that do not exist
                    word = e.builder.and_(word, _same(e, (1 << 8 * len(floats)) - 1))
                target = self._pixel_row(e, e.offset(to.out, line), v, geometry.out_row)
                e.store(word, target, place, lanes)

    def _store_filters(
        self, e: Emitter, sums: Sequence[Sequence[ir.Value]], numbers: _Vectors, geometry: Geometry
    ) -> None:
        """Store words of filters that are lanes of the tile."""
        to, per_vector = e.arguments, e.lanes // PER_WORD
        last = e.builder.sdiv(e.builder.sub(to.valid, e.constant(1)), e.constant(PER_WORD))
        for v in range(self.NV):
            scale, shift = (_as_floats(e, e.load(at, v * e.lanes)) for at in (to.scales, to.shifts))
            for begin in range(0, self.MR, e.lanes):
                count = min(e.lanes, self.MR - begin)
                added = []
                if self.residual:
                    for w in range(per_vector):
                        number = _least(e, e.constant(v * per_vector + w), last)
                        line = e.offset(to.residual, e.builder.mul(to.ld_out, number))
                        there = e.load(line, begin, count)
                        added.append(e.builder.xor(there, numbers.signs))
                    added = transpose(e, added, PER_WORD)
                runs = []
                for i in range(0, count, PER_WORD):
                    floats = []
                    for j in range(min(PER_WORD, count - i)):
                        y = _scaled(e, sums[begin + i + j][v], scale, shift)
                        if added:
                            y = _added(e, y, _pixel(e, added[i // PER_WORD], j), numbers)
                        floats.append(y)
                    floats += [floats[-1]] * (PER_WORD - len(floats))
                    run = _packed(e, floats, self.result)
                    runs.append(_clamped(e, run, numbers, self.result))
                runs += [e.undefined] * (per_vector - len(runs))
                for w, word in enumerate(transpose(e, runs, PER_WORD)):
                    number = v * per_vector + w
                    some = e.builder.icmp_signed("<", e.constant(PER_WORD * number), to.valid)
                    with e.builder.if_then(some, likely=True):
                        word = e.builder.and_(word, _existing(e, to.valid, PER_WORD * number))
                        line = e.offset(to.out, e.builder.mul(to.ld_out, e.constant(number)))
                        e.store(word, line, begin, count)

    def _store_floats(
        self, e: Emitter, sums: Sequence[Sequence[ir.Value]], numbers: _Vectors, geometry: Geometry
    ) -> None:
        """Store floats of each filter."""
        to, builder = e.arguments, e.builder
        low, high = (_as_floats(e, value) for value in (numbers.low, numbers.high))
        filters, pieces = self._by_filter(e, sums, geometry)
        for filter_, values in enumerate(filters):
            number = e.constant(filter_)
            with builder.if_then(builder.icmp_signed("<", number, to.valid), likely=True):
                at = [_as_floats(e, e.broadcast(a, filter_)) for a in (to.scales, to.shifts)]
                line = e.offset(to.out, builder.mul(to.ld_out, number))
                if self.uses_amx:
                    self._prefetch_ahead(e, line, self.dtype.itemsize, 2)
                for value, (v, place, lanes) in zip(values, pieces, strict=True):
                    y = _scaled(e, value, *at)
                    y = builder.select(builder.fcmp_ordered(">", y, low), y, low)
                    y = builder.select(builder.fcmp_ordered("<", y, high), y, high)
                    target = self._pixel_row(e, line, v, geometry.out_row)
                    e.store(builder.bitcast(y, e.vector), target, place, lanes)

    def _by_filter(
        self, e: Emitter, sums: Sequence[Sequence[ir.Value]], geometry: Geometry
    ) -> tuple[Sequence[Sequence[ir.Value]], list[tuple[int, int, int | ir.Value]]]:
        """Return vectors of sums by filter; and their numbers, their places, and how many lanes."""
        if self.store == "rows":
            at = [
                (v, self._vector_place(e, v), self._lanes(e, v, geometry)) for v in range(self.NV)
            ]
            return sums, at
        filters: list[list[ir.Value]] = [[] for _ in range(self.NV * e.lanes)]
        begins = range(0, self.MR, e.lanes)
        for v in range(self.NV):
            for i in begins:
                rows = [row[v] for row in sums[i : i + e.lanes]]
                turned = e.transpose(rows + [e.undefined] * (e.lanes - len(rows)))
                for lane, value in enumerate(turned):
                    filters[v * e.lanes + lane].append(value)
        return filters, [(0, i, min(e.lanes, self.MR - i)) for i in begins]


def _floats(e: Emitter) -> ir.VectorType:
    return ir.VectorType(FLOAT, e.lanes)


def _as_floats(e: Emitter, value: ir.Value) -> ir.Value:
    return e.builder.bitcast(value, _floats(e))


def _same(e: Emitter, number: int) -> ir.Constant:
    return ir.Constant(e.vector, [number] * e.lanes)


def _least(e: Emitter, a: ir.Value, b: ir.Value) -> ir.Value:
    return e.builder.select(e.builder.icmp_signed("<", a, b), a, b)


def _scaled(e: Emitter, sums: ir.Value, scale: ir.Value, shift: ir.Value) -> ir.Value:
    """Return ``sums * scale + shift``, rounded twice."""
    product = e.builder.fmul(e.builder.sitofp(sums, _floats(e)), scale)
    return e.builder.fadd(product, shift)


def _added(e: Emitter, y: ir.Value, byte: ir.Value, numbers: _Vectors) -> ir.Value:
    """Return y and what a byte of the residual stands for."""
    number = e.builder.sitofp(e.builder.sub(byte, numbers.zero), _floats(e))
    return e.builder.fadd(y, e.builder.fmul(number, numbers.scale))


def _byte(e: Emitter, words: ir.Value, i: int) -> ir.Value:
    """Return byte i of each word."""
    if i:
        words = e.builder.lshr(words, _same(e, 8 * i))
    return words if i == PER_WORD - 1 else e.builder.and_(words, _same(e, 0xFF))


def _pixel(e: Emitter, run: ir.Value, j: int) -> ir.Value:
    """Return the bytes of word j of every four, a lane for each."""
    some = e.shuffle(run, run, range(j, e.lanes, PER_WORD))
    return e.builder.zext(e.builder.bitcast(some, ir.VectorType(I8, e.lanes)), e.vector)


def _squares(e: Emitter, words: ir.Value) -> ir.Value:
    """Transpose the bytes of every four words."""
    size = PER_WORD * PER_WORD
    places = [
        i // size * size + i % size // PER_WORD + i % PER_WORD * PER_WORD
        for i in range(PER_WORD * e.lanes)
    ]
    values = e.builder.bitcast(words, ir.VectorType(I8, PER_WORD * e.lanes))
    return e.builder.bitcast(e.shuffle(values, values, places), e.vector)


def _clamped(e: Emitter, words: ir.Value, numbers: _Vectors, kind: str) -> ir.Value:
    """Clamp bytes."""
    builder, bytes_ = e.builder, ir.VectorType(I8, PER_WORD * e.lanes)
    compare = builder.icmp_unsigned if kind == "u8" else builder.icmp_signed
    words, low, high = (builder.bitcast(w, bytes_) for w in (words, numbers.low, numbers.high))
    words = builder.select(compare(">", words, low), words, low)
    words = builder.select(compare("<", words, high), words, high)
    return builder.bitcast(words, e.vector)


_TO_INTEGERS = {128: "llvm.x86.sse2.cvtps2dq", 256: "llvm.x86.avx.cvt.ps2dq.256"}
_PACKS = {
    128: "llvm.x86.sse2.pack{}.128",
    256: "llvm.x86.avx2.pack{}",
    512: "llvm.x86.avx512.pack{}.512",
}
CURRENT = 4  # the rounding that is set: to nearest even, in every thread of Python's


def _packed(e: Emitter, floats: Sequence[ir.Value], kind: str) -> ir.Value:
    """Return the bytes of four vectors, rounded and saturated, as the module's picture has them."""
    if e.isa.triple == "x86_64":
        integers = [_rounded(e, y) for y in floats]
        halves, bytes_ = (ir.VectorType(item, e.lanes * size) for item, size in ((I16, 2), (I8, 4)))
        name = _PACKS[e.isa.bits]
        pairs = [e.call_named(name.format("ssdw"), integers[i : i + 2], halves) for i in (0, 2)]
        last = "uswb" if kind == "u8" else "sswb"
        return e.builder.bitcast(e.call_named(name.format(last), pairs, bytes_), e.vector)
    builder, magic = e.builder, ir.Constant(_floats(e), [MAGIC] * e.lanes)
    least, most = (ir.Constant(_floats(e), [float(x)] * e.lanes) for x in RANGES[kind])
    bytes_ = []
    for y in floats:
        y = builder.select(builder.fcmp_ordered(">", y, least), y, least)
        y = builder.select(builder.fcmp_ordered("<", y, most), y, most)
        bits = builder.bitcast(builder.fadd(y, magic), e.vector)
        bytes_.append(builder.trunc(bits, ir.VectorType(I8, e.lanes)))
    while len(bytes_) > 1:
        bytes_ = [
            e.shuffle(a, b, range(2 * a.type.count))
            for a, b in zip(bytes_[::2], bytes_[1::2], strict=True)
        ]
    whole = bytes_[0]
    if e.lanes > PER_WORD:  # SVE's: now by vectors, and not by 16 bytes
        places = np.arange(PER_WORD * e.lanes).reshape(PER_WORD, -1, PER_WORD)
        whole = e.shuffle(whole, whole, places.transpose(1, 0, 2).ravel().tolist())
    return builder.bitcast(whole, e.vector)


def _rounded(e: Emitter, y: ir.Value) -> ir.Value:
    """Return the nearest integers, half to even."""
    if e.isa.bits == 512:
        every = e.constant(-1, I16)
        values = [y, e.undefined, every, e.constant(CURRENT, I32)]
        return e.call_named("llvm.x86.avx512.mask.cvtps2dq.512", values, e.vector)
    return e.call_named(_TO_INTEGERS[e.isa.bits], [y], e.vector)


def _existing(e: Emitter, valid: ir.Value, first: int) -> ir.Value:
    """Return the mask of the bytes of a word, whose first filter is `first`, that exist."""
    builder = e.builder
    count = builder.sub(valid, e.constant(first))
    few = builder.icmp_signed("<", count, e.constant(PER_WORD))
    bits = builder.trunc(builder.mul(count, e.constant(8)), I32)
    some = builder.sub(builder.shl(ir.Constant(I32, 1), bits), ir.Constant(I32, 1))
    return e.splat(builder.select(few, some, ir.Constant(I32, -1)))
