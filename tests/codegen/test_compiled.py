"""Compiled loops on disk: made once, again when damaged or out of date, done without if need be."""

import ast
import errno
import os
import pickle
import sys
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import lowerconv
from lowerconv.codegen import compiled
from lowerconv.machine import disk_cache
from lowerconv.machine.disk_cache import cache_directory
from tests.codegen.loops import LOOPS, XS, Loops, kept, refuse

from ..machine.processes import run_together
from ..runtime.children import python


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """Give each test a directory of its own, and a process that has not warned yet."""
    monkeypatch.setenv("LOWERCONV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(compiled._CONFIG, "CACHE_DIR", "")
    monkeypatch.setattr(disk_cache, "_told_unwritable", False)
    monkeypatch.setattr(disk_cache, "_told_damaged", False)


@pytest.fixture
def loops(tmp_path, monkeypatch) -> Iterator[Loops]:
    file = tmp_path / "package" / "loops.py"
    file.parent.mkdir()
    file.write_text(textwrap.dedent(LOOPS))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(compiled, "source_hash", lambda module: "the same")
    yield Loops(file)
    sys.modules.pop("loops", None)


class TestKept:
    def test_beside_the_sources(self, loops):
        assert loops.run() == 0
        names = [path.name.split(".")[:2] for path in kept(loops.beside)]
        assert sorted(names) == [["loops", "double-5"], ["loops", "total-9"]]
        assert loops.run() == 1  # of the functions, the one that is called: it holds the other
        assert len(kept(loops.beside)) == 2
        assert not cache_directory().exists()

    def test_by_its_address(self, loops):
        first, second = loops.load().call(), loops.load().call()
        assert (first.loaded, first.kept) == (False, True)
        assert (second.loaded, second.kept) == (True, True)
        assert first.address and second.address

    def test_in_the_directory_of_numba(self, loops, monkeypatch, tmp_path):
        monkeypatch.setattr(compiled._CONFIG, "CACHE_DIR", str(tmp_path / "numba"))
        assert loops.run() == 0
        assert loops.run() == 1
        assert len(kept(tmp_path / "numba")) == 2
        assert kept(loops.beside) == []

    def test_in_our_cache_where_the_package_cannot_be_written(self, loops, monkeypatch):
        refuse(monkeypatch, loops.beside)
        assert loops.run() == 0  # a RuntimeWarning would be an error here
        assert loops.run() == 1
        assert kept(loops.beside) == []
        assert len(kept(cache_directory() / "loops")) == 2

    def test_a_package_that_can_only_be_read_has_what_it_came_with(self, loops, monkeypatch):
        assert loops.run() == 0
        refuse(monkeypatch, loops.beside)
        assert loops.run() == 1
        assert not cache_directory().exists()

    def test_other_sources_have_other_code(self, loops, monkeypatch):
        loops.run()
        monkeypatch.setattr(compiled, "source_hash", lambda module: "edited")
        assert loops.run() == 0
        assert len(kept(loops.beside)) == 4


class TestNotKept:
    @pytest.mark.parametrize("error", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT])
    def test_told_once(self, loops, monkeypatch, tmp_path, error):
        refuse(monkeypatch, tmp_path, error)
        module = loops.load()
        with pytest.warns(RuntimeWarning, match="LOWERCONV_CACHE_DIR names another") as told:
            assert module.total(XS) == 14
        assert len(told) == 1
        assert os.strerror(error) in str(told[0].message)
        assert module.total(XS) == 14
        assert not module.call().kept
        assert sum(module.total.stats.cache_misses.values()) == 1

    def test_files_where_directories_belong(self, loops, monkeypatch):
        loops.beside.write_text("a file")
        cache_directory().write_text("another")
        with pytest.warns(RuntimeWarning, match="cannot be written") as told:
            assert loops.run() == 0
        assert len(told) == 1
        assert loops.run() == 0

    def test_numbas_own_directory_is_named(self, loops, monkeypatch, tmp_path):
        (tmp_path / "file").touch()
        monkeypatch.setattr(compiled._CONFIG, "CACHE_DIR", str(tmp_path / "file"))
        with pytest.warns(RuntimeWarning, match="NUMBA_CACHE_DIR names another"):
            assert loops.run() == 0
        assert kept(tmp_path) == []

    def test_without_sources(self, loops, monkeypatch, tmp_path):
        monkeypatch.setattr(compiled, "source_hash", lambda module: None)
        with pytest.warns(RuntimeWarning, match=r"install lowerconv with its \.py files"):
            assert loops.run() == 0
        assert kept(tmp_path) == []

    def test_a_full_disk_leaves_nothing_behind(self, loops, monkeypatch, tmp_path):
        def full(*paths):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "replace", full)
        with pytest.warns(RuntimeWarning, match="No space left on device"):
            assert loops.run() == 0
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == [loops.file]


