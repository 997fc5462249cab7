"""What launchers tell; what is installed is tested with the report."""

import pytest

from lowerconv.machine.mpi import (
    LAUNCHED_ON_HOST,
    LAUNCHED_RANK,
    LAUNCHED_RANKS,
    launched_on_host,
    launched_rank,
    launched_ranks,
)

MPICH = {"PMI_RANK": "2", "PMI_SIZE": "5", "MPI_LOCALNRANKS": "3"}
OPEN_MPI = {
    **{"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "5"},
    **{"OMPI_COMM_WORLD_LOCAL_SIZE": "3", "PMIX_RANK": "2"},
}


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        pytest.param(MPICH, (2, 5, 3), id="mpich"),
        pytest.param(OPEN_MPI, (2, 5, 3), id="openmpi"),
        pytest.param({"PMIX_RANK": "7"}, (7, None, None), id="pmix"),
        pytest.param({}, (None, None, None), id="none"),
        pytest.param({"PMI_RANK": "", "PMI_SIZE": "-1"}, (None, None, None), id="garbage"),
    ],
)
def test_what_launchers_tell(monkeypatch, environment, told):
    for name in (*LAUNCHED_RANK, *LAUNCHED_RANKS, *LAUNCHED_ON_HOST):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (launched_rank(), launched_ranks(), launched_on_host()) == told
