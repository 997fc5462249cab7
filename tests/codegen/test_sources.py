"""What compiled code depends on: an edit makes anew what it may change, and nothing else."""

import ast
import shutil
from pathlib import Path

import numpy as np
import pytest

import lowerconv
from lowerconv.codegen import fork_join, jit, packing, sources, transforms
from lowerconv.codegen.depthwise import PlaneKernel
from lowerconv.codegen.depthwise_in_place import GradientInPlace
from lowerconv.codegen.depthwise_small import SmallPlaneKernel
from lowerconv.codegen.isa import host_isa
from lowerconv.codegen.microkernel import Microkernel
from lowerconv.machine.disk_cache import cache_directory

PACKAGE = Path(lowerconv.__file__).parent
ISA, DTYPE = host_isa(), np.dtype("float32")


def forget():
    """Know as little of sources as a new process does."""
    sources._source.cache_clear()
    sources.source_hash.cache_clear()


# A package, and what its modules import.
FILES = {
    "__init__": "from lowerconv.loops import sum",
    "version": "",
    "loops": "from lowerconv.parts import (\n    one,\n    two as other,\n)\nimport os\n",
    "parts/__init__": "",
    "parts/one": "from lowerconv.parts.sizes import WIDTH\n",
    "parts/two": "    from lowerconv.version import __version__\n",
    "parts/three": "",
    "parts/sizes": "WIDTH = 8\n",
}


class TestSources:
    @pytest.fixture
    def root(self, tmp_path, monkeypatch):
        root = tmp_path / "lowerconv"
        (root / "parts").mkdir(parents=True)
        for name, text in FILES.items():
            (root / f"{name}.py").write_text(text)
        monkeypatch.setattr(sources, "_ROOT", root)
        yield root
        forget()

    @staticmethod
    def hashed(module="lowerconv.loops", package="lowerconv"):
        forget()
        return sources.source_hash(module, package)

    def test_all_that_is_imported_counts(self, root):
        before = self.hashed()
        assert before == self.hashed()
        for name in FILES:
            file = root / f"{name}.py"
            file.write_text(FILES[name] + "# edited\n")
            counts = name in ("loops", "parts/__init__", "parts/one", "parts/two", "parts/sizes")
            assert (self.hashed() != before) == counts, name
            file.write_text(FILES[name])
        assert self.hashed() == before

    def test_imports_from_a_package_inside(self, root):
        inner = "lowerconv.parts"
        before = {name: self.hashed(name, inner) for name in (f"{inner}.one", "lowerconv.loops")}
        assert before["lowerconv.loops"] is None
        (root / "parts" / "one.py").write_text("from lowerconv.version import __version__\n")
        edited = self.hashed(f"{inner}.one", inner)
        (root / "version.py").write_text("# edited\n")
        assert before[f"{inner}.one"] != edited == self.hashed(f"{inner}.one", inner)

    def test_circles(self, root):
        (root / "parts" / "sizes.py").write_text("from lowerconv.loops import width\n")
        assert self.hashed() is not None

    def test_byte_code_alone_tells_nothing(self, root):
        (root / "loops.py").rename(root / "loops.pyc")
        assert self.hashed() is None

    def test_of_another_package(self, root):
        assert self.hashed("numpy.linalg") is None
        assert self.hashed("__main__") is None

    def test_of_this_package(self):
        assert self.hashed("lowerconv.conv.macrokernel") != self.hashed(
            "lowerconv.conv.blas.panels"
        )


# A kernel of each generator.
KERNELS = {
    "microkernel": Microkernel(ISA, DTYPE, (0, 1), (0,), 2, 8, "rows").address,
    "depthwise": PlaneKernel(ISA, DTYPE, ((0, 0),), 9, 1, 0, 1).address,
    "depthwise_small": SmallPlaneKernel(ISA, DTYPE, ((0, 0, 0),), 2, 2, 2, 2, 1, 1, 1, 1).address,
    "depthwise_in_place": GradientInPlace(
        ISA, DTYPE, ((0, 0, ((0, 0, 0),)),), 1, 1, 1, 1, 1
    ).address,
    "packing": lambda: packing.transpose_address.__wrapped__(ISA, DTYPE),
    "transforms": lambda: transforms.planes_to_vectors_address.__wrapped__(ISA, DTYPE),
    "fork_join": lambda: fork_join.address.__wrapped__("idle"),
}
ALL = set(KERNELS)

# Which of them an edit of a file makes anew.
EDITS = {
    "codegen/emit": ALL,
    "codegen/isa": ALL,
    "codegen/jit": ALL,
    "codegen/signatures": ALL - {"fork_join"},
    "codegen/epilogue": ALL - {"packing", "fork_join"},
    "codegen/transposing": ALL,
    "codegen/pixels": {"microkernel", "depthwise", "depthwise_small"},
    "codegen/planes": {"depthwise", "depthwise_in_place"},
    "codegen/microkernel": {"microkernel"},
    "codegen/depthwise": {"depthwise"},
    "codegen/depthwise_in_place": {"depthwise_in_place"},
    "codegen/depthwise_small": {"depthwise_small"},
    "codegen/packing": {"packing"},
    "codegen/transforms": {"transforms"},
    "codegen/fork_join": {"fork_join"},
    "codegen/compiled": set(),
    "codegen/masked": set(),
    "codegen/tracing": set(),
    "machine/disk_cache": set(),
    "ops/max_pool": set(),
}


class TestEditedGenerators:
    @pytest.fixture
    def root(self, tmp_path, monkeypatch):
        """Return a copy of the package, which counts as its sources."""
        root = tmp_path / "lowerconv"
        shutil.copytree(PACKAGE, root, ignore=shutil.ignore_patterns("__pycache__"))
        monkeypatch.setattr(sources, "_ROOT", root)
        monkeypatch.setattr(jit, "_addresses", {})
        monkeypatch.setenv("LOWERCONV_CACHE_DIR", str(tmp_path / "cache"))
        yield root
        forget()
        jit._sources.cache_clear()

    @staticmethod
    def made():
        """Return the kernels that a new process makes, and does not find on the disk."""
        forget()
        jit._sources.cache_clear()
        jit._addresses.clear()
        names = set()
        for name, address in KERNELS.items():
            before = set(cache_directory().glob("kernels/*"))
            assert address()
            if set(cache_directory().glob("kernels/*")) != before:
                names.add(name)
        return names

    def test_kernels_are_made_anew_that_the_edit_may_change(self, root):
        assert self.made() == ALL
        assert self.made() == set()
        for name, expected in EDITS.items():
            with (root / f"{name}.py").open("a") as file:
                file.write("# edited\n")
            assert self.made() == expected, name
        assert self.made() == set()


def test_every_import_of_a_generator_counts():
    """One inside a function, or in another form, would not be seen."""
    for file in (PACKAGE / "codegen").glob("*.py"):
        if file.stem == "__init__":
            continue
        found = sources._source(f"lowerconv.codegen.{file.stem}").imports
        expected = []
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not [each for each in node.names if each.name.startswith("lowerconv")], file
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, file
                if node.module.partition(".")[0] == "lowerconv":
                    expected.append((node.module, [each.name for each in node.names]))
        assert sorted(found) == sorted(expected), file
