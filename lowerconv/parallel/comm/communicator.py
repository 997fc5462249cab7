"""The processes that train together, and what they ask of each other; here one alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv.copying import not_copied
from lowerconv.machine.cgroup import cpu_quota
from lowerconv.machine.placement import divide
from lowerconv.machine.topology import Topology, online_cpus, read_topology, usable_cpus
from lowerconv.machine.variables import OWN, requested
from lowerconv.parallel.comm.engine import Engine
from lowerconv.parallel.comm.status import Status
from lowerconv.parallel.comm.waiting import Patience

ELASTIC = "Open MPI 5 and mpiexec --with-ft ulfm"  # what it takes


class MPIError(RuntimeError):
    """MPI is missing or not the one that started this process; the message says what to do."""


@not_copied("every process has its own, `Communicator()` or `lowerconv.parallel.world()`")
class Communicator:
    """One process alone; also what all communicators offer.

    Attributes
    ----------
    rank, ranks : int
    hosts : list of list of int
        The ranks of each host.
    patience : Patience or None
        Who is told when waiting for other ranks takes long.
    status : Status
        What this rank does.
    deserted : bool
        Whether this rank has failed without the others having heard of it: it has to end them.
    spare_cpus : tuple of int or None
        Those that kernels leave alone, for threads that move messages and load data.
    cpus : tuple of int
        The CPUs of this rank: its share of those of its host, ascending.
    cores : int
        How many cores these are, or are on.
    numa_nodes : int
        Of its host, as far as the ranks there may use them.
    warnings : list of str
        What the launcher did to any of the ranks that slows all of them down, each with its cure;
        the same on every rank.
    """

    rank = 0
    ranks = 1
    patience: Patience | None = None
    spare_cpus: tuple[int, ...] | None = None
    deserted = False

    def __init__(self) -> None:
        self.status = Status()
        self.hosts = [[0]]
        self.warnings: list[str] = []
        self._take_share([usable_cpus()], 0)

    def _take_share(self, masks: list[tuple[int, ...]], rank: int) -> Topology:
        """Take this rank's share of the CPUs of its host, where the ranks may use these masks."""
        # The whole machine: in a container the kernel's list may hide CPUs that the masks have.
        host = read_topology(usable={*online_cpus(), *(cpu for mask in masks for cpu in mask)})
        self.cpus = divide(masks, rank, host)
        usable = {cpu for mask in masks for cpu in mask}
        self.numa_nodes = sum(not usable.isdisjoint(node.cpus) for node in host.numa_nodes)
        # SMT siblings are not counted: they share the core's FMA units, which one thread fills.
        self.cores = cores = sum(not set(core).isdisjoint(self.cpus) for core in host.cores)
        quota = cpu_quota()
        self._threads = cores if quota is None else max(1, min(cores, int(quota / len(masks))))
        self._neighbours = len(masks) - 1
        return host

    @property
    def threads(self) -> int:
        """How many threads this rank should use.

        One for each core of its share, at most its share of the CPU quota.  The environment
        variable ``LOWERCONV_NUM_THREADS`` sets another number for each rank.  So does
        ``OMP_NUM_THREADS``, where no ranks share this host; where some do it can only set a smaller
        one, because batch systems set it to all cores that a job has on a host.
        """
        asked = requested()
        if asked is None:
            return self._threads
        if asked.variable == OWN or not self._neighbours:
            return asked.threads
        return min(asked.threads, self._threads)

    def sum_array(self, array: np.ndarray) -> None:
        """Replace an array by its sum over all ranks, the same bits on each.

        Parameters
        ----------
        array : ndarray
            Contiguous; of the same shape and dtype on all ranks.
        """

    def sum_numbers(self, *numbers: float) -> tuple[float, ...]:
        """Return each number summed over all ranks.

        Parameters
        ----------
        *numbers : float

        Returns
        -------
        tuple of float
        """
        return numbers

    def broadcast_array(self, array: np.ndarray, root: int = 0) -> None:
        """Replace an array by that of a rank.

        Parameters
        ----------
        array : ndarray
            Contiguous; of the same shape and dtype on all ranks.
        root : int
            The rank.
        """

    def broadcast(self, value: Any) -> Any:
        """Return what rank 0 passes.

        Parameters
        ----------
        value : object
            That can be pickled; only that of rank 0 counts.

        Returns
        -------
        object
        """
        return value

    def gather(self, value: Any, patience: Patience | None = None) -> list[Any]:
        """Return what each rank passes, in order of the ranks, on every rank.

        Parameters
        ----------
        value : object
            That can be pickled.
        patience : Patience, optional
            Who is told when waiting takes long; by default that of the communicator.

        Returns
        -------
        list of object
        """
        return [value]

    def set_timeout(self, seconds: float | None) -> None:
        """Set how long to wait for a rank that makes no progress before an error is raised.

        Parameters
        ----------
        seconds : float or None
            None waits for ever.

        Raises
        ------
        MPIError
            Ranks cannot be asked whether they make progress: the MPI library lets only one thread
            call it, or the system has refused a rank the thread that would answer.
        """

    def engine(self, **options: Any) -> Engine:
        """Return an engine with a communicator of its own; all ranks call it.

        Parameters
        ----------
        **options
            ``threaded``, ``cpus`` and ``listener`` of :class:`Engine`.

        Returns
        -------
        Engine
        """
        return Engine(None, **options)

    def abort(self, cut: bool = False) -> None:
        """End all ranks at once, with a non-zero exit code; a process alone just goes on.

        Parameters
        ----------
        cut : bool
            Whether some ranks cannot be reached: then the launcher is ended too, since it may wait
            for them.
        """

    # --- going on without ranks that have died ---

    def check_elastic(self) -> None:
        """Raise an error unless ranks can go on when one dies.

        Raises
        ------
        MPIError
            The message says what that takes.
        """
        raise MPIError(f"elastic: got a process alone, expected {ELASTIC}")

    def has_lost_ranks(self, error: Exception) -> bool:
        """Return whether an error says that a rank has died, or that another has noticed it.

        Parameters
        ----------
        error : Exception

        Returns
        -------
        bool
        """
        return False

    def revoke(self) -> None:
        """Make all messages fail, on all ranks, so that no rank waits for those of a dead one."""

    def shrink(self) -> None:
        """Go on without the ranks that have died; `rank` and `ranks` are those of the others."""

    def leave(self, status: int | None = None) -> None:
        """End this process if ranks have died: MPI's own end might wait for them for ever.

        Parameters
        ----------
        status : int, optional
            Of the process; by default 1 after an exception that was not caught, else 0.
        """

    def reconnect(self) -> None:
        """Find out which ranks share hosts after `shrink`; fails when another rank dies."""

    def agree(self, well: bool) -> bool:
        """Return whether all ranks are well; all that live get the same answer.

        Parameters
        ----------
        well : bool
            Whether this one is.

        Returns
        -------
        bool
        """
        return well

    def describe(self) -> str:
        """Return the number of ranks and the MPI library, in words."""
        return "1 process"
