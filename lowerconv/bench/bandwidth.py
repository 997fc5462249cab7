"""The most that memory gives to some threads, measured: the sloping part of a roofline.

    python -m lowerconv.bench.bandwidth [THREADS]

Two loops over arrays that are much larger than the last cache, each thread on memory that it has
touched first: reading, and McCalpin's triad ``a = b + s c`` (STREAM).  Bytes are those that the
program asks for; that a store may first fetch the line it overwrites is not counted, as in STREAM.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

import numpy as np

from lowerconv.bench.together import begin_together
from lowerconv.codegen.compiled import njit
from lowerconv.machine.memory import memory_limit
from lowerconv.machine.topology import ASSUMED_CACHE_BYTES, read_topology
from lowerconv.runtime.threads import get_num_threads

RUNS = 6  # of each loop; the best counts: one may meet another process
TIMES_CACHE = 6  # all arrays together over all last caches: what a cache keeps does not matter
LEAST = 192 << 20  # bytes
MEMORY_SHARE = 8  # the arrays take no more than this part of the memory


# Additions may be reordered, which lets them be vector code.
@njit(cache=True, nogil=True, fastmath={"reassoc"})
def _read(a, b, c):
    total = a.dtype.type(0)
    for array in (a, b, c):
        for i in range(array.size):
            total += array[i]
    return total


@njit(cache=True, nogil=True)
def _triad(a, b, c):
    for i in range(a.size):
        a[i] = b[i] + a.dtype.type(0.5) * c[i]
    return a[0]


LOOPS: dict[str, Callable[..., float]] = {"read": _read, "triad": _triad}


def _buffer_bytes() -> int:
    """Return the size of all arrays together."""
    caches = read_topology().caches
    last = max((cache.level for cache in caches), default=0)
    cached = sum(cache.bytes for cache in caches if cache.level == last)
    wanted = max(LEAST, TIMES_CACHE * (cached or ASSUMED_CACHE_BYTES[3]))
    limit = memory_limit()
    return wanted if limit is None else min(wanted, limit // MEMORY_SHARE)


def memory_bandwidth(threads: int, nbytes: int | None = None) -> dict[str, float]:
    """Return bytes per second of each of the `LOOPS`.

    Parameters
    ----------
    threads : int
    nbytes : int, optional
        Of the arrays of all threads together; default: enough to overflow the last cache.
    """
    items = max(1, (nbytes or _buffer_bytes()) // (3 * 4 * threads))
    barrier = threading.Barrier(threads)
    spans: dict[tuple[str, int], list[tuple[float, float]]] = {
        (name, number): [] for name in LOOPS for number in range(RUNS)
    }
    failures: list[BaseException] = []

    def work() -> None:
        try:
            # Three arrays of one thread, touched by it first: they lie near to its core.
            arrays = [np.full(items, 1.0, np.float32) for _ in range(3)]
            for name, number in spans:
                LOOPS[name](*(array[:1] for array in arrays))  # compiled before the clock starts
                barrier.wait()
                begin = time.perf_counter()
                LOOPS[name](*arrays)
                spans[name, number].append((begin, time.perf_counter()))
        except BaseException as error:
            failures.append(error)
            barrier.abort()  # nobody waits for this thread

    others = [threading.Thread(target=work) for _ in range(threads - 1)]
    begin_together(others, barrier)
    work()
    for thread in others:
        thread.join()
    causes = [error for error in failures if not isinstance(error, threading.BrokenBarrierError)]
    if causes:
        raise causes[0]
    moved = 3 * 4 * items * threads
    return {
        name: max(
            moved / (max(end for _, end in span) - min(begin for begin, _ in span))
            for (loop, _), span in spans.items()
            if loop == name
        )
        for name in LOOPS
    }


if __name__ == "__main__":
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else get_num_threads()
    for name, speed in memory_bandwidth(threads).items():
        print(f"{name}: {speed / 1e9:.1f} GB/s on {threads} threads")
