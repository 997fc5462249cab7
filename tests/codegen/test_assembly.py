"""What the code generator makes of a register tile: the loop over k, instruction by instruction.

Code for every instruction set can be generated on every machine, Arm's on x86-64 too.
"""

import re

import numpy as np
import pytest

from lowerconv.codegen.dots import BF16, F16, S8_S8, S8_U8, U8_S8, WORDS
from lowerconv.codegen.isa import ISAS
from lowerconv.codegen.microkernel import Microkernel, rows_max

from ..long import drawn, long_but

ARM = ("sve512", "sve256", "neon")
NAMES = ("avx512", "avx2", "sse", *ARM)
#            FMA instruction or its parts, a full register, access to the stack
X86_FMA = r"\bvfmadd(132|213|231)p[sd]\b"
MULTIPLY_ADD = {"avx512": (X86_FMA,), "avx2": (X86_FMA,)} | {
    # SVE's may write the sum where a factor was.
    **{"sve512": (r"\bfm(la|ad)\b",), "sve256": (r"\bfm(la|ad)\b",), "neon": (r"\bfmla\b",)},
    "sse": (r"\bmulp[sd]\b", r"\baddp[sd]\b"),
}
# SVE's stack has addresses of its own, but nothing else is stored in the loop over k.
STACK = {"neon": r"\[(sp|x29)\b"} | dict.fromkeys(ARM[:2], r"\[(sp|x29)\b|\bst(r|1\w)\b")
BRANCH = re.compile(r"^(?:j\w+|b(?:\.\w+)?|cbn?z|tbn?z)\s.*?([.\w]+)$")
LABEL = re.compile(r"^([.\w]+):")


def loop_of(assembly, wanted):
    """Return the innermost loop around instructions that match: from a label to the branch back."""
    lines = [re.split(r"\s*(?:#|//)", line.strip())[0].strip() for line in assembly.splitlines()]
    labels = {found[1]: i for i, line in enumerate(lines) if (found := LABEL.match(line))}
    loops = []
    for i, line in enumerate(lines):
        found = BRANCH.match(line)
        if found and labels.get(found[1], i) < i:
            body = [
                line for line in lines[labels[found[1]] : i + 1] if line and line[0] not in ".#"
            ]
            if any(re.search(wanted, line) for line in body):
                loops.append([line for line in body if not LABEL.match(line)])
    assert loops, "no loop that multiplies"
    return min(loops, key=len)


def registers(line, isa):
    """Return the widths in bits of the vector registers that an instruction names."""
    if isa.scalable:
        return [isa.bits for _ in re.findall(r"\bz\d+\b", line)]
    if isa.name.startswith("neon"):
        lanes = re.findall(r"\bv\d+\.(\d+)([bhsd])\b", line)  # v3.s[0] is a broadcast of a lane
        return [int(count) * {"b": 8, "h": 16, "s": 32, "d": 64}[kind] for count, kind in lanes]
    return [{"x": 128, "y": 256, "z": 512}[kind] for kind in re.findall(r"%([xyz])mm\d+", line)]


def destination(line, isa):
    names = re.findall(r"\b[vz]\d+|%[xyz]mm\d+", line)
    return names[0] if isa.triple == "aarch64" else names[-1]


