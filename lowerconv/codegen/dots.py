"""What a step of the microkernel adds to a sum: a product of numbers, or of words of them.

A word is 32 bits that hold numbers which are neighbours in k, the first one in the lowest bits: two
of 16 bits, or four of 8.  Operands of words lie where those of float32 would, k counted in words,
and a step adds to each sum the dot product of a word of one operand and a word of the other::

    bf16 x bf16, f16 x f16                   sums are float32
    s8 x u8, u8 x s8, s8 x s8                sums are int32, exact unless they leave its range,
                                             where they wrap around

Integers are the same, bit for bit, on every instruction set.  Rounding of float32 sums differs:

- Without an instruction for it a word is unpacked to float32, and two multiply-adds follow: the
  second number of the word first, then the first one.  The products are exact in float32 (they have
  22 bits at most), so each addition rounds once, to nearest even, with FMA or without: all
  instruction sets give the same bits, unless a product of bf16 leaves the range of float32 or is
  denormal.  Infinity and NaN are as in float32; denormal numbers count.
- ``vdpbf16ps`` (AVX512-BF16) does the same two multiply-adds in the same order, but takes denormal
  numbers as zeros, and makes zeros of denormal sums, whatever MXCSR says [1]_.
- ``bfdot`` (Arm's BF16) adds both products first, and rounds to odd; denormals are zeros as well.
  CPUs with FEAT_EBF16 may be told to round as above [2]_.  That is why it is an extension.

Where there are no dot products of bytes, they are widened to 16 bits, multiplied and added in pairs
(``pmaddwd``), which is exact; the shorter way, ``pmaddubsw``, saturates at 16 bits.  Hardware has
them for some signs only.  For others the broadcast word b becomes b' = b xor 0x80 in every byte,
which read with the other sign is b + 128 or b - 128: b' is b minus 0x80 as the instruction reads
that.  So the dot product of v and b is that of v and b' minus that of v and 0x80; the last one is
the same in all rows, and is summed once for each vector.  Where vectors are constant, as filters
are, it may be summed in advance, and the faster s8 x u8 be used with broadcasts plus 128.

References
----------
.. [1] Intel 64 and IA-32 Architectures Software Developer's Manual, vol. 2, VDPBF16PS.
.. [2] Arm Architecture Reference Manual for A-profile, BFDOT (vector), FEAT_EBF16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir

from lowerconv.codegen.emit import I8, I32, Emitter
from lowerconv.codegen.isa import Isa
from lowerconv.codegen.scalable import from_scalable, to_scalable, widen_f16

SIGNS = 0x80808080  # the sign of each byte of a word


class Words(NamedTuple):
    """What words hold: ``"bf16"``, ``"f16"``, ``"s8"`` or ``"u8"``."""

    vector: str
    broadcast: str

    @property
    def sums(self) -> np.dtype:
        """The type of the sums."""
        return np.dtype(np.float32 if self.vector in ("bf16", "f16") else np.int32)

    @property
    def numbers(self) -> int:
        """How many numbers a word holds."""
        return 2 if self.vector in ("bf16", "f16") else 4


BF16, F16 = Words("bf16", "bf16"), Words("f16", "f16")
S8_U8, U8_S8, S8_S8 = Words("s8", "u8"), Words("u8", "s8"), Words("s8", "s8")
WORDS = (BF16, F16, S8_U8, U8_S8, S8_S8)


class _BFloat(ir.Type):
    """LLVM's type of bf16, which llvmlite does not name."""

    intrinsic_name = "bf16"

    def _to_string(self) -> str:
        return "bfloat"


