"""Instruction sets that kernels are generated for: how wide, how many registers, which target."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lowerconv.machine.features import instruction_set

ENVIRONMENT = "LOWERCONV_ISA"
LINE = 64  # bytes of a cache line


@dataclass(frozen=True)
class Isa:
    """One vector instruction set.

    Attributes
    ----------
    name : str
        As ``LOWERCONV_ISA`` spells it.
    bits : int
        Width of a register.
    registers : int
        How many there are for accumulators, operands and constants.
    rows : int
        MR of the register tile with rows of two vectors; `microkernel.rows_max` derives that of
        tiles of other widths.
    fma : bool
        Whether a multiplication and an addition are one instruction.
    triple, cpu, features : str
        What LLVM generates code for; an empty triple is this process's own.
    masks : bool
        Whether a store of some lanes is one instruction.  AVX2's takes AMD's cores 12 cycles and
        more; the others have none.
    """

    name: str
    bits: int
    registers: int
    rows: int
    fma: bool
    triple: str
    cpu: str
    features: str = ""
    masks: bool = False

    def lanes(self, dtype: np.dtype) -> int:
        """Return VL, the items of `dtype` in a register."""
        return self.bits // 8 // dtype.itemsize


# Two vectors of the panel and a broadcast stay beside 2 x MR accumulators; without FMA one more
# register holds the product.  LLVM's names of CPUs are the levels of the x86-64 psABI, so that the
# code is the same on every machine of a level.
ISAS = {
    isa.name: isa
    for isa in (
        Isa("avx512", 512, 32, 14, True, "x86_64", "x86-64-v4", "-prefer-256-bit", True),
        Isa("avx2", 256, 16, 6, True, "x86_64", "x86-64-v3"),
        Isa("sse", 128, 16, 6, False, "x86_64", "x86-64"),
        # LLVM keeps two of NEON's 32 registers for itself in these loops.
        Isa("neon", 128, 30, 13, True, "aarch64", "generic", "+neon"),
        Isa("generic", 128, 16, 4, False, "", ""),
    )
}
_ORDER = ("avx512", "avx2", "sse", "generic")  # each CPU has those that come after its own


@lru_cache
def host_isa() -> Isa:
    """Return the instruction set that kernels use in this process.

    The widest of the CPU, or the one that the environment variable ``LOWERCONV_ISA`` names.

    Raises
    ------
    ValueError
        The variable names none, or one that this CPU does not have.
    """
    widest = instruction_set()
    asked = os.environ.get(ENVIRONMENT, "").strip().lower()
    if not asked:
        return ISAS[widest]
    usable = _ORDER[_ORDER.index(widest) :] if widest in _ORDER else (widest, "generic")
    if asked not in usable:
        names = ", ".join(map(repr, usable))
        raise ValueError(f"{ENVIRONMENT}: got {asked!r}, expected one of {names} on this CPU")
    return ISAS[asked]
