"""Threads that begin together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from lowerconv.runtime.native import CURE


def begin_together(threads: Sequence[threading.Thread], barrier: threading.Barrier) -> None:
    """Start threads that meet at a barrier first.

    Raises
    ------
    RuntimeError
        The system starts no more of them; nobody waits at the barrier then.
    """
    try:
        for thread in threads:
            thread.start()
    except RuntimeError as error:
        barrier.abort()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
        raise RuntimeError(
            f"threads: got {len(threads) + 1}, expected fewer: this process gets no more "
            f"({error}). {CURE}"
        ) from None


def seconds_together(calls: Sequence[Callable[[], object]]) -> float:
    """Return the seconds from the first call's start to the last one's end, a thread for each.

    Raises
    ------
    RuntimeError
        The system starts no more threads.
    """
    start = threading.Barrier(len(calls))
    spans: list[tuple[float, float]] = []

    def work(call: Callable[[], object]) -> None:
        try:
            start.wait()
        except threading.BrokenBarrierError:  # one of them cannot be started
            return
        begin = time.perf_counter()
        call()
        spans.append((begin, time.perf_counter()))

    others = [threading.Thread(target=work, args=(call,)) for call in calls[1:]]
    begin_together(others, start)
    work(calls[0])
    for thread in others:
        thread.join()
    return max(end for _, end in spans) - min(begin for begin, _ in spans)
