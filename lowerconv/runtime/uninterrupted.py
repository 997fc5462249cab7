"""Work that an interrupt must not stop half-way, and that takes more than one call of C code."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from lowerconv.runtime import native
from lowerconv.runtime.native import allocate_lock, start_new_thread

ATTEMPTS = 20  # to start a thread, a millisecond apart


def uninterrupted(function: Callable[[], object]) -> None:
    """Call a function in a thread of its own, and wait for its end.

    Python handles signals in the main thread alone, and there an interrupt is raised when the
    function has ended; a second interrupt is raised at once.

    Parameters
    ----------
    function : callable
        Its error is raised here.  Where the system has no thread for it, it is called in this one.
    """
    over = allocate_lock()
    over.acquire()
    errors: list[BaseException] = []
    started: list[int] = []
    try:
        # A single call: where it is interrupted, it is known whether there is a thread.
        started.extend(map(start_new_thread, [_call], [(function, errors, over)]))
        with over:
            pass
    except BaseException as error:
        if started:
            with over:
                pass
        elif isinstance(error, RuntimeError):
            function()
            return
        raise
    if errors:
        raise errors[0]


def start_uninterrupted(
    thread: threading.Thread | native.Thread, note: Callable[[], object] = int
) -> None:
    """Start a thread and call `note`, which is to remember it: no interrupt is raised between.

    Raises
    ------
    RuntimeError, MemoryError
        The system has no more threads for this process, or no memory for one.
    """

    def start() -> None:
        native.start(thread)
        note()

    try:
        return uninterrupted(start)
    except RuntimeError:  # perhaps the thread that should start it has taken the last place,
        for _ in range(ATTEMPTS - 1):  # which it leaves a moment after it has told that
            try:
                return start()
            except RuntimeError:
                time.sleep(0.001)
    return start()


def _call(function: Callable[[], object], errors: list[BaseException], over: Any) -> None:
    try:
        function()
    except BaseException as error:
        errors.append(error)
    finally:
        over.release()
