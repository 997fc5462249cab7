"""One process alone, and mistakes in how ranks are started."""

import os
import subprocess
import sys

import numpy as np
import pytest

from lowerconv.data.loader import share
from lowerconv.machine.topology import usable_cpus, usable_threads
from lowerconv.parallel import Communicator, together, world

from ...conftest import clean_environment


def test_a_process_alone_is_rank_0_of_1(monkeypatch):
    for name in ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_PROCID", "0")  # as in the script of a job
    alone = world()
    assert type(alone) is Communicator
    assert (alone.rank, alone.ranks) == (0, 1)
    assert set(alone.cpus) <= set(usable_cpus())
    assert alone.threads == usable_threads()
    assert alone.warnings == []
    array = np.arange(3.0)
    alone.sum_array(array)
    assert array.tolist() == [0, 1, 2]
    assert alone.sum_numbers(1, 2.5) == (1, 2.5)
    assert alone.gather("a") == ["a"]
    assert alone.broadcast("a") == "a"
    assert together(alone, lambda: 3) == 3
    with pytest.raises(KeyError):
        together(alone, lambda: {}["x"])


def test_importing_never_initialises_mpi():
    code = (
        "import sys, lowerconv, lowerconv.nn, lowerconv.train, lowerconv.cli.main\n"
        "assert 'mpi4py.MPI' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("missing", ["runtime", "mpi4py"])
def test_missing_mpi_is_told_in_one_line(tmp_path, missing):
    """A launcher's variables are there, but no MPI library can be loaded."""
    package = tmp_path / "mpi4py"
    package.mkdir()
    if missing == "runtime":
        (package / "__init__.py").write_text("")
        (package / "MPI.py").write_text("raise RuntimeError('cannot load MPI library')")
    else:
        (package / "__init__.py").write_text("raise ImportError('no module named mpi4py')")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "PMI_RANK": "0", "PMI_SIZE": "2"}
    run = subprocess.run(
        [sys.executable, "-m", "lowerconv", "train", "--epochs", "1"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 1
    assert len(run.stderr.splitlines()) == 1
    assert 'pip install "lowerconv[mpi]"' in run.stderr


@pytest.mark.parametrize("rank", [0, 1])
def test_tasks_of_srun_that_do_not_find_each_other(tmp_path, rank):
    """Each would train alone, and all of them in one directory."""
    step = {"SLURM_PROCID": str(rank), "SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": "77"}
    run = subprocess.run(
        [sys.executable, "-m", "lowerconv", "train", "--out", "run"],
        env=clean_environment() | step,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 1
    assert not (tmp_path / "run").exists()
    if rank:
        assert run.stderr == ""
    else:
        (line,) = run.stderr.splitlines()
        assert line.startswith("lowerconv: MPI: srun started 2 processes, but the MPI library of")
        assert "use srun --mpi=pmix with Open MPI, --mpi=pmi2 with MPICH" in line


@pytest.mark.parametrize("count", [0, 1, 2, 7, 64, 65])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8])
def test_shares_cover_everything_once_and_evenly(count, ranks):
    shares = [share(count, rank, ranks) for rank in range(ranks)]
    assert [i for part in shares for i in part] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
