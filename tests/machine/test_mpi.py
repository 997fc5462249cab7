"""What launchers tell; what is installed is tested with the report."""

import pytest

from lowerconv.machine.mpi import (
    LAUNCHED_ON_HOST,
    LAUNCHED_RANK,
    LAUNCHED_RANKS,
    launched_on_host,
    launched_rank,
    launched_ranks,
    launcher,
)

MPICH = {"PMI_RANK": "2", "PMI_SIZE": "5", "MPI_LOCALNRANKS": "3"}
OPEN_MPI = {
    **{"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "5"},
    **{"OMPI_COMM_WORLD_LOCAL_SIZE": "3", "PMIX_RANK": "2"},
}
SLURM_STEP = ("SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE", "SLURM_PROCID", "SLURM_NODEID")
# In the script of a job Slurm says SLURM_PROCID=0 and SLURM_NTASKS, and nothing of a step.
SCRIPT = {"SLURM_PROCID": "0", "SLURM_NTASKS": "5", "SLURM_NODEID": "0"}
STEP = {
    **{"SLURM_PROCID": "4", "SLURM_NODEID": "1", "SLURM_NTASKS": "5"},
    **{"SLURM_STEP_NUM_TASKS": "5", "SLURM_STEP_TASKS_PER_NODE": "3,2"},
}
SRUN_PMIX = STEP | {"PMIX_RANK": "4", "PMIX_NAMESPACE": "slurm.pmix.77.0"}
SRUN_PMI2 = STEP | {"PMI_RANK": "4", "PMI_SIZE": "5"}
ALONE = STEP | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}
# What mpiexec starts in a job finds the variables of the step of its daemons, one on each host.
DAEMONS = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_NODEID": "1"}


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        pytest.param(MPICH, (2, 5, 3), id="mpich"),
        pytest.param(OPEN_MPI, (2, 5, 3), id="openmpi"),
        pytest.param({"PMIX_RANK": "7"}, (7, None, None), id="pmix"),
        pytest.param({}, (None, None, None), id="none"),
        pytest.param({"PMI_RANK": "", "PMI_SIZE": "-1"}, (None, None, None), id="garbage"),
        pytest.param(SCRIPT, (None, None, None), id="script_of_a_slurm_job"),
        pytest.param(ALONE, (None, None, None), id="srun_of_one_task"),
        pytest.param(SRUN_PMIX, (4, 5, 2), id="srun_pmix"),
        pytest.param(SRUN_PMI2, (4, 5, 2), id="srun_pmi2"),
        pytest.param(STEP, (4, 5, 2), id="srun_without_mpi"),
        pytest.param(DAEMONS | {"SLURM_PROCID": "1"} | MPICH, (2, 5, 3), id="mpich_in_slurm"),
        pytest.param(DAEMONS | {"SLURM_PROCID": "1"} | OPEN_MPI, (2, 5, 3), id="openmpi_in_slurm"),
        pytest.param(
            DAEMONS | {"PMIX_RANK": "3", "PMIX_NAMESPACE": "prterun-n0-12@1"},
            (3, None, None),
            id="prterun_in_slurm",
        ),
    ],
)
def test_what_launchers_tell(monkeypatch, environment, told):
    say(monkeypatch, environment)
    assert (launched_rank(), launched_ranks(), launched_on_host()) == told


@pytest.mark.parametrize(
    ("per_node", "counts"),
    [
        ("4", [4]),
        ("2(x3)", [2, 2, 2]),
        ("3(x2),1,10(x2)", [3, 3, 1, 10, 10]),
        ("1", [1, None]),
        ("", [None]),
    ],
)
def test_slurm_counts_by_node(monkeypatch, per_node, counts):
    for node, count in enumerate(counts):
        step = {"SLURM_STEP_TASKS_PER_NODE": per_node, "SLURM_NODEID": str(node)}
        say(monkeypatch, SRUN_PMIX | step)
        assert launched_on_host() == count


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        (MPICH, "mpiexec"),
        (DAEMONS | OPEN_MPI, "mpiexec"),
        (DAEMONS | MPICH, "mpiexec"),
        ({}, "mpiexec"),
        (SRUN_PMI2, "srun"),
        (SRUN_PMIX, "srun"),
        (STEP, "srun"),
    ],
)
def test_who_started_it(monkeypatch, environment, name):
    say(monkeypatch, environment)
    assert launcher() == name


def say(monkeypatch, environment):
    for name in (*LAUNCHED_RANK, *LAUNCHED_RANKS, *LAUNCHED_ON_HOST, *SLURM_STEP, "PMIX_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
