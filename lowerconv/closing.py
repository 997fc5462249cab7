"""Closing several things, whatever happens to one of them."""

from __future__ import annotations

from collections.abc import Callable


def close_all(closers: list[Callable[[], object]]) -> None:
    """Call all functions, the first one first, also those after one that raises.

    Each leaves the list when it is done.  Where the user interrupts, it is told at once, and the
    rest is left in the list: called again, this goes on with the function that was interrupted,
    which has to bear that::

        finally:
            try:
                close_all(closers)
            except KeyboardInterrupt:
                close_all(closers)
                raise
    """
    while closers:
        try:
            closers[0]()
        except KeyboardInterrupt:
            raise
        except BaseException:
            del closers[0]
            close_all(closers)
            raise
        del closers[0]
