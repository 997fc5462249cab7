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
        "online": {
            **{"packages": 2, "cores": 128, "smt_threads": 256, "cpus": list(range(256))},
            "siblings": [[cpu, cpu + 128] for cpu in range(128)],
        },
        "usable": {
            **{"packages": 1, "cores": 1, "smt_threads": 128, "cpus": CPUS},
            "siblings": [[0, 128], [2, 130], [4]],
        },
        "cpu_quota": 1.5,
        "usable_threads": 1,
        "threads_in_use": 1,
        "threads_source": "OMP_NUM_THREADS",
        "affinity": {"policy": "spread", "places": [2, 130, 4], "refused": None},
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
    "frequency": {"drivers": ["acpi-cpufreq"], "governors": ["powersave", "schedutil"]},
    "load": {"average": 12.345, "ranks_on_host": None},
    "numa_nodes": [
        {"number": 0, "packages": [1], "cores": 64, "cpus": CPUS, "memory": 96 * KIB**3},
        {"number": 8, "packages": [0, 1], "cores": 1, "cpus": [7], "memory": None},
    ],
    "memory": {"physical": None, "limit": 3 * KIB**3 // 2, "huge_pages": "madvise"},
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
        "threads in use 1 (from OMP_NUM_THREADS)",
        "affinity spread: thread by thread on CPU 2, 130, 4",
        "L1 data 48 KiB 2 64",
        "L2 unified 256 KiB (assumed) unknown unknown",
        "physical unknown",
        "limit of this process 1.5 GiB",
        "openblas 0.3.31 SkylakeX 64 numpy",
        "SMT siblings 1 on 1 core, 2 on 2 cores (CPU 0 and 128 are one)",
        "load of the last minute 12.35",
        "frequency governor powersave, schedutil (driver acpi-cpufreq)",
        "transparent huge pages madvise",
        "8 0-1 1 unknown 7",
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


@pytest.mark.parametrize(
    ("policy", "places", "refused", "text"),
    [
        ([0, 2, 3], None, None, "CPU 0,2-3: threads are not bound"),
        ("auto", None, "no", "auto, but the kernel refuses to bind threads: no"),
    ],
)
def test_says_whether_threads_are_bound(policy, places, refused, text):
    assert info._affinity({"policy": policy, "places": places, "refused": refused}) == text


def test_singular_and_plural(printed):
    text = printed(columns=2000)
    assert "2 packages, 128 cores, 256 SMT threads (CPU 0-255)" in text
    assert "1 package, 1 core, 128 SMT threads" in text


def test_a_healthy_machine_has_no_warnings_section(printed, monkeypatch):
    assert "Warnings" in printed()
    monkeypatch.setitem(REPORT, "warnings", [])
    assert "Warnings" not in printed()


def test_what_is_not_known(printed, monkeypatch):
    monkeypatch.setitem(REPORT, "frequency", {"drivers": [], "governors": []})
    monkeypatch.setitem(REPORT, "load", {"average": None, "ranks_on_host": 4})
    lines = [" ".join(line.split()) for line in printed().splitlines()]
    assert "frequency governor unknown" in lines
    assert "load of the last minute unknown" in lines
    assert "ranks on this host 4" in lines


def test_no_smt(printed, monkeypatch):
    monkeypatch.setitem(REPORT["cores"]["usable"], "siblings", [[0], [1]])
    assert "SMT siblings none" in [" ".join(line.split()) for line in printed().splitlines()]


class TestRanks:
    """Under mpiexec: rank 0 tells everything, the others what differs."""

    def test_first(self, printed, monkeypatch):
        monkeypatch.setenv("PMI_RANK", "0")
        assert "Processor" in printed()

    def test_others(self, printed, monkeypatch):
        monkeypatch.setenv("PMI_RANK", "3")
        (line,) = printed().splitlines()
        assert line.startswith("rank 3 on ")
        assert "(CPU " in line

    def test_others_say_nothing_in_json(self, printed, monkeypatch):
        monkeypatch.setenv("PMI_RANK", "3")
        assert printed("--json") == ""

    def test_under_mpiexec(self, mpiexec):
        run = mpiexec(3, "-m", "lowerconv", "info")
        assert run.returncode == 0, run.stderr
        assert run.stdout.splitlines().count("Processor") == 1  # the title of a part
        assert all(run.stdout.count(f"rank {rank} on ") == 1 for rank in (1, 2))

    def test_json_under_mpiexec(self, mpiexec):
        run = mpiexec(2, "-m", "lowerconv", "info", "--json")
        assert run.returncode == 0, run.stderr
        report = json.loads(run.stdout)
        assert report["load"]["ranks_on_host"] in (None, 2)  # Open MPI and MPICH tell


class TestCommand:
    """The command as users start it, on this machine."""

    @staticmethod
    def output(*options):
        return subprocess.run(
            [sys.executable, "-m", "lowerconv", "info", *options],
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
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