DAMAGE = {
    "emptied": lambda content: b"",
    "halved": lambda content: content[: len(content) // 2],
    "a flipped bit": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    "zeros": lambda content: bytes(len(content)),
    "another object": lambda content: pickle.dumps(("stamp", {"key": 1})),
    "another version": lambda content: content.replace(b"cache 1", b"cache 0", 1),
}


class TestDamage:
    @pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
    def test_is_made_again(self, loops, damage):
        loops.run()
        files = kept(loops.beside)
        for path in files:
            path.write_bytes(damage(path.read_bytes()))
        with pytest.warns(RuntimeWarning, match="ignored and made again") as told:
            assert loops.run() == 0
        assert len(told) == 1
        assert any(str(path) in str(told[0].message) for path in files)
        assert kept(loops.beside) == files
        assert loops.run() == 1

    def test_a_directory_in_its_place(self, loops):
        loops.run()
        for path in kept(loops.beside):
            path.unlink()
            path.mkdir()
        with pytest.warns(RuntimeWarning, match="ignored and made again"):
            assert loops.run() == 0
        assert loops.run() == 1  # from our cache
        assert len(kept(cache_directory() / "loops")) == 2

    def test_where_nothing_can_be_written(self, loops, monkeypatch, tmp_path):
        loops.run()
        for path in kept(loops.beside):
            path.write_bytes(path.read_bytes()[:-1])
        refuse(monkeypatch, tmp_path)
        with pytest.warns(RuntimeWarning) as told:
            assert loops.run() == 0
        assert len(told) == 2  # that it is damaged, and that it stays so
        assert loops.run() == 0


class TestWarningsAsErrors:
    def test_damage(self, loops):
        """The error goes through the compilation of the function that calls the damaged one."""
        loops.run()
        total = next(path for path in kept(loops.beside) if ".total" in path.name)
        total.unlink()
        for path in kept(loops.beside):
            path.write_bytes(b"")
        module = loops.load()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(RuntimeWarning, match="ignored and made again"):
                module.total(XS)
            for _ in range(2):
                assert module.total(XS) == 14
            assert module.call().address
        assert loops.run() == 1

    def test_unwritable(self, loops, monkeypatch, tmp_path):
        refuse(monkeypatch, tmp_path)
        module = loops.load()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(RuntimeWarning, match="cannot be written"):
                module.total(XS)
            for _ in range(2):
                assert module.total(XS) == 14
            assert module.call().address

    def test_unwritable_by_its_address(self, loops, monkeypatch, tmp_path):
        refuse(monkeypatch, tmp_path)
        module = loops.load()
        with pytest.raises(RuntimeWarning, match="cannot be written"):
            module.call()
        assert module.call().address


def test_no_loop_has_numbas_own_cache():
    """It would end the program where there is no place for it."""
    own = {"njit", "jit", "cfunc", "vectorize", "guvectorize", "stencil", "jit_module"}
    files = list(Path(lowerconv.__file__).parent.rglob("*.py"))
    assert len(files) > 100
    for file in files:
        if file.name == "compiled.py":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("numba"):
                assert not own & {each.name for each in node.names}, file
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "numba" or node.attr not in own, file


def test_processes_compile_at_once(loops, tmp_path):
    code = f"""
import warnings
warnings.simplefilter("error")
from pathlib import Path
import numpy as np
from lowerconv.codegen import compiled
compiled.source_hash = lambda module: "the same"
compiled._CONFIG.CACHE_DIR = ""
import importlib.util
for turn in range(3):
    spec = importlib.util.spec_from_file_location("loops", {str(loops.file)!r})
    module = sys.modules["loops"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.total(np.array([1.0, 2.0, 4.0])) == 14
print("right")
"""
    assert run_together(3, code) == ["right\n"] * 3
    assert len(kept(loops.beside)) == 2
    assert loops.run() == 1
    assert len(list(loops.beside.glob(".*.partial"))) == 0


def test_without_numbas_compiler():
    code = """
import numpy as np, lowerconv as lc
x, w = np.ones((1, 1, 4, 4), "f4"), np.ones((1, 1, 3, 3), "f4")
for algorithm in lc.algorithms():
    try:
        lc.conv2d(x, w, algorithm=algorithm)
    except RuntimeError as error:
        assert "NUMBA_DISABLE_JIT is set" in str(error), error
    else:
        raise AssertionError(algorithm)
print("refused")
"""
    assert python("-c", code, NUMBA_DISABLE_JIT="1") == "refused"


def test_the_first_convolution_does_not_load_scipy():
    """Which takes as long as all else that numba loads; where BLAS is called it is there."""
    code = """
import sys
import numba, numpy as np, lowerconv as lc
x, w = np.ones((1, 2, 5, 5), np.float32), np.ones((3, 2, 3, 3), np.float32)
right = lc.conv2d(x, w, algorithm="fused")
print("scipy.linalg" in sys.modules)
print(numba.njit(lambda a, b: a @ b)(np.eye(2), np.eye(2)).sum())
print(np.array_equal(lc.conv2d(x, w, algorithm="lowering"), right))
"""
    assert python("-c", code).split() == ["False", "2.0", "True"]


def test_a_second_process_compiles_nothing(tiny_fashion, tmp_path):
    """The names of files hold nothing that another process would write in another way."""
    code = f"""
import numba.core.event as event
compiled = []
class Listener(event.Listener):
    def on_start(self, e): compiled.append(e.data["dispatcher"].__qualname__)
    def on_end(self, e): pass
event.register("numba:compile", Listener())
import sys
from lowerconv.cli.main import main
common = ["train", "--data", "fashion-mnist:" + {str(tiny_fashion)!r}, "--epochs", "1"]
for number, more in enumerate((
    ["--model", "lenet", "--augment", "crop,rotate,flip", "--ema", "0.9"],
    ["--model", "lenet", "--optimizer", "adamw", "--accumulate", "2"],
    ["--model", "lenet", "--optimizer", "lars", "--label-smoothing", "0.1"],
)):
    assert main([*common, *more, "--batch", "50", "--out", sys.argv[1] + str(number)]) == 0
print("compiled:", *compiled)
"""
    python("-c", code, str(tmp_path / "one"))
    assert python("-c", code, str(tmp_path / "two")).splitlines()[-1] == "compiled:"


FIRST_CALLER = """
import numpy as np
from lowerconv.codegen.compiled import internal, njit

@internal
def sum_of(v):
    total = np.float32(0)
    for i in range(v.size):
        total += v[i]
    return total

@njit(fastmath={"reassoc"})
def loosely(v):
    return sum_of(v)

@njit()
def strictly(v):
    return sum_of(v)

v = np.random.default_rng(0).standard_normal(100_003).astype(np.float32)
expected = np.float32(0)
for number in v:
    expected += number
print(loosely(v) == expected, strictly(v) == expected)
"""


def test_what_a_caller_may_reorder_is_not_reordered_in_what_it_calls():
    # numba's own functions take `fastmath` from the caller that is compiled first.
    assert python("-c", FIRST_CALLER) == "True True"
