"""Instruction sets that kernels are generated for: how wide, how many registers, which target."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from lowerconv.machine.features import host_features, instruction_set
from lowerconv.machine.tile_permission import tiles_granted

ENVIRONMENT = "LOWERCONV_ISA"
LINE = 64  # bytes of a cache line

# Products of reduced precision that a CPU of an instruction set may have besides, by LLVM's
# names; those with float32 and float64 never use them, so that their code is the same everywhere.
EXTENSIONS = {
    "avx512": ("avx512vnni", "avx512bf16", "amx-int8", "amx-bf16"),
    "avx2": ("avxvnni",),
    "sve512": ("i8mm", "bf16"),
    "sve256": ("i8mm", "bf16"),
    "neon": ("dotprod", "i8mm", "bf16"),
}


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
    half : bool
        Whether vectors of float16 become float32 in one instruction.
    scalable : bool
        Whether registers are as long as the CPU has them (SVE): code is generated for `bits`, and
        runs only where they have as many.
    extensions : tuple of str
        Those of `EXTENSIONS` that code may use; see `extended`.
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
    half: bool = False
    scalable: bool = False
    extensions: tuple[str, ...] = ()

    def __hash__(self) -> int:  # of all fields it takes as long as what is looked up by it
        return hash((self.name, self.features))

    def lanes(self, dtype: np.dtype) -> int:
        """Return VL, the items of `dtype` in a register."""
        return self.bits // 8 // dtype.itemsize

    def extended(self, *names: str) -> Isa:
        """Return this instruction set with some of its extensions, and no others.

        Its name is theirs, joined as in ``"avx512+avx512vnni"``.

        Raises
        ------
        ValueError
            One is none of its `EXTENSIONS`.
        """
        base = ISAS[self.name.partition("+")[0]]
        known = EXTENSIONS.get(base.name, ())
        for name in names:
            if name not in known:
                expected = ", ".join(map(repr, known)) or "none"
                raise ValueError(f"names: got {name!r}, expected of {base.name!r}: {expected}")
        chosen = tuple(name for name in known if name in names)
        return replace(
            base,
            name="+".join((base.name, *chosen)),
            features=",".join(filter(None, (base.features, *(f"+{name}" for name in chosen)))),
            extensions=chosen,
        )


# Two vectors of the panel and a broadcast stay beside 2 x MR accumulators; without FMA one more
# register holds the product.  LLVM's names of CPUs are the levels of the x86-64 psABI, so that the
# code is the same on every machine of a level.
ISAS = {
    isa.name: isa
    for isa in (
        Isa("avx512", 512, 32, 14, True, "x86_64", "x86-64-v4", "-prefer-256-bit", True, True),
        Isa("avx2", 256, 16, 6, True, "x86_64", "x86-64-v3", half=True),
        Isa("sse", 128, 16, 6, False, "x86_64", "x86-64"),
        # A64FX has the first, Graviton 3 the second; Graviton 4 and Grace have 128 bits, where NEON
        # does the same.  LLVM keeps two of Arm's 32 registers for itself in these loops.
        Isa("sve512", 512, 30, 13, True, "aarch64", "generic", "+sve", True, True, True),
        Isa("sve256", 256, 30, 13, True, "aarch64", "generic", "+sve", True, True, True),
        Isa("neon", 128, 30, 13, True, "aarch64", "generic", "+neon", half=True),
        Isa("generic", 128, 16, 4, False, "", ""),
    )
}
# Each CPU has those that come after its own, and of SVE one length of vectors.
_CHAINS = (
    ("avx512", "avx2", "sse", "generic"),
    ("sve512", "neon", "generic"),
    ("sve256", "neon", "generic"),
)


def host_extensions(name: str) -> tuple[str, ...]:
    """Return the extensions of an instruction set that this CPU has, and this process may use."""
    features = host_features()
    found = [each for each in EXTENSIONS.get(name, ()) if features.get(each, False)]
    tiles = [each for each in found if each.startswith("amx")]
    if tiles and not tiles_granted():
        found = [each for each in found if each not in tiles]
    return tuple(found)


@lru_cache
def host_isa() -> Isa:
    """Return the instruction set that kernels of float32 and float64 use in this process.

    The widest of the CPU, or the one that the environment variable ``LOWERCONV_ISA`` names.

    Raises
    ------
    ValueError
        The variable names none, or one that this CPU does not have.
    """
    return ISAS[_asked()[0]]


@lru_cache
def host_isa_extended() -> Isa:
    """Return that of kernels of reduced precision: `host_isa` with extensions.

    All that the CPU has; or, where ``LOWERCONV_ISA`` is set, those that it names, as in
    ``"avx512+avx512vnni"``: none, in ``"avx512"``.

    Raises
    ------
    ValueError
        As `host_isa`.
    """
    name, extensions = _asked()
    return ISAS[name].extended(*extensions)


def _asked() -> tuple[str, tuple[str, ...]]:
    """Return the names of the instruction set and of its extensions."""
    widest = instruction_set()
    asked = os.environ.get(ENVIRONMENT, "").strip().lower()
    if not asked:
        return widest, host_extensions(widest)
    usable = next(chain[chain.index(widest) :] for chain in _CHAINS if widest in chain)
    name, *extensions = asked.split("+")
    if name not in usable:
        names = ", ".join(map(repr, usable))
        raise ValueError(f"{ENVIRONMENT}: got {asked!r}, expected one of {names} on this CPU")
    for extension in extensions:
        if extension not in host_extensions(name):
            names = ", ".join(map(repr, host_extensions(name))) or "none"
            raise ValueError(
                f"{ENVIRONMENT}: got {asked!r}, expected extensions of {name!r} that this CPU "
                f"has: {names}"
            )
    return name, tuple(extensions)
