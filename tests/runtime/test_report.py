"""The machine report: its form on this machine, and its parts on machines made up."""

import json
import subprocess
import sys
import textwrap
import types

import pytest

from lowerconv.machine import mpi as mpi_module
from lowerconv.machine.mpi import GET_MPI
from lowerconv.machine.topology import Cache, NumaNode, Package, Topology
from lowerconv.runtime import report as report_module
from lowerconv.runtime.report import machine_report
from lowerconv.version import __version__

KIB = 1024


@pytest.fixture(scope="module")
def this_machine():
    return machine_report()


class TestForm:
    def test_is_plain_data(self, this_machine):
        assert json.loads(json.dumps(this_machine)) == this_machine

    def test_sections(self, this_machine):
        assert list(this_machine) == [
            *("cpu", "cores", "frequency", "load", "caches", "numa_nodes", "memory", "blas"),
            *("mpi", "versions", "kept_files", "environment", "warnings"),
        ]

    def test_cores_add_up(self, this_machine):
        cores = this_machine["cores"]
        online, usable = cores["online"], cores["usable"]
        assert set(usable["cpus"]) <= set(online["cpus"])
        assert 1 <= usable["cores"] <= usable["smt_threads"] == len(usable["cpus"])
        assert usable["cores"] <= online["cores"]
        assert 1 <= cores["usable_threads"] <= usable["cores"]
        nodes = this_machine["numa_nodes"]
        assert sorted(cpu for node in nodes for cpu in node["cpus"]) == usable["cpus"]
        assert sum(node["cores"] for node in nodes) == usable["cores"] == len(usable["siblings"])
        assert sorted(cpu for core in usable["siblings"] for cpu in core) == usable["cpus"]

    def test_the_first_two_cache_levels_are_always_there(self, this_machine):
        sizes = {c["level"]: c["bytes"] for c in this_machine["caches"]}
        assert sizes[1] > 0
        assert sizes[2] > 0

    def test_every_blas_has_its_loader(self, this_machine):
        # A machine may have none that can be listed (Accelerate, the reference BLAS), but NumPy's
        # and SciPy's must have been loaded before the list is made.
        assert "scipy.linalg.cython_blas" in sys.modules
        assert all(b["loaded_by"] in ("numpy", "scipy", "other") for b in this_machine["blas"])

    def test_versions(self, this_machine):
        assert this_machine["versions"]["lowerconv"] == __version__
        assert this_machine["versions"]["python"] == sys.version.split()[0]

    def test_package_that_is_not_installed_has_no_version(self, monkeypatch):
        def version(package):
            raise report_module.PackageNotFoundError(package)

        monkeypatch.setattr(report_module, "version", version)
        assert machine_report()["versions"]["mpi4py"] is None

    def test_settings_of_the_libraries(self, monkeypatch):
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        monkeypatch.setenv("SECRET_OMP_", "x")
        environment = machine_report()["environment"]
        assert environment["OMP_NUM_THREADS"] == "3"
        assert "SECRET_OMP_" not in environment

    def test_where_compiled_code_is_kept(self, monkeypatch, tmp_path):
        monkeypatch.setenv("LOWERCONV_CACHE_DIR", str(tmp_path / "cache"))
        monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
        kept = machine_report()["kept_files"]
        assert kept == {"directory": str(tmp_path / "cache"), "refused": {}}
        (tmp_path / "cache").touch()
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache" / "below"))
        report = machine_report()
        assert list(report["kept_files"]["refused"]) == ["LOWERCONV_CACHE_DIR", "NUMBA_CACHE_DIR"]
        assert all(
            any(f"Set {variable} to a directory" in warning for warning in report["warnings"])
            for variable in ("LOWERCONV_CACHE_DIR", "NUMBA_CACHE_DIR")
        )

    def test_neither_loads_nor_initialises_mpi(self):
        code = (
            "import sys; from lowerconv.runtime.report import machine_report; machine_report();"
            "sys.exit('mpi4py.MPI' in sys.modules)"
        )
        assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0


