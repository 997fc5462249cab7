"""Object code on disk: made once, by whichever process comes first, and again when damaged."""

import ctypes
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import lowerconv
from lowerconv.codegen import jit
from lowerconv.codegen.emit import Emitter
from lowerconv.codegen.isa import ISAS, host_isa
from lowerconv.codegen.microkernel import Microkernel
from lowerconv.machine import disk_cache
from lowerconv.machine.disk_cache import cache_directory

from ..long import long_but
from ..machine.processes import run_together


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """Give each test a directory of its own, and a process that has not warned yet."""
    monkeypatch.setenv("LOWERCONV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(disk_cache, "_told_unwritable", False)
    monkeypatch.setattr(disk_cache, "_told_damaged", False)


def forget():
    """Know as little of code that has been loaded as a new process does."""
    for value in list(vars(jit).values()):
        if hasattr(value, "cache_clear"):
            value.cache_clear()
        elif isinstance(value, dict) and value is not vars(jit)["__builtins__"]:
            value.clear()


def objects():
    return sorted((cache_directory() / "kernels").glob("*"))


class Address(NamedTuple):
    """The signature of the function."""

    address: int


class Double:
    """A function that doubles a number in memory, and how often it was built."""

    def __init__(self):
        self.built = 0

    def build(self):
        self.built += 1
        e = Emitter.function("double", Address, host_isa(), np.dtype("float64"))
        value = e.load(e.arguments[0], 0, 1)
        e.store(e.builder.fadd(value, value), e.arguments[0], 0, 1)
        return e.finish()

    def load(self, key="key"):
        forget()
        return jit.load(key, self.build, host_isa(), "double", __name__)

    def works(self, address):
        number = np.array([21.0])
        ctypes.CFUNCTYPE(None, ctypes.c_int64)(address)(number.ctypes.data)
        return number[0] == 42


def test_code_is_built_once():
    double = Double()
    for _ in range(3):
        assert double.works(double.load())
    assert double.built == 1
    assert len(objects()) == 1


def test_other_keys_have_other_code(monkeypatch):
    double = Double()
    keys = ["key", ("key",), ("key", 1), ("key", np.dtype("float32")), ("key", None)]
    for key in keys:
        assert double.works(double.load(key))
    assert double.built == len(keys)
    monkeypatch.setattr(jit, "_sources", lambda generator: "sources that were edited")
    assert double.works(double.load())
    assert double.built == len(keys) + 1
    assert len(objects()) == len(keys) + 1


def halved(content):
    return content[: len(content) // 2]


def flipped(content):
    return content[:-1] + bytes([content[-1] ^ 1])


def emptied(content):
    return b""


def zeroed(content):
    return bytes(len(content))


DAMAGE = [halved, flipped, emptied, zeroed]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_code_is_made_again(damage):
    double = Double()
    double.load()
    (path,) = objects()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with pytest.warns(RuntimeWarning, match="ignored and made again") as told:
        assert double.works(double.load())
    assert str(path) in str(told[0].message)
    assert double.built == 2
    assert path.read_bytes() == whole
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert double.works(double.load())
    assert double.built == 2


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LOWERCONV_CACHE_DIR", str(tmp_path / "file"))
    double = Double()
    with pytest.warns(RuntimeWarning, match="LOWERCONV_CACHE_DIR names another"):
        assert double.works(double.load())
    assert double.works(double.load("other"))  # told once: a RuntimeWarning would be an error here
    assert double.built >= 2


@pytest.fixture
def loads(monkeypatch):
    """Return a list that grows with every object that is loaded."""
    loaded = []
    create = jit.llvm.create_mcjit_compiler

    def counting(*arguments, **options):
        loaded.append(arguments)
        return create(*arguments, **options)

    monkeypatch.setattr(jit.llvm, "create_mcjit_compiler", counting)
    return loaded


@pytest.mark.parametrize("op", ["forward", "input_grad", "weight_grad"])
@pytest.mark.parametrize("groups", [1, 8], ids=["groups-1", "depthwise"])
def test_planning_again_loads_nothing(op, groups, loads):
    """Code is never given back: a process may make any number of plans all the same."""
    for again in range(3):
        shapes = (1, 8, 9, 9), (16, 8 // groups, 3, 3)
        lowerconv.plan_conv2d(*shapes, 2, 1, 1, groups, op=op, algorithm="fused")
        if not again:
            first = len(loads)
    assert len(loads) == first


def test_phases_with_the_same_code_load_it_once(loads):
    """A stride has as many phases as it has pixels."""
    lowerconv.plan_conv2d((1, 3, 32, 32), (8, 3, 16, 16), 16, op="input_grad", algorithm="fused")
    assert len(loads) < 50


@pytest.mark.parametrize("triple", ["arm64-apple-darwin23.1.0", "aarch64-apple-darwin23.1.0"])
def test_arm_of_apple_keeps_its_own_conventions(triple, monkeypatch):
    """The system may change register x18 there at any time; Linux lets code use it."""
    isa, dtype = ISAS["neon"], np.dtype("float32")
    kernel = Microkernel(isa, dtype, tuple(range(isa.rows)), (0, 4), None, 8, "rows")
    jit.target_machine.cache_clear()
    try:
        monkeypatch.setattr(jit.llvm, "get_process_triple", lambda: "aarch64-unknown-linux-gnu")
        assert re.search(r"\b[xw]18\b", kernel.assembly())  # or the test would tell nothing
        monkeypatch.setattr(jit.llvm, "get_process_triple", lambda: triple)
        jit.target_machine.cache_clear()
        assert "apple" in jit.target_machine(isa).triple
        assert not re.search(r"\b[xw]18\b", kernel.assembly())
    finally:
        jit.target_machine.cache_clear()


# All three passes, with groups, a stride and a depthwise problem; what they compiled, and a digest.
PROGRAM = """
import hashlib, warnings
import llvmlite.binding as llvm
import numpy as np

count = 0
emit = llvm.TargetMachine.emit_object
def counting(self, module):
    global count
    count += 1
    return emit(self, module)
llvm.TargetMachine.emit_object = counting

import lowerconv as lc

digest = hashlib.sha256()
rng = np.random.default_rng(3)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always", RuntimeWarning)
    for x, w, options in (
        ((2, 6, 9, 11), (40, 6, 3, 3), dict(padding=1)),
        ((1, 6, 9, 11), (10, 3, 3, 2), dict(stride=2, groups=2)),
        ((2, 5, 9, 11), (5, 1, 3, 3), dict(groups=5)),
    ):
        a, b = (rng.integers(-3, 4, shape).astype(np.float32) for shape in (x, w))
        y = lc.conv2d(a, b, algorithm="fused", **options)
        dx = lc.conv2d_input_grad(y, b, x, algorithm="fused", **options)
        dw = lc.conv2d_weight_grad(y, a, w, algorithm="fused", **options)
        for result in (y, dx, dw):
            digest.update(result.tobytes())
told = [str(each.message) for each in told if each.category is RuntimeWarning]
print(count, len(told), digest.hexdigest())
"""


def program():
    """Return what the program prints: what it compiled, how often it was warned, a digest."""
    package_dir = str(Path(lowerconv.__file__).parents[1])
    path = os.pathsep.join(filter(None, [package_dir, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    count, told, digest = done.stdout.split()
    return int(count), int(told), digest


def test_a_second_process_compiles_nothing():
    count, told, digest = program()
    assert count == len(objects()) > 10
    assert told == 0
    assert program() == (0, 0, digest)

    # Half of them are damaged in some way: those are made again, and the results are the same.
    damaged = objects()[::2]
    whole = [path.read_bytes() for path in damaged]
    for i, (path, content) in enumerate(zip(damaged, whole, strict=True)):
        path.write_bytes(DAMAGE[i % len(DAMAGE)](content))
    assert program() == (len(damaged), 1, digest)
    assert [path.read_bytes() for path in damaged] == whole
    assert program() == (0, 0, digest)


def test_without_a_cache_all_works_the_same(tmp_path, monkeypatch):
    *_, digest = program()
    (tmp_path / "file").touch()
    monkeypatch.setenv("LOWERCONV_CACHE_DIR", str(tmp_path / "file" / "below"))
    count, told, same = program()
    assert count > 10
    assert told == 1
    assert same == digest


def test_processes_that_begin_at_once():
    """Each compiles or reads what another has just written; none may see half of it."""
    code = """
import numpy as np
import lowerconv as lc
x = np.arange(2 * 6 * 9 * 11, dtype=np.float32).reshape(2, 6, 9, 11) % 7
w = np.arange(40 * 6 * 9, dtype=np.float32).reshape(40, 6, 3, 3) % 5
print(lc.conv2d(x, w, padding=1, algorithm="fused").astype(np.float64).sum())
"""
    assert len(set(run_together(3, code))) == 1
    assert objects()
    assert not [path for path in objects() if path.suffix != ".o"]  # nothing half written is left


FAR_APART = """
import ctypes, sys
import numpy as np
import lowerconv as lc

PAGE, RESERVED = 4096, 3 << 30
FLAGS = 0x02 | 0x20 | 0x4000 | 0x100000  # private, anonymous, no reserve, fixed and not replacing
c = ctypes.CDLL(None)
c.mmap.restype = ctypes.c_void_p
c.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
c.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def reserve(begin, end):
    return c.mmap(begin, end - begin, 0, FLAGS, -1, 0)


with open("/proc/self/maps") as lines:
    taken = [[int(end, 16) for end in line.split()[0].split("-")] for line in lines]
high = [ends for ends in taken if 0x7000_0000_0000 < ends[0] < 0x8000_0000_0000]
for (_, begin), (end, _) in zip(high, high[1:]):
    if begin < end:
        reserve(begin, end)
lowest = high[0][0]
assert reserve(lowest - RESERVED, lowest) == lowest - RESERVED
hole = int(sys.argv[1])  # pages
c.munmap(lowest - (hole + 4) * PAGE, hole * PAGE)
for size in range(3, 8):
    y = lc.conv2d(np.ones((1, 3, 19, 19), np.float32), np.ones((5, 3, size, size), np.float32))
    assert (y == 3 * size * size).all()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the map of the process's memory")
@pytest.mark.parametrize("pages", long_but([2, 11], (1, 2, 5, 11)))
def test_code_and_constants_are_near_each_other(pages):
    # A hole that takes the code alone: its constants would go beyond 3 GiB that are taken.
    subprocess.run([sys.executable, "-c", FAR_APART, str(pages)], check=True)
