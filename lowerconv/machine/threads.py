"""How many threads the kernels use, and the one door through which parallel kernels are entered."""

from __future__ import annotations

import os
import threading

import numba

from lowerconv.checks import integer
from lowerconv.machine.topology import usable_threads

# Turns that an idle OpenMP thread waits before it sleeps: tens of microseconds, the distance of two
# parallel loops.  GNU's own default of 300,000 (milliseconds) takes the core from whoever has work:
# two training processes of two threads each ran 1.8 to 9.5 times slower with it, on two cores.
SPIN_COUNT = "2000"

_num_threads: int | None = None
_started = False


def _most_threads() -> int:
    return int(getattr(numba.config, "NUMBA_NUM_THREADS"))  # noqa: B009 (set at run time)


_lock = threading.RLock()
_set = threading.local()  # the number of threads that this module last told numba


def _renew_lock() -> None:
    """Give a forked child a lock of its own: its parent's may be held by a thread it lacks."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def get_num_threads() -> int:
    """Return the number of threads that kernels run on.

    Until :func:`set_num_threads` is called it is the number of cores this process may use (affinity
    mask and CPU quota counted), but no more than numba was started with (``NUMBA_NUM_THREADS``).
    """
    global _num_threads
    if _num_threads is None:
        _num_threads = min(usable_threads(), _most_threads())
    return _num_threads


def set_num_threads(n: int) -> None:
    """Set the number of threads that kernels run on.

    Parameters
    ----------
    n : int
        From 1 to ``NUMBA_NUM_THREADS``, which numba reads when it is imported (the number of CPUs
        unless the environment says otherwise).

    Raises
    ------
    TypeError, ValueError
        `n` is no integer, or out of that range.
    """
    global _num_threads
    n = integer(n, "n", 1)
    if n > _most_threads():
        raise ValueError(
            f"n: got {n} threads, expected at most {_most_threads()}; set the "
            "environment variable NUMBA_NUM_THREADS before Python starts to allow more"
        )
    _num_threads = n


def _start_threads() -> None:
    """Start numba's threads, which loads its threading layer.

    GNU OpenMP reads its settings from the environment while it is loaded, and only then: so the
    setting is there for that moment, and neither the user's own nor other libraries are touched.
    """
    global _started
    ours = not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ)
    if ours:
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
    try:
        numba.set_num_threads(1)
    finally:
        if ours:
            del os.environ["GOMP_SPINCOUNT"]
    _started = True


class parallel_region:
    """Enter compiled parallel code, to run on `threads` threads.

    One Python thread at a time: numba's workqueue threading layer aborts the process when two enter
    it, and whoever is inside owns the shared workspace.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def __enter__(self) -> None:
        self._lock = _lock
        self._lock.acquire()
        try:
            if not _started:
                _start_threads()
            # numba keeps the number for each Python thread; asking it costs half a microsecond.
            if getattr(_set, "threads", None) != self.threads:
                numba.set_num_threads(self.threads)
                _set.threads = self.threads
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, *exception: object) -> None:
        self._lock.release()
