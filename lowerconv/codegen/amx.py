"""Sums in tile registers (AMX): what a step multiplies is 16 filters by 16 words by 16 pixels.

A tile is 16 rows of 64 bytes.  The operands of a step lie where a tile is loaded in one piece::

    filters (A)    16 rows of filters, 16 words of k each
    pixels (B)     16 rows of k, a word of each of 16 pixels
    sums (C)       16 rows of filters, 32 bits of each of 16 pixels

Words are those of `dots`, k counted in words, and zeros behind the last one.  All tiles are whole,
so that one configuration serves all kernels: a thread has it while it multiplies.  What belongs
to no filter or pixel is computed and not stored.

The panel of filters is ``[block of k][filter][16 words]``; those of pixels are ``[k][16 pixels]``,
one for each vector of the register tile, or an image itself, where a row of B is a part of a plane:
a panel that has not been copied.

The registers hold MT x NT tiles of sums.  They are stored in a scratch of this function, which
stays in L1, and read from there by what stores the results.

Integers are those of all other kernels, bit for bit.  For bf16 ``tdpbf16ps`` has two sums for each
of C's, of the first and of the second numbers of words, over the 16 words of a step; it adds them
to each other and then to C.  Each addition of a product rounds once, to nearest even; denormal
numbers are taken as zeros, and zeros are made of denormal sums, whatever MXCSR says [1]_.

References
----------
.. [1] Intel 64 and IA-32 Architectures Software Developer's Manual, vol. 2, TDPBF16PS.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir

from lowerconv.codegen.dots import BF16, S8_S8, U8_S8, Words
from lowerconv.codegen.emit import I8, Emitter
from lowerconv.codegen.isa import Isa
from lowerconv.codegen.kernel import kernel_address
from lowerconv.codegen.signatures import Configure
from lowerconv.copying import not_copied

SIZE = 16  # rows of a tile, and its words in a row
REGISTERS = 8
ROW = 4 * SIZE  # bytes
TILE = SIZE * ROW  # bytes
_INSTRUCTIONS = {U8_S8: "tdpbsud", S8_S8: "tdpbssd", BF16: "tdpbf16ps"}  # filters, then pixels
SHAPES = ((2, 2), (1, 4), (1, 2), (1, 1), (2, 1))  # MT x NT of sums


class Panels(NamedTuple):
    """Where pixels lie, in bytes."""

    line: ir.Value  #   from one row of k to the next
    column: ir.Value  # from one tile of 16 pixels to the next
    block: ir.Value  #  from one tile of k to the next


def has_tiles(isa: Isa, words: Words | None) -> bool:
    """Return whether an instruction set multiplies tiles of these words, pixels in vectors."""
    if words not in _INSTRUCTIONS:
        return False
    return ("amx-bf16" if words == BF16 else "amx-int8") in isa.extensions


def rounded_k(k: int) -> int:
    """Return the words of k with the zeros behind them."""
    return -(-k // SIZE) * SIZE


def configuration() -> np.ndarray:
    """Return the configuration of whole tiles, as ``ldtilecfg`` reads it."""
    numbers = np.zeros(64, np.uint8)
    numbers[0] = 1  # the palette
    numbers[16 : 16 + 2 * REGISTERS : 2] = ROW
    numbers[48 : 48 + REGISTERS] = SIZE
    return numbers


@not_copied("emit the kernel there")
class TileSums(Sequence[Sequence[ir.Value]]):
    """Sums of a register tile, by row and vector, that are loaded from the scratch where used."""

    def __init__(
        self, e: Emitter, scratch: ir.Value, bias: ir.Value | None, MR: int, NV: int
    ) -> None:
        self.e, self.scratch, self.bias, self.MR, self.NV = e, scratch, bias, MR, NV

    def __len__(self) -> int:
        return self.MR

    def __getitem__(self, row: Any) -> Any:
        if not 0 <= row < self.MR:
            raise IndexError(row)
        return _Row(self, row)


@not_copied("emit the kernel there")
class _Row(Sequence[ir.Value]):
    def __init__(self, sums: TileSums, number: int) -> None:
        self.sums, self.number = sums, number

    def __len__(self) -> int:
        return self.sums.NV

    def __getitem__(self, v: Any) -> Any:
        sums, e = self.sums, self.sums.e
        if not 0 <= v < sums.NV:
            raise IndexError(v)
        value = e.load(sums.scratch, (self.number * sums.NV + v) * e.lanes)
        if sums.bias is None:
            return value
        return e.add(value, e.broadcast(sums.bias, self.number))


def tile_sums(
    e: Emitter,
    words: Words,
    size: tuple[int, int],
    k: ir.Value,
    pixels: ir.Value,
    filters: tuple[ir.Value, int],
    panels: Panels,
    bias: ir.Value | None,
) -> TileSums:
    """Emit the loop over k, in steps of a tile; return the sums.

    Parameters
    ----------
    e : Emitter
    words : Words
    size : tuple of int
        Filters, and tiles of pixels.
    k : ir.Value
        Steps.
    pixels : ir.Value
        Address.
    filters : tuple of (ir.Value, int)
        Address, and words from one step to the next.
    panels : Panels
    bias : ir.Value, optional
        Address of what is added to the sums of each filter.
    """
    builder, (MR, NT) = e.builder, size
    MT = -(-MR // SIZE)
    count = MT * NT
    scratch = builder.alloca(ir.ArrayType(ir.IntType(8), count * TILE))
    scratch.align = ROW
    at = builder.ptrtoint(scratch, pixels.type)
    own = range(count + MT, REGISTERS)  # of pixels

    def tile(number: int) -> ir.Constant:
        return e.constant(number, I8)

    def move(what: str, number: int, address: ir.Value, step: ir.Value) -> None:
        values = [tile(number), e.pointer(address, I8), step]
        e.call_named(f"llvm.x86.{what}64", values)

    for number in range(count):
        e.call_named("llvm.x86.tilezero", [tile(number)])
    row = e.constant(ROW)

    def step(_: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
        a, b = carried
        for i in range(MT):
            move("tileloadd", count + i, builder.add(a, e.constant(i * TILE)), row)
        for v in range(NT):
            register = own[v % len(own)]
            place = builder.add(b, builder.mul(panels.column, e.constant(v))) if v else b
            move("tileloadd", register, place, panels.line)
            for i in range(MT):
                operands = [tile(n) for n in (i * NT + v, count + i, register)]
                e.call_named(f"llvm.x86.{_INSTRUCTIONS[words]}", operands)
        return [builder.add(a, e.constant(4 * filters[1])), builder.add(b, panels.block)]

    e.loop(k, step, [filters[0], pixels])
    line = e.constant(NT * ROW)
    for number in range(count):
        i, v = divmod(number, NT)
        move("tilestored", number, builder.add(at, e.constant(i * NT * TILE + v * ROW)), line)
    return TileSums(e, at, bias, MR, NT)


def _configure(e: Emitter) -> None:
    """Emit ``configure``: what tiles are in this thread, or that there are none any more."""
    (address,) = e.arguments
    given = e.builder.icmp_signed("!=", address, e.constant(0))
    with e.builder.if_else(given) as (some, none):
        with some:
            e.call_named("llvm.x86.ldtilecfg", [e.pointer(address, I8)])
        with none:
            e.call_named("llvm.x86.tilerelease", [])


@lru_cache
def configure_address(isa: Isa) -> int:
    """Return the address of ``configure``."""
    return kernel_address(Configure, _configure, isa, np.dtype(np.int32))
