"""Threads that begin together."""

from __future__ import annotations

import threading
from collections.abc import Sequence

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
