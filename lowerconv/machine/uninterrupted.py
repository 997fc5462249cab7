"""What an interrupt must not stop half-way, and is no single call of a function in C."""

from __future__ import annotations

import _thread
from collections.abc import Callable


def uninterrupted(function: Callable[[], object]) -> None:
    """Call a function in a thread of its own, and wait for its end.

    Python handles signals in the main thread alone.  Whoever is interrupted here leaves, and the
    function ends by itself.

    Parameters
    ----------
    function : callable
        Its error is raised here.  Where the system has no thread for it, it is called in this one.
    """
    over = _thread.allocate_lock()
    over.acquire()
    errors: list[BaseException] = []
    try:
        _thread.start_new_thread(_call, (function, errors, over))
    except RuntimeError:
        function()
        return
    with over:
        pass
    if errors:
        raise errors[0]


def _call(
    function: Callable[[], object], errors: list[BaseException], over: _thread.LockType
) -> None:
    try:
        function()
    except BaseException as error:
        errors.append(error)
    finally:
        over.release()
