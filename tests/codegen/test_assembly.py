"""What the code generator makes of a register tile: the loop over k, instruction by instruction.

Code for every instruction set can be generated on every machine, NEON's on x86-64 too.
"""

import re

import numpy as np
import pytest

from lowerconv.codegen.isa import ISAS
from lowerconv.codegen.microkernel import Microkernel, rows_max

NAMES = ("avx512", "avx2", "sse", "neon")
#            FMA instruction or its parts, a full register, access to the stack
X86_FMA = r"\bvfmadd(132|213|231)p[sd]\b"
MULTIPLY_ADD = {"avx512": (X86_FMA,), "avx2": (X86_FMA,), "neon": (r"\bfmla\b",)} | {
    "sse": (r"\bmulp[sd]\b", r"\baddp[sd]\b")
}
STACK = {"neon": r"\[(sp|x29)\b"}
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
    if isa.name == "neon":
        lanes = re.findall(r"\bv\d+\.(\d+)([bhsd])\b", line)  # v3.s[0] is a broadcast of a lane
        return [int(count) * {"b": 8, "h": 16, "s": 32, "d": 64}[kind] for count, kind in lanes]
    return [{"x": 128, "y": 256, "z": 512}[kind] for kind in re.findall(r"%([xyz])mm\d+", line)]


def destination(line, isa):
    names = re.findall(r"\bv\d+|%[xyz]mm\d+", line)
    return names[0] if isa.name == "neon" else names[-1]


def tiles(isa):
    """Return the tiles (MR, NV) that the engine uses where there is enough to fill them."""
    few = {(isa.rows, 2), (2 * isa.rows, 1) if isa.registers >= 32 else (2 * isa.rows - 2, 1)}
    if isa.registers >= 32:
        few.add((2 * isa.rows // 3, 3))
    return sorted(few | {(min(28, rows_max(isa, NV)), NV) for NV in (1, 2, 3, 4, 6)})


def filters_feed(isa, dtype, MR, NV, paired):
    """Vectors of filters from a panel, pixels broadcast from a row of the image, two apart."""
    VL = isa.lanes(dtype)
    rows, columns = tuple(2 * i for i in range(MR)), tuple(v * VL for v in range(NV))
    step = None if paired else NV * VL
    return Microkernel(isa, dtype, rows, columns, None, step, "columns", ahead=0 if paired else MR)


def pixels_feed(isa, dtype, MR, NV, paired):
    """Vectors of pixels from a row of the image, filters broadcast from where they are."""
    VL = isa.lanes(dtype)
    rows, columns = tuple(576 * i for i in range(MR)), tuple(v * VL for v in range(NV))
    return Microkernel(isa, dtype, rows, columns, None if paired else 1, None, "rows")


@pytest.mark.parametrize("paired", [False, True], ids=["one-table", "two-tables"])
@pytest.mark.parametrize("feed", [filters_feed, pixels_feed])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_the_loop_multiplies_and_adds_and_nothing_more(name, dtype, feed, paired):
    isa, dtype = ISAS[name], np.dtype(dtype)
    spilled = {}
    for MR, NV in tiles(isa):
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
