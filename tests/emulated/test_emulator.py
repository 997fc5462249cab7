"""What the emulator must notice; the kernels themselves are tested by ``tests/codegen``."""

import numpy as np
import pytest

from lowerconv.codegen.dots import S8_S8
from lowerconv.codegen.isa import ISAS
from lowerconv.codegen.microkernel import Microkernel

from ..codegen.guarded_calls import Job
from . import emulator
from .emulator import EXTENDED, call

FLOAT = np.dtype(np.float32)


def tile_of(isa, read=0, written=0, place="at-end", words=None):
    """One row of one vector; its operand, and its result, may be some bytes too short."""
    VL = isa.lanes(FLOAT)
    dtype = words.sums if words else FLOAT
    kernel = Microkernel(isa, dtype, (0,), (0,), 1, VL, "rows", words=words)
    vectors, out = np.arange(VL - read, dtype=FLOAT), np.zeros(VL - written, FLOAT)
    one, table, bias = np.ones(1, FLOAT), np.zeros(2, np.int32), np.zeros(1, FLOAT)
    arguments = [1, vectors, one, table, out, VL, bias, 1, 0, 0, 0]
    return Job(f"{isa.name} {read} {written} {place}", kernel, arguments, 4, place)


@pytest.mark.parametrize("isa", EXTENDED.values(), ids=EXTENDED)
def test_results_come_back_in_order(isa):
    jobs = [tile_of(isa, place=place) for place in ("at-start", "at-end")]
    for result in call(jobs):
        np.testing.assert_array_equal(result, np.arange(isa.lanes(FLOAT)))


@pytest.mark.parametrize("short", [{"read": 1}, {"written": 1}], ids=["read", "written"])
@pytest.mark.parametrize("isa", emulator.PLAIN, ids=[isa.name for isa in emulator.PLAIN])
def test_an_access_beyond_an_array_ends_the_run(isa, short):
    bad = tile_of(isa, **short)
    with pytest.raises(AssertionError, match=rf"return code -?\d+ in {isa.name} "):
        call([tile_of(isa), bad, tile_of(isa)])


def test_a_cpu_without_an_extension_does_not_run_it(monkeypatch):
    isa = ISAS["neon"].extended("dotprod")
    monkeypatch.setitem(emulator.CPUS, isa.name, "cortex-a57")
    with pytest.raises(AssertionError, match="return code"):
        call([tile_of(isa, words=S8_S8)])


def test_registers_of_another_length_are_noticed(monkeypatch):
    monkeypatch.setitem(emulator.CPUS, "sve512", emulator.CPUS["sve256"])
    with pytest.raises(AssertionError, match="vectors of 32 bytes"):
        call([tile_of(ISAS["sve512"])])
