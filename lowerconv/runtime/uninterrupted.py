"""What an interrupt must not stop half-way, and is no single call of a function in C."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lowerconv.runtime.native import allocate_lock, start_new_thread


def uninterrupted(function: Callable[[], object]) -> None:
    """Call a function in a thread of its own, and wait for its end.

    Python handles signals in the main thread alone, and there an interrupt is told when the
    function has ended; only one more does not wait for that.

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


def _call(function: Callable[[], object], errors: list[BaseException], over: Any) -> None:
    try:
        function()
    except BaseException as error:
        errors.append(error)
    finally:
        over.release()