@dataclass(frozen=True)
class Dot:
    """How one step multiplies; this one numbers as they are."""

    @property
    def parts(self) -> int:
        """Registers that an operand takes once it is made ready."""
        return 1

    @property
    def corrects(self) -> bool:
        """Whether a correction is summed for each vector."""
        return False

    def ready_vector(self, e: Emitter, vector: ir.Value) -> Any:
        """Return what `add` takes of a vector that was loaded."""
        return vector

    def ready_broadcast(self, e: Emitter, item: ir.Value) -> Any:
        """Return what `add` takes of a broadcast."""
        return item

    def add(self, e: Emitter, total: ir.Value, vector: Any, item: Any) -> ir.Value:
        """Return the sum after this step."""
        return e.multiply_add(item, vector, total)

    def correction(self, e: Emitter, total: ir.Value, vector: Any) -> ir.Value:
        """Return the correction of a vector after this step."""
        raise NotImplementedError

    def fused(self, isa: Isa) -> bool:
        """Whether the product and the addition to the sum are one instruction."""
        return isa.fma

    def spare(self, isa: Isa) -> int:
        """Return the registers for what lies between operands and sums."""
        return not self.fused(isa)

    def rows(self, isa: Isa, NV: int) -> int:
        """Return the most rows of a tile of NV vectors that all its registers have room for."""
        operands = (NV + 1) * (self.parts + self.corrects)
        # Found by trying, as those of words below: code of SVE takes some broadcasts early.
        early = 3 if isa.scalable and NV == 1 else 0
        return (isa.registers - operands - self.spare(isa) - early) // NV


