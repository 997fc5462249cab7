"""`lowerconv info`: what it prints about a machine made up, and that it runs on this one."""

import argparse
import json
import os
import subprocess
import sys

import pytest

from lowerconv.cli import info

KIB = 1024
WARNING = 'No MPI (libmpi.so.40: cannot open). It needs one: pip install "lowerconv[mpi]"'
LONG_PATH = "/opt/" + "a-very-long-folder-name/" * 5 + "libopenblas.so.0"
CPUS = [*range(0, 128, 2), *range(128, 256, 2)]
REPORT = {
    "cpu": {
        "name": "Maker(R) Processor :gem: [bold] Platinum 9999 CPU @ 2.10GHz, a name of its length",
        "architecture": "x86_64",
        "instruction_set": "avx512",
        "features": ["avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512vnni", "avx512bf16"],
    },
    "cores": {
        "online": {"packages": 2, "cores": 128, "smt_threads": 256, "cpus": list(range(256))},
        "usable": {"packages": 1, "cores": 1, "smt_threads": 128, "cpus": CPUS},
        "cpu_quota": 1.5,
        "usable_threads": 1,
        "threads_in_use": 1,
    },
    "caches": [
        {
            "level": 1,
            "kind": "data",
            "bytes": 48 * KIB,
            "shared_by": 2,
            "count": 64,
            "assumed": False,
        },
        {
            "level": 2,
            "kind": "unified",
            "bytes": 256 * KIB,
            "shared_by": None,
            "count": None,
            "assumed": True,
        },
    ],
    "numa_nodes": [{"number": 0, "cpus": CPUS}],
    "memory": {"physical": None, "limit": 3 * KIB**3 // 2},
    "blas": [
        {
            "library": "openblas",
            "loaded_by": "other",
            "version": None,
            "kernels": "Haswell",
            "threads": 64,
            "path": LONG_PATH,
        },
        {
            "library": "openblas",
            "loaded_by": "numpy",
            "version": "0.3.31",
            "kernels": "SkylakeX",
            "threads": 64,
            "path": "/numpy.libs/libscipy_openblas64_.so",
        },
    ],
    "numba": {"threading_layers": ["omp", "workqueue"], "threading_layer_in_use": None},
    "mpi": {
        "state": "missing",
        "library": None,
        "standard": None,
        "problem": WARNING,
        "mpiexec_on_path": None,
        "mpiexec_beside_python": "/venv/bin/mpiexec",
    },
    "versions": {"lowerconv": "0.1.0", "python": "3.11.7", "mpi4py": None},
    "environment": {"OPENBLAS_CORETYPE": "Haswell"},
    "warnings": ["The first warning.", WARNING],
}


@pytest.fixture
def printed(monkeypatch, capsys):
    """Return a function: what `info` prints about REPORT on a terminal of some width."""
    monkeypatch.setattr(info, "machine_report", lambda: REPORT)
    parser = argparse.ArgumentParser()
    info.add_parser(parser.add_subparsers())

    def call(*options, columns=80):
        monkeypatch.setenv("COLUMNS", str(columns))
        args = parser.parse_args(["info", *options])
        assert args.func(args) == 0
        return capsys.readouterr().out

    return call


def test_json_is_the_report(printed):
    assert json.loads(printed("--json")) == REPORT


def test_fits_in_80_columns(printed):
    assert max(len(line) for line in printed().splitlines()) <= 80


def test_without_colour_when_piped(printed):
    assert "\x1b" not in printed()


@pytest.mark.parametrize("columns", [80, 60])
def test_nothing_is_cut_off(printed, columns):
    text = printed(columns=columns)
    assert "…" not in text
    # Long texts go over several lines, in their column: joined again they are all there.
    joined = "".join(text.split())
    usable = ",".join(str(cpu) for cpu in CPUS)
    for whole in (REPORT["cpu"]["name"], *REPORT["warnings"], usable):
        assert "".join(whole.split()) in joined


def test_path_of_a_library_from_elsewhere_is_all_there(printed):
    lines = printed().splitlines()
    first = next(i for i, line in enumerate(lines) if "openblas" in line)
    column = lines[first].index("/opt/")
    pieces = []
    for line in lines[first:]:
        pieces.append(line[column:].strip())
        if "".join(pieces) == LONG_PATH:
            return
    pytest.fail(f"not found: {LONG_PATH}")


@pytest.mark.parametrize(
    "line",
    [
        "CPU quota 1.5 CPUs",
        "threads in use 1",
        "L1 data 48 KiB 2 64",
        "L2 unified 256 KiB (assumed) unknown unknown",
        "physical unknown",
        "limit of this process 1.5 GiB",
        "openblas 0.3.31 SkylakeX 64 numpy",
        "available omp workqueue",
        "in use none yet",
        "library missing",
        "mpiexec on the PATH not found",
        "mpiexec beside Python /venv/bin/mpiexec",
        "mpi4py not installed",
        "OPENBLAS_CORETYPE Haswell",
        "1. The first warning.",
    ],
)
def test_says(printed, line):
    assert line in [" ".join(each.split()) for each in printed(columns=200).splitlines()]


def test_singular_and_plural(printed):
    text = printed(columns=2000)
    assert "2 packages, 128 cores, 256 SMT threads (CPU 0-255)" in text
    assert "1 package, 1 core, 128 SMT threads" in text


def test_a_healthy_machine_has_no_warnings_section(printed, monkeypatch):
    assert "Warnings" in printed()
    monkeypatch.setitem(REPORT, "warnings", [])
    assert "Warnings" not in printed()


class TestCommand:
    """The command as users start it, on this machine."""

    @staticmethod
    def output(*options):
        return subprocess.run(
            [sys.executable, "-m", "lowerconv", "info", *options],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            env={**os.environ, "COLUMNS": "80"},
        ).stdout

    def test_tables(self):
        text = self.output()
        assert max(len(line) for line in text.splitlines()) <= 80
        for section in ("Processor", "Cores", "Caches", "Memory", "BLAS", "MPI", "Versions"):
            assert section in text.splitlines()

    def test_json(self):
        report = json.loads(self.output("--json"))
        assert report["cores"]["usable_threads"] >= 1
        assert isinstance(report["warnings"], list)