class TestCaches:
    def test_equal_ones_are_described_once(self, monkeypatch):
        cores = ((0,), (1,), (2,))
        little = [Cache(1, "data", 32 * KIB, core) for core in cores[:2]]
        big = [Cache(1, "data", 64 * KIB, cores[2])]
        shared = [Cache(2, "unified", 1024 * KIB, (0, 1, 2))]
        found = Topology(
            packages=(Package(0, (0, 1, 2)),),
            numa_nodes=(NumaNode(0, (0, 1, 2)),),
            cores=cores,
            caches=(*little, *big, *shared),
        )
        monkeypatch.setattr(report_module, "read_topology", lambda usable=None: found)
        rows = [
            (c["level"], c["bytes"] // KIB, c["shared_by"], c["count"], c["assumed"])
            for c in machine_report()["caches"]
        ]
        assert rows == [(1, 32, 1, 2, False), (1, 64, 1, 1, False), (2, 1024, 3, 1, False)]

    def test_assumed_ones_are_marked(self, monkeypatch):
        bare = Topology((Package(0, (0,)),), (NumaNode(0, (0,)),), ((0,),), ())
        monkeypatch.setattr(report_module, "read_topology", lambda usable=None: bare)
        rows = [(c["level"], c["bytes"] // KIB, c["assumed"]) for c in machine_report()["caches"]]
        assert rows == [(1, 32, True), (2, 256, True), (3, 2048, True)]


class TestBlas:
    PATHS = (
        ("/v/site-packages/numpy.libs/libscipy_openblas64_-1.so", "numpy"),
        ("/v/site-packages/scipy.libs/libscipy_openblas-2.so", "scipy"),
        ("/v/site-packages/numpy/.dylibs/libscipy_openblas64_.dylib", "numpy"),
        ("/home/numpy-user/lib/libopenblas.so.0", "other"),
        ("/usr/lib/x86_64-linux-gnu/libblis.so.4", "other"),
    )

    def test_loader_is_told_by_the_path(self, monkeypatch):
        def library(path, api="blas"):
            return {
                "user_api": api,
                "internal_api": "openblas",
                "filepath": path,
                "version": None,
                "num_threads": 1,
            }

        found = [library(path) for path, _ in self.PATHS] + [library("/libgomp.so.1", "openmp")]
        monkeypatch.setattr("threadpoolctl.threadpool_info", lambda: found)
        blas = machine_report()["blas"]
        assert {b["path"]: b["loaded_by"] for b in blas} == dict(self.PATHS)
        assert all(b["kernels"] is None for b in blas)


class TestMpi:
    """Each test puts an mpi4py of its own on the module search path."""

    @pytest.fixture
    def mpi_of(self, tmp_path, monkeypatch):
        monkeypatch.delitem(sys.modules, "mpi4py.MPI", raising=False)

        def ask(mpi_source, init_source="class rc: initialize = True"):
            (tmp_path / "mpi4py").mkdir()
            (tmp_path / "mpi4py/__init__.py").write_text(textwrap.dedent(init_source))
            (tmp_path / "mpi4py/MPI.py").write_text(textwrap.dedent(mpi_source))
            monkeypatch.syspath_prepend(tmp_path)
            return machine_report()

        return ask

    def test_found(self, mpi_of):
        mpi = mpi_of(
            r"""
            print("a message of the library's own")
            import mpi4py
            assert mpi4py.rc.initialize is False
            def Get_library_version(): return "Some MPI\t7\nconfigured with: everything\n\0"
            def Get_version(): return (4, 1)
            """
        )["mpi"]
        assert (mpi["state"], mpi["library"], mpi["standard"]) == ("found", "Some MPI 7", "4.1")
        assert mpi["problem"] is None

    @pytest.mark.parametrize(
        "missing",
        ["RuntimeError('cannot load\\nMPI library')", "ImportError('libmpi.so.40: not there')"],
    )
    def test_runtime_missing(self, mpi_of, missing):
        found = mpi_of(f"raise {missing}")
        assert (found["mpi"]["state"], found["mpi"]["library"]) == ("missing", None)
        assert GET_MPI in found["mpi"]["problem"]
        assert "\n" not in found["mpi"]["problem"]
        assert found["mpi"]["problem"] in found["warnings"]

    def test_mpi4py_missing(self, mpi_of):
        found = mpi_of("", "raise ModuleNotFoundError(\"No module named 'mpi4py'\")")
        assert found["mpi"]["state"] == "missing"
        assert "No module named 'mpi4py'" in found["mpi"]["problem"]

    @pytest.mark.parametrize(
        "source", ["import os; os._exit(139)", "raise SystemExit(1)", "raise OSError", "1 / 0"]
    )
    def test_runtime_that_ends_the_process(self, mpi_of, source):
        found = mpi_of(source)
        assert (found["mpi"]["state"], found["mpi"]["library"]) == ("unknown", None)
        assert "status" in found["mpi"]["problem"]
        assert GET_MPI in found["mpi"]["problem"]

    def test_runtime_that_hangs(self, mpi_of, monkeypatch):
        monkeypatch.setattr(mpi_module, "_MPI_PROBE_SECONDS", 0.2)
        found = mpi_of("import time; time.sleep(60)")
        assert found["mpi"]["state"] == "unknown"
        assert "more than 0.2 s" in found["mpi"]["problem"]

    def test_runtime_that_says_nothing(self, mpi_of):
        assert mpi_of("import os; os._exit(0)")["mpi"]["state"] == "unknown"

    def test_no_process_can_be_started(self, monkeypatch, tmp_path):
        monkeypatch.delitem(sys.modules, "mpi4py.MPI", raising=False)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        mpi = machine_report()["mpi"]
        assert (mpi["state"], mpi["mpiexec_beside_python"]) == ("unknown", None)

    def test_one_that_is_loaded_is_asked_itself(self, monkeypatch):
        loaded = types.SimpleNamespace(
            Get_library_version=lambda: "Loaded MPI 1", Get_version=lambda: (3, 1)
        )
        monkeypatch.setitem(sys.modules, "mpi4py.MPI", loaded)
        monkeypatch.setattr(subprocess, "run", None)
        mpi = machine_report()["mpi"]
        assert (mpi["library"], mpi["standard"]) == ("Loaded MPI 1", "3.1")