class _OfWords(Dot):
    """What tiles of words have in common: LLVM loads broadcasts well before they are needed.

    How much so was found by trying all tiles (``tests/codegen/test_assembly.py``): on NEON, and
    where there is one vector and broadcasts have parts, which are then used one after the other.
    """

    def spare(self, isa: Isa) -> int:
        early = (6 if self.parts > 1 else 2) if _is_arm(isa) else 0
        return super().spare(isa) + early

    def rows(self, isa: Isa, NV: int) -> int:
        rows = super().rows(isa, NV)
        if NV == 1 and (self.parts > 1 or _is_arm(isa)):
            rows = min(rows, isa.registers // 2 - (5 if _is_arm(isa) else 2))
        return rows


@dataclass(frozen=True)
class _Instruction(_OfWords):
    """A dot product of the hardware: ``name(sum, vector, broadcast)``.

    Attributes
    ----------
    name : str
    item : ir.Type
        Of the operands, as LLVM declares them; the x86 ones are known to all its versions by words,
        which the later ones change into what they hold.
    swapped : bool
        Whether the broadcast comes first.
    corrected : bool
        Whether it reads the broadcast with the other sign.
    """

    name: str
    item: ir.Type
    swapped: bool = False
    corrected: bool = False

    @property
    def corrects(self) -> bool:
        return self.corrected

    def _operand(self, e: Emitter, value: ir.Value) -> ir.Value:
        size = 32 // int(self.item.intrinsic_name.lstrip("bfi"))
        return e.builder.bitcast(value, ir.VectorType(self.item, e.lanes * size))

    def ready_vector(self, e: Emitter, vector: ir.Value) -> ir.Value:
        return self._operand(e, vector)

    def ready_broadcast(self, e: Emitter, item: ir.Value) -> ir.Value:
        if self.corrected:
            item = e.builder.xor(item, _constant(e, SIGNS))
        return self._operand(e, item)

    def fused(self, isa: Isa) -> bool:
        return True

    def spare(self, isa: Isa) -> int:
        return super().spare(isa) + self.corrected

    def add(self, e: Emitter, total: ir.Value, vector: ir.Value, item: ir.Value) -> ir.Value:
        operands = [item, vector] if self.swapped else [vector, item]
        return e.call_named(self.name, [total, *operands], e.vector)

    def correction(self, e: Emitter, total: ir.Value, vector: ir.Value) -> ir.Value:
        return self.add(e, total, vector, self._operand(e, _constant(e, SIGNS)))


class _Scalable(_Instruction):
    """A dot product of SVE."""

    def _operand(self, e: Emitter, value: ir.Value) -> ir.Value:
        return to_scalable(e, super()._operand(e, value))

    def add(self, e: Emitter, total: ir.Value, vector: ir.Value, item: ir.Value) -> ir.Value:
        operands = [item, vector] if self.swapped else [vector, item]
        total = to_scalable(e, total)
        return from_scalable(e, e.call_named(self.name, [total, *operands], total.type), e.vector)


@dataclass(frozen=True)
class _Halves(_OfWords):
    """Two numbers of 16 bits, unpacked to float32 and multiplied one after the other.

    Attributes
    ----------
    kind : {"bf16", "f16"}
    converts : bool
        Whether the hardware has an instruction from float16.
    """

    kind: str
    converts: bool

    @property
    def parts(self) -> int:
        return 2

    def spare(self, isa: Isa) -> int:
        own = 2 if self.kind == "bf16" else 3 if self.converts else 5
        return super().spare(isa) + own

    def _unpacked(self, e: Emitter, word: ir.Value) -> list[ir.Value]:
        """Return the second numbers of all words, and the first ones."""
        builder = e.builder
        word = builder.bitcast(word, _kind(e, I32))
        if self.kind == "bf16":
            halves = [
                builder.and_(word, _constant(e, 0xFFFF0000)),
                builder.shl(word, _constant(e, 16)),
            ]
            return [builder.bitcast(half, e.vector) for half in halves]
        if self.converts and e.isa.scalable:
            return [widen_f16(e, half) for half in (builder.lshr(word, _constant(e, 16)), word)]
        if self.converts:
            numbers = builder.bitcast(word, ir.VectorType(ir.HalfType(), 2 * e.lanes))
            halves = [e.shuffle(numbers, numbers, range(first, 2 * e.lanes, 2)) for first in (1, 0)]
            return [builder.fpext(half, e.vector) for half in halves]
        halves = [builder.lshr(word, _constant(e, 16)), word]
        return [_from_f16(e, half) for half in halves]

    def ready_vector(self, e: Emitter, vector: ir.Value) -> list[ir.Value]:
        return self._unpacked(e, vector)

    def ready_broadcast(self, e: Emitter, item: ir.Value) -> list[ir.Value]:
        return self._unpacked(e, item)

    def add(
        self, e: Emitter, total: ir.Value, vector: list[ir.Value], item: list[ir.Value]
    ) -> ir.Value:
        for a, b in zip(item, vector, strict=True):
            total = e.multiply_add(a, b, total)
        return total


@dataclass(frozen=True)
class _Bytes(_OfWords):
    """Four numbers of 8 bits, widened, multiplied and added.

    Attributes
    ----------
    words : Words
    bits : {16, 32}
        Where 16, `name` multiplies such numbers and adds pairs of products; 32 asks for nothing.
    name : str
    """

    words: Words
    bits: int
    name: str = ""

    @property
    def parts(self) -> int:
        return self.bits // 8

    def fused(self, isa: Isa) -> bool:
        return False

    def spare(self, isa: Isa) -> int:
        return super().spare(isa) + (0 if isa.fma else 2)  # products overwrite an operand

    def _widened(self, e: Emitter, word: ir.Value, kind: str) -> list[ir.Value]:
        """Return every fourth or second byte, from the first one on, from the second one on, ..."""
        builder, item, parts = e.builder, ir.IntType(self.bits), self.parts
        wide = ir.VectorType(item, e.lanes * 32 // self.bits)
        word = builder.bitcast(word, wide)
        down = builder.ashr if kind == "s8" else builder.lshr

        def by(bits: int) -> ir.Constant:
            return ir.Constant(wide, [bits] * wide.count)

        return [
            down(builder.shl(word, by(8 * (parts - 1 - i))), by(8 * (parts - 1)))
            for i in range(parts)
        ]

    def ready_vector(self, e: Emitter, vector: ir.Value) -> list[ir.Value]:
        return self._widened(e, vector, self.words.vector)

    def ready_broadcast(self, e: Emitter, item: ir.Value) -> list[ir.Value]:
        return self._widened(e, item, self.words.broadcast)

    def add(
        self, e: Emitter, total: ir.Value, vector: list[ir.Value], item: list[ir.Value]
    ) -> ir.Value:
        for a, b in zip(item, vector, strict=True):
            if self.name:
                product = e.call_named(self.name, [a, b], e.vector)
            else:
                product = e.builder.mul(a, b)
            total = e.builder.add(total, product)
        return total


def _is_arm(isa: Isa) -> bool:
    return isa.triple == "aarch64"


def _kind(e: Emitter, item: ir.Type) -> ir.VectorType:
    return ir.VectorType(item, e.lanes)


def _constant(e: Emitter, word: int) -> ir.Constant:
    """Return a vector of equal words."""
    return ir.Constant(_kind(e, I32), [word] * e.lanes)


def _from_f16(e: Emitter, half: ir.Value) -> ir.Value:
    """Return float32 of the float16 in the lower half of each word, by integers, exactly.

    A denormal number is given a leading one, which is then taken away: no float32 is denormal.
    """
    builder, kind = e.builder, half.type

    def number(x: int) -> ir.Constant:
        return _constant(e, x)

    sign = builder.shl(builder.and_(half, number(0x8000)), number(16))
    size = builder.shl(builder.and_(half, number(0x7FFF)), number(13))
    exponent = builder.and_(size, number(0x1F << 23))
    normal = builder.add(size, number((127 - 15) << 23))
    special = builder.add(normal, number((128 - 16) << 23))
    with_one = builder.bitcast(builder.add(normal, number(1 << 23)), e.vector)
    one = ir.Constant(e.vector, [2.0**-14] * e.lanes)
    denormal = builder.bitcast(builder.fsub(with_one, one), kind)
    zero = builder.icmp_signed("==", exponent, number(0))
    bits = builder.select(zero, denormal, normal)
    top = builder.icmp_signed("==", exponent, number(0x1F << 23))
    bits = builder.select(top, special, bits)
    return builder.bitcast(builder.or_(bits, sign), e.vector)


_PMADDWD = {512: "llvm.x86.avx512.pmaddw.d.512", 256: "llvm.x86.avx2.pmadd.wd"}
_PMADDWD |= {128: "llvm.x86.sse2.pmadd.wd"}
_VPDPBUSD = {"avx512vnni": 512, "avxvnni": 256}
_ARM_DOT = {
    #            extension, instruction, whether the broadcast comes first and whether it is changed
    S8_S8: (("dotprod", "sdot", False, False),),
    S8_U8: (("i8mm", "usdot", True, False), ("dotprod", "sdot", False, True)),
    U8_S8: (("i8mm", "usdot", False, False), ("dotprod", "udot", False, True)),
}


def dot_of(isa: Isa, words: Words | None) -> Dot:
    """Return how a step multiplies: numbers, or words by the best that an instruction set has."""
    if words is None:
        return Dot()
    has = isa.extensions
    if words == BF16 and "avx512bf16" in has:
        return _Instruction("llvm.x86.avx512bf16.dpbf16ps.512", I32)
    if words == BF16 and "bf16" in has:
        if isa.scalable:
            return _Scalable("llvm.aarch64.sve.bfdot", _BFloat())
        return _Instruction("llvm.aarch64.neon.bfdot.v4f32.v8bf16", _BFloat())
    if words in (BF16, F16):
        return _Halves(words.vector, isa.half)
    for extension, bits in _VPDPBUSD.items():
        if extension in has:  # its first operand is u8, the second s8
            name = f"llvm.x86.avx512.vpdpbusd.{bits}"
            return _Instruction(name, I32, words != U8_S8, words == S8_S8)
    if _is_arm(isa):
        for extension, name, swapped, corrects in _ARM_DOT[words]:
            if isa.scalable and extension in (*has, "dotprod"):  # all of SVE have that
                return _Scalable(f"llvm.aarch64.sve.{name}.nxv4i32", I8, swapped, corrects)
            if extension in has:
                name = f"llvm.aarch64.neon.{name}.v4i32.v16i8"
                return _Instruction(name, I8, swapped, corrects)
    if isa.triple == "x86_64":
        return _Bytes(words, 16, _PMADDWD[isa.bits])
    return _Bytes(words, 32)
