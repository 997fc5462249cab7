"""The processes that train together: one alone, or the ranks of an MPI job.

MPI is initialised here, on request, and nowhere else: `import lowerconv` never does.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from lowerconv.machine.report import GET_MPI
from lowerconv.machine.topology import usable_cpus, usable_threads

# What launchers tell the processes they start (MPICH and its kin, Open MPI, any with PMIx).
LAUNCHED_RANK = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")
LAUNCHED_RANKS = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")

# Seconds that the launcher is given to pass on what a rank wrote before it ends the job: MPICH's
# drops what is still in its pipes.
LAST_WORDS = 1.0

T = TypeVar("T")


class MPIError(RuntimeError):
    """MPI is missing or not the one that started this process; the message says what to do."""


class Communicator:
    """One process alone; also what all communicators offer.

    Attributes
    ----------
    rank, ranks : int
    threads : int
        How many threads this rank should use: its share of the cores of its host.
    """

    rank = 0
    ranks = 1

    def __init__(self) -> None:
        self.threads = usable_threads()

    def sum_array(self, array: np.ndarray) -> None:
        """Replace a contiguous array by its sum over all ranks, the same bits on each."""

    def sum_numbers(self, *numbers: float) -> tuple[float, ...]:
        """Return each number summed over all ranks."""
        return numbers

    def broadcast_array(self, array: np.ndarray) -> None:
        """Replace a contiguous array by that of rank 0."""

    def broadcast(self, value: Any) -> Any:
        """Return what rank 0 passes."""
        return value

    def gather(self, value: Any) -> list[Any]:
        """Return what each rank passes, in order of the ranks, on every rank."""
        return [value]

    def abort(self) -> None:
        """End all ranks at once, with a non-zero exit code; a process alone just goes on."""

    def describe(self) -> str:
        """Return who is there, in words."""
        return "1 process"


class MPICommunicator(Communicator):
    """The ranks of ``mpiexec``, through ``MPI.COMM_WORLD``."""

    def __init__(self) -> None:
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise MPIError(f"MPI: cannot be loaded ({error}); get it with: {GET_MPI}") from None
        self._mpi = MPI
        self._world = MPI.COMM_WORLD
        self.rank, self.ranks = self._world.Get_rank(), self._world.Get_size()
        told = next((os.environ[name] for name in LAUNCHED_RANKS if name in os.environ), "")
        if told.isdigit() and int(told) != self.ranks:
            raise MPIError(
                f"MPI: mpiexec started {told} processes, but the MPI library of mpi4py "
                f"({MPI.Get_library_version().splitlines()[0]}) sees {self.ranks}: they come from "
                "different MPI installations; use the mpiexec of the same one"
            )
        host = self._world.Split_type(MPI.COMM_TYPE_SHARED)
        masks = host.allgather(usable_cpus())
        host.Free()
        # Ranks that share their CPUs divide them; ranks that the launcher bound have their own.
        neighbours = sum(bool(set(mask) & set(usable_cpus())) for mask in masks)
        self.threads = max(1, usable_threads() // neighbours)

    def sum_array(self, array: np.ndarray) -> None:
        """Replace a contiguous array by its sum over all ranks, the same bits on each."""
        self._world.Allreduce(self._mpi.IN_PLACE, array, op=self._mpi.SUM)

    def sum_numbers(self, *numbers: float) -> tuple[float, ...]:
        """Return each number summed over all ranks."""
        total = np.array(numbers, np.float64)
        self.sum_array(total)
        return tuple(total)

    def broadcast_array(self, array: np.ndarray) -> None:
        """Replace a contiguous array by that of rank 0."""
        self._world.Bcast(array)

    def broadcast(self, value: Any) -> Any:
        """Return what rank 0 passes."""
        return self._world.bcast(value)

    def gather(self, value: Any) -> list[Any]:
        """Return what each rank passes, in order of the ranks, on every rank."""
        return self._world.allgather(value)

    def abort(self) -> None:
        """End all ranks at once, with a non-zero exit code."""
        sys.stderr.flush()
        sys.stdout.flush()
        time.sleep(LAST_WORDS)
        self._world.Abort(1)

    def describe(self) -> str:
        """Return who is there, in words."""
        library = self._mpi.Get_library_version().split("\n")[0].split(",")[0].strip("\x00 ")
        return f"{self.ranks} ranks ({' '.join(library.split())})"


def launched_rank() -> int | None:
    """Return the rank that an MPI launcher gave this process, None if none started it."""
    told = next((os.environ[name] for name in LAUNCHED_RANK if name in os.environ), "")
    return int(told) if told.isdigit() else None


def world() -> Communicator:
    """Return the ranks of this job: MPI's where a launcher started us, else this process alone.

    Raises
    ------
    MPIError
        A launcher started this process, but its MPI cannot be used.
    """
    return Communicator() if launched_rank() is None else MPICommunicator()


def together(communicator: Communicator, action: Callable[[], T]) -> T:
    """Return ``action()``, or raise on all ranks if it fails on any.

    For what comes before the work: without it, a rank that cannot open its files would leave the
    others waiting for it.

    Raises
    ------
    Exception
        This rank's own, else the first rank's, as a RuntimeError that names the rank.
    """
    failure: Exception | None = None
    try:
        result = action()
    except Exception as error:
        failure = error
    messages = communicator.gather(None if failure is None else str(failure))
    if failure is not None:
        raise failure
    for rank, message in enumerate(messages):
        if message is not None:
            raise RuntimeError(f"rank {rank}: {message}")
    return result
