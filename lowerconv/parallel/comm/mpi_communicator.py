"""The ranks of an MPI job.

MPI is initialised here, on request, and nowhere else: `import lowerconv` never does.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import os
import pickle
import platform
import sys
import time
from typing import Any

import numpy as np

from lowerconv.machine.mpi import GET_MPI, MISMATCH, launched_rank, launched_ranks, launcher
from lowerconv.machine.topology import usable_cpus
from lowerconv.parallel.comm.binding import describe_squeezes, find_squeeze
from lowerconv.parallel.comm.communicator import ELASTIC, Communicator, MPIError
from lowerconv.parallel.comm.engine import Engine
from lowerconv.parallel.comm.link import abandon
from lowerconv.parallel.comm.status import Status
from lowerconv.parallel.comm.waiting import Patience, wait_until
from lowerconv.parallel.faults.ending import end_launcher_later, flush
from lowerconv.parallel.faults.stall import StallWatch
from lowerconv.runtime.native import warn_refused

# Seconds that the launcher is given to pass on what a rank wrote before it ends the job: MPICH's
# drops what is still in its pipes.
LAST_WORDS = 1.0
# Seconds after which a rank ends itself that its launcher has not ended: it may be out of reach.
HARD_EXIT = 5.0

FT_ENABLED = "OMPI_MCA_mpi_ft_enable"  # what --with-ft ulfm tells the ranks


class MPICommunicator(Communicator):
    """The ranks of ``mpiexec``, through ``MPI.COMM_WORLD``."""

    def __init__(self) -> None:
        self._engines: list[Engine] = []
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise MPIError(f"MPI: cannot be loaded ({error}); get it with: {GET_MPI}") from None
        self._mpi = MPI
        self._world: Any = MPI.COMM_WORLD
        self.rank, self.ranks = self._world.Get_rank(), self._world.Get_size()
        told = launched_ranks()
        if told not in (None, self.ranks):
            raise MPIError(
                f"MPI: {launcher()} started {told} processes, but the MPI library of mpi4py "
                f"({MPI.Get_library_version().splitlines()[0]}) sees {self.ranks}: "
                f"{MISMATCH[launcher()]}"
            )
        self.status = Status()
        self._place = platform.node()
        self._duplicates: list[Any] = []
        self._revoked: list[Any] = []
        neighbours = self._world.Split_type(MPI.COMM_TYPE_SHARED)  # the ranks of this host
        ranks, masks = zip(*neighbours.allgather((self.rank, usable_cpus())), strict=True)
        here = neighbours.Get_rank()
        neighbours.Free()
        host = self._take_share(list(masks), here)
        squeeze = find_squeeze(ranks, masks, host) if here == 0 else None
        found = self.gather((squeeze, ranks if here == 0 else None))
        self.hosts = sorted(list(members) for _, members in found if members)
        self.warnings = describe_squeezes(squeeze for squeeze, _ in found if squeeze)
        self.status.listen()
        self._watch()

    def _watch(self) -> None:
        """Start the thread that notices ranks that make no progress."""
        if self.ranks > 1 and self._mpi.Query_thread() == self._mpi.THREAD_MULTIPLE:
            places = self.gather(self._place)
            watch = StallWatch(self._duplicate(), self.status, places)
            if self._all_started(
                watch.refusal, "ranks that do not go on are waited for in silence"
            ):
                self.patience = watch
                atexit.register(watch.close)  # before MPI ends
            else:
                watch.close()

    def _all_started(self, refusal: Exception | None, instead: str) -> bool:
        """Return whether a thread has been started on every rank; warn where one was not."""
        started = all(self.gather(refusal is None))
        if refusal is not None:
            warn_refused(refusal, instead)
        return started

    def set_timeout(self, seconds: float | None) -> None:
        """Set how long to wait for a rank that makes no progress before an error is raised."""
        if isinstance(self.patience, StallWatch):
            self.patience.timeout = seconds
        elif seconds is not None and self.ranks > 1:
            raise MPIError(
                f"stall_timeout: got {seconds:g}, but nobody answers who is asked what it does: "
                "expected an MPI library that several threads may call (MPI_THREAD_MULTIPLE), and "
                "a limit of threads (ulimit -u) that leaves each rank one for it"
            )

    def _wait(self, request: Any, what: str, patience: Patience | None = None) -> None:
        def arrived() -> bool:
            # Others may be waiting for what only this thread moves, and come here afterwards.
            for engine in self._engines:
                engine.progress()
            return bool(request.Test())

        try:
            wait_until(arrived, what, patience or self.patience)
        except BaseException:
            abandon(request)
            raise

    def sum_array(self, array: np.ndarray) -> None:
        """Replace a contiguous array by its sum over all ranks, the same bits on each."""
        self._wait(self._world.Iallreduce(self._mpi.IN_PLACE, array, op=self._mpi.SUM), "a sum")

    def sum_numbers(self, *numbers: float) -> tuple[float, ...]:
        """Return each number summed over all ranks."""
        total = np.array(numbers, np.float64)
        self.sum_array(total)
        return tuple(total)

    def broadcast_array(self, array: np.ndarray, root: int = 0) -> None:
        """Replace a contiguous array by that of a rank."""
        self._wait(self._world.Ibcast(array, root), f"what rank {root} has")

    def broadcast(self, value: Any) -> Any:
        """Return what rank 0 passes."""
        packed = np.frombuffer(pickle.dumps(value) if self.rank == 0 else b"", np.uint8).copy()
        size = np.array([packed.size])
        self.broadcast_array(size)
        if self.rank:
            packed = np.empty(size[0], np.uint8)
        self.broadcast_array(packed)
        return pickle.loads(packed.tobytes())

    def gather(self, value: Any, patience: Patience | None = None) -> list[Any]:
        """Return what each rank passes, in order of the ranks, on every rank."""
        packed = np.frombuffer(pickle.dumps(value), np.uint8)
        sizes = np.zeros(self.ranks, np.int64)
        own = np.array([packed.size])
        self._wait(self._world.Iallgather(own, sizes), "what each rank has", patience)
        everything = np.empty(sizes.sum(), np.uint8)
        request = self._world.Iallgatherv(packed, [everything, sizes])
        self._wait(request, "what each rank has", patience)
        ends = np.cumsum(sizes)
        return [
            pickle.loads(everything[end - size : end].tobytes())
            for size, end in zip(sizes, ends, strict=True)
        ]

    def engine(self, **options: Any) -> Engine:
        """Return an engine with a communicator of its own; all ranks call it."""
        comm = self._duplicate()
        engine = Engine(comm, hosts=self.hosts, patience=self.patience, **options)
        # All ranks have a thread or none does: it decides how sums are cut into messages.
        if options.get("threaded") and not self._all_started(
            engine.refusal, "messages move between layers, on all ranks"
        ):
            engine.end_thread()
        if not engine.threaded:
            self._engines.append(engine)
        return engine

    def abort(self, cut: bool = False) -> None:
        """End all ranks at once, with a non-zero exit code."""
        if cut:
            end_launcher_later()
        flush()
        time.sleep(LAST_WORDS)
        # A thread in C that needs nothing of Python, as MPI may never come back.
        with contextlib.suppress(RuntimeError):  # the system may have no more threads
            faulthandler.dump_traceback_later(HARD_EXIT, exit=True, file=open(os.devnull, "w"))  # noqa: SIM115
        self._world.Abort(1)

    def _duplicate(self) -> Any:
        comm = self._world.Dup()
        self._duplicates.append(comm)
        return comm

    def check_elastic(self) -> None:
        """Raise MPIError unless ranks can go on when one dies."""
        if not hasattr(self._mpi.Comm, "Shrink") or "Open MPI" not in self.describe():
            raise MPIError(f"elastic: got {self.describe()}, expected {ELASTIC}")
        if os.environ.get(FT_ENABLED, "").lower() not in ("1", "true"):
            raise MPIError(f"elastic: got mpiexec without --with-ft ulfm, expected {ELASTIC}")

    def has_lost_ranks(self, error: Exception) -> bool:
        """Return whether an error says that a rank has died, or that another has noticed it."""
        mpi = self._mpi
        if not isinstance(error, mpi.Exception) or not hasattr(mpi, "ERR_PROC_FAILED"):
            return False
        kind = error.Get_error_class()
        if kind == mpi.ERR_IN_STATUS:  # of one of several requests: which one is not told
            return any(
                comm.Is_revoked() or comm.Get_failed().Get_size()
                for comm in (self._world, *self._duplicates)
            )
        return kind in (mpi.ERR_PROC_FAILED, mpi.ERR_PROC_FAILED_PENDING, mpi.ERR_REVOKED)

    def revoke(self) -> None:
        """Make all messages fail, on all ranks, so that no rank waits for those of a dead one."""
        for comm in (self._world, *self._duplicates):
            if not comm.Is_revoked():
                comm.Revoke()

    def shrink(self) -> None:
        """Go on without the ranks that have died; `rank` and `ranks` are those of the others."""
        self.revoke()
        if isinstance(self.patience, StallWatch):
            self.patience.close()
        if not self._revoked:
            atexit.register(self.leave)
        # What was revoked is kept: freeing it would be a collective with the dead.
        self._revoked += [self._world, *self._duplicates]
        self._duplicates, self._engines = [], []
        self._world = self._world.Shrink()
        self.rank, self.ranks = self._world.Get_rank(), self._world.Get_size()

    def leave(self, status: int | None = None) -> None:
        """End this process if ranks have died: MPI's own end might wait for them for ever."""
        if self._revoked:
            if status is None:
                status = int(hasattr(sys, "last_value"))
            flush()
            os._exit(status)

    def reconnect(self) -> None:
        """Find out which ranks share hosts after `shrink`; fails when another rank dies."""
        timeout = self.patience.timeout if isinstance(self.patience, StallWatch) else None
        self.patience = None
        host: dict[str, list[int]] = {}
        for rank, name in enumerate(self.gather(self._place)):
            host.setdefault(name, []).append(rank)
        self.hosts = sorted(host.values())
        self._watch()
        self.set_timeout(timeout if self.ranks > 1 else None)

    def agree(self, well: bool) -> bool:
        """Return whether all ranks are well; all that live get the same answer."""
        try:
            return bool(self._world.Agree(int(well)))
        except self._mpi.Exception as error:
            if not self.has_lost_ranks(error):
                raise
            return False

    def describe(self) -> str:
        """Return the number of ranks and the MPI library, in words."""
        library = self._mpi.Get_library_version().split("\n")[0].split(",")[0].strip("\x00 ")
        return f"{self.ranks} ranks ({' '.join(library.split())})"


def world() -> Communicator:
    """Return the ranks of this job: MPI's if a launcher started us, else this process alone.

    Returns
    -------
    Communicator

    Raises
    ------
    MPIError
        A launcher started this process, but its MPI cannot be used.
    """
    return Communicator() if launched_rank() is None else MPICommunicator()