def tiles(isa):
    """Return the tiles (MR, NV) that the engine uses where there is enough to fill them."""
    few = {(isa.rows, 2), (2 * isa.rows, 1) if isa.registers >= 32 else (2 * isa.rows - 2, 1)}
    if isa.registers >= 32:
        few.add((2 * isa.rows // 3, 3))
    return sorted(few | {(min(28, rows_max(isa, NV)), NV) for NV in (1, 2, 3, 4, 6)})


def filters_feed(isa, dtype, MR, NV, paired, words=None):
    """Vectors of filters from a panel, pixels broadcast from a row of the image, two apart."""
    VL = isa.lanes(dtype)
    rows, columns = tuple(2 * i for i in range(MR)), tuple(v * VL for v in range(NV))
    step = None if paired else NV * VL
    ahead = 0 if paired else MR
    more = {"prefetch_pixels": ahead, "words": words}
    return Microkernel(isa, dtype, rows, columns, None, step, "columns", **more)


def pixels_feed(isa, dtype, MR, NV, paired, words=None):
    """Vectors of pixels from a row of the image, filters broadcast from where they are."""
    VL = isa.lanes(dtype)
    rows, columns = tuple(576 * i for i in range(MR)), tuple(v * VL for v in range(NV))
    step = None if paired else 1
    return Microkernel(isa, dtype, rows, columns, step, None, "rows", words=words)


@pytest.mark.parametrize("paired", [False, True], ids=["one-table", "two-tables"])
@pytest.mark.parametrize("feed", [filters_feed, pixels_feed])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_the_loop_multiplies_and_adds_and_nothing_more(name, dtype, feed, paired, rng):
    isa, dtype = ISAS[name], np.dtype(dtype)
    spilled = {}
    for MR, NV in drawn(rng, tiles(isa), 3):
        tile = f"{MR} x {NV}"
        body = loop_of(feed(isa, dtype, MR, NV, paired).assembly(), MULTIPLY_ADD[name][0])
        if onto_stack := [line for line in body if re.search(STACK.get(name, r"\(%rsp"), line)]:
            spilled[tile] = onto_stack
            continue
        for wanted in MULTIPLY_ADD[name]:
            products = [line for line in body if re.search(wanted, line)]
            assert len(products) == MR * NV, f"{tile}: {len(products)} of {wanted}"
            for line in products:
                assert set(registers(line, isa)) == {isa.bits}, f"{tile}: {line}"
            if wanted == MULTIPLY_ADD[name][-1]:  # sums stay apart, each in its register
                assert len({destination(line, isa) for line in products}) == MR * NV, tile
        # Vectors are loaded once, as a whole; broadcasts are part of the instruction or one more.
        others = len(body) - len(MULTIPLY_ADD[name]) * MR * NV
        shuffles = MR * (NV if name == "sse" else 1)  # copies, where the product overwrites
        assert others <= NV + 2 * MR + shuffles + 10, f"{tile}: {others} other instructions"
    assert not spilled


def test_a_tile_too_large_spills():
    """What the test above looks for is there where it must be."""
    for name in NAMES:
        isa = ISAS[name]
        kernel = filters_feed(isa, np.dtype("float32"), isa.registers, 2, False)
        body = loop_of(kernel.assembly(), MULTIPLY_ADD[name][0])
        assert any(re.search(STACK.get(name, r"\(%rsp"), line) for line in body)


PMADDWD, INTEGERS = r"\bv?pmaddwd\b", (S8_U8, U8_S8, S8_S8)
VPDPBUSD, FMLA = r"\bvpdpbusd\b", MULTIPLY_ADD["sve512"][0]
# The instruction of each of the words on each instruction set, and how many there are for a sum
# and step; with a correction there is one more for each vector.  Left out is f16 on SSE: unpacking
# it takes so many registers that every tile spills.
DOTS = [
    ("avx512+avx512bf16", (BF16,), r"\bvdpbf16ps\b", 1, 0),
    ("avx512+avx512vnni", (S8_U8, U8_S8), VPDPBUSD, 1, 0),
    ("avx512+avx512vnni", (S8_S8,), VPDPBUSD, 1, 1),
    ("avx2+avxvnni", (S8_U8, U8_S8), VPDPBUSD, 1, 0),
    ("avx2+avxvnni", (S8_S8,), VPDPBUSD, 1, 1),
    ("neon+bf16", (BF16,), r"\bbfdot\b", 1, 0),
    ("neon+i8mm", (S8_U8, U8_S8), r"\busdot\b", 1, 0),
    ("neon+dotprod", (S8_S8,), r"\bsdot\b", 1, 0),
    ("neon+dotprod", (S8_U8,), r"\bsdot\b", 1, 1),
    ("neon+dotprod", (U8_S8,), r"\budot\b", 1, 1),
    *((f"{sve}+bf16", (BF16,), r"\bbfdot\b", 1, 0) for sve in ("sve512", "sve256")),
    *((f"{sve}+i8mm", (S8_U8, U8_S8), r"\busdot\b", 1, 0) for sve in ("sve512", "sve256")),
    ("avx512", (BF16, F16), X86_FMA, 2, 0),
    ("avx2", (BF16, F16), X86_FMA, 2, 0),
    ("sse", (BF16,), r"\bmulps\b", 2, 0),
    ("neon", (BF16, F16), FMLA, 2, 0),
    *((sve, (BF16, F16), FMLA, 2, 0) for sve in ("sve512", "sve256")),
    *((sve, (S8_S8,), r"\bsdot\b", 1, 0) for sve in ("sve512", "sve256")),
    *((sve, (S8_U8,), r"\bsdot\b", 1, 1) for sve in ("sve512", "sve256")),
    *((sve, (U8_S8,), r"\budot\b", 1, 1) for sve in ("sve512", "sve256")),
    ("avx512", INTEGERS, PMADDWD, 2, 0),
    ("avx2", INTEGERS, PMADDWD, 2, 0),
    ("sse", INTEGERS, PMADDWD, 2, 0),
    ("neon", INTEGERS, r"\bmla\b", 4, 0),
]


@pytest.mark.parametrize("feed", long_but([filters_feed], [filters_feed, pixels_feed]))
@pytest.mark.parametrize(
    ("name", "words", "wanted", "each", "corrections"),
    [(name, words, *rest) for name, several, *rest in DOTS for words in several],
    ids=[f"{name}-{'-'.join(words)}" for name, several, *_ in DOTS for words in several],
)
def test_the_loop_of_words_has_their_instruction(name, words, wanted, each, corrections, feed, rng):
    base, *extensions = name.split("+")
    isa = ISAS[base].extended(*extensions)
    found = [(MR, NV) for NV in (1, 2, 3, 4, 6) if (MR := min(28, rows_max(isa, NV, words)))]
    assert len(found) >= 2
    for MR, NV in drawn(rng, found, 1):
        tile = f"{MR} x {NV}"
        body = loop_of(feed(isa, words.sums, MR, NV, False, words).assembly(), wanted)
        assert not [line for line in body if re.search(STACK.get(base, r"\(%rsp"), line)], tile
        products = [line for line in body if re.search(wanted, line)]
        assert len(products) == each * MR * NV + corrections * NV, f"{tile}: {len(products)}"
        for line in products:
            assert set(registers(line, isa)) == {isa.bits}, f"{tile}: {line}"
        assert not [line for line in body if re.search(r"pmaddubsw|\bcall|\bbl\b", line)], tile
        if each == 1:  # little else: a load for each operand, and a change of it where signs differ
            others = len(body) - len(products)
            assert others <= 2 * NV + (2 + corrections) * MR + 10, f"{tile}: {others} others"


def test_extensions_leave_the_code_of_numbers_alone():
    for name in ("avx512+avx512vnni+avx512bf16", "avx2+avxvnni", "neon+dotprod+i8mm+bf16"):
        base, *extensions = name.split("+")
        plain, extended = ISAS[base], ISAS[base].extended(*extensions)
        assert extended.name == name
        for dtype in map(np.dtype, ("float32", "float64")):
            kernels = [filters_feed(isa, dtype, 3, 2, True) for isa in (plain, extended)]
            assert str(kernels[0].build()) == str(kernels[1].build())


def test_every_word_has_code_everywhere():
    for isa in ISAS.values():
        for words in WORDS:
            assert filters_feed(isa, words.sums, 2, 1, False, words).assembly()
