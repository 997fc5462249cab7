"""The table of instruction sets, and the variable that names the one to use."""

import numpy as np
import pytest

from lowerconv.codegen import isa as simd
from lowerconv.codegen.isa import EXTENSIONS, ISAS, host_isa, host_isa_extended
from lowerconv.machine.features import instruction_set

by_isa = pytest.mark.parametrize("isa", ISAS.values(), ids=ISAS)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Ask anew in each test, and again after it."""
    monkeypatch.delenv("LOWERCONV_ISA", raising=False)
    forget()
    yield
    monkeypatch.undo()
    forget()


def forget():
    host_isa.cache_clear()
    host_isa_extended.cache_clear()


@pytest.fixture
def on_cpu(monkeypatch):
    """Return a function that makes this CPU look like another."""

    def pretend(name, *features):
        monkeypatch.setattr(simd, "instruction_set", lambda: name)
        monkeypatch.setattr(simd, "host_features", lambda: dict.fromkeys(features, True))

    return pretend


@by_isa
def test_a_tile_fits_in_the_registers(isa):
    # Accumulators of MR x 2, two vectors and a broadcast; without FMA a product as well.
    assert 2 * isa.rows + 3 + (not isa.fma) <= isa.registers
    # ... and of the other shapes that the engine uses: one vector, and three.
    assert (2 * isa.rows - 2) + 2 + (not isa.fma) <= isa.registers
    if isa.registers >= 32:
        assert 2 * isa.rows // 3 * 3 + 4 <= isa.registers


@by_isa
def test_the_tile_is_large_enough_to_hide_latency(isa):
    # Four cycles of latency, two FMA units: eight sums in flight at least.
    assert 2 * isa.rows >= 8


@by_isa
def test_lanes_fill_a_register(isa):
    assert isa.name in ISAS
    for dtype in (np.dtype("float32"), np.dtype("float64")):
        assert isa.lanes(dtype) * dtype.itemsize * 8 == isa.bits


def test_every_instruction_set_that_a_cpu_may_have_is_there():
    assert {"avx512", "avx2", "sse", "sve512", "sve256", "neon", "generic"} == set(ISAS)
    assert host_isa() is ISAS[instruction_set()]


ORDER = ("avx512", "avx2", "sse", "generic")
USABLE = {name: ORDER[i:] for i, name in enumerate(ORDER)} | {"neon": ("neon", "generic")}
USABLE |= {name: (name, "neon", "generic") for name in ("sve512", "sve256")}


@pytest.mark.parametrize("cpu", USABLE)
def test_narrower_ones_can_be_asked_for(cpu, on_cpu, monkeypatch):
    on_cpu(cpu)
    assert host_isa() is ISAS[cpu]
    for name in USABLE[cpu]:
        monkeypatch.setenv("LOWERCONV_ISA", f" {name.upper()}")
        forget()
        assert host_isa() is ISAS[name]


@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_variable_asks_for_nothing(value, monkeypatch):
    monkeypatch.setenv("LOWERCONV_ISA", value)
    assert host_isa() is ISAS[instruction_set()]


WRONG = [
    (cpu, name)
    for cpu in USABLE
    for name in (*ISAS, "avx10", "auto", "avx")
    if name not in USABLE[cpu]
]


@pytest.mark.parametrize(("cpu", "name"), WRONG)
def test_others_are_refused(cpu, name, on_cpu, monkeypatch):
    on_cpu(cpu)
    monkeypatch.setenv("LOWERCONV_ISA", name)
    with pytest.raises(ValueError, match=rf"LOWERCONV_ISA: got '{name}', expected") as refused:
        host_isa()
    expected = str(refused.value).partition("expected")[2]
    assert all(repr(usable) in expected for usable in USABLE[cpu])
    assert repr(name) not in expected


@pytest.mark.parametrize("name", EXTENSIONS)
def test_extensions_are_named_and_asked_for(name):
    known = EXTENSIONS[name]
    every = ISAS[name].extended(*reversed(known))
    assert every == ISAS[name].extended(*known) == every.extended(*known)
    assert every.name == "+".join((name, *known)) and every.extensions == known
    for one in known:
        isa = every.extended(one)
        assert isa.extensions == (one,) and f"+{one}" in isa.features.split(",")
    assert every.extended() == ISAS[name]


@pytest.mark.parametrize("name", ["sse", "generic", "avx2"])
def test_unknown_extensions_are_refused(name):
    with pytest.raises(ValueError, match=rf"names: got 'dotprod', expected of '{name}': "):
        ISAS[name].extended("dotprod")


def test_the_extensions_of_this_cpu_are_used(on_cpu, monkeypatch):
    """All, unless an instruction set is named; float32 and float64 never use them."""
    features = "avx512bf16", "avx512vnni", "avxvnni"
    asked = {
        "": "avx512+avx512vnni+avx512bf16",
        "avx512": "avx512",
        "AVX512+avx512bf16": "avx512+avx512bf16",
        "avx2+avxvnni": "avx2+avxvnni",
        "sse": "sse",
    }
    for value, name in asked.items():
        on_cpu("avx512", *features)
        monkeypatch.setenv("LOWERCONV_ISA", value)
        forget()
        assert host_isa_extended().name == name
        assert host_isa() is ISAS[name.partition("+")[0]]


@pytest.mark.parametrize("granted", [False, True])
def test_tiles_are_used_where_the_system_grants_them(granted, on_cpu, monkeypatch):
    monkeypatch.setattr(simd, "tiles_granted", lambda: granted)
    on_cpu("avx512", "avx512vnni", "amx-tile", "amx-int8", "amx-bf16")
    tiles = "+amx-int8+amx-bf16" if granted else ""
    assert host_isa_extended().name == "avx512+avx512vnni" + tiles
    forget()
    monkeypatch.setenv("LOWERCONV_ISA", "avx512+avx512vnni")
    assert host_isa_extended().name == "avx512+avx512vnni"


@pytest.mark.parametrize("value", ["avx512+avx512bf16", "avx512+", "avx2+avx512vnni", "sse+fma"])
def test_extensions_that_are_not_there_are_refused(value, on_cpu, monkeypatch):
    on_cpu("avx512", "avx512vnni")
    monkeypatch.setenv("LOWERCONV_ISA", value)
    for ask in (host_isa, host_isa_extended):
        with pytest.raises(ValueError) as refused:
            ask()
        assert f"LOWERCONV_ISA: got '{value}', expected extensions of" in str(refused.value)


def test_a_refusal_reaches_whoever_convolves(monkeypatch):
    import lowerconv as lc

    monkeypatch.setenv("LOWERCONV_ISA", "mmx")
    with pytest.raises(ValueError, match=r"LOWERCONV_ISA: got 'mmx'"):
        lc.plan_conv2d((1, 3, 5, 5), (4, 3, 3, 3), algorithm="fused")
