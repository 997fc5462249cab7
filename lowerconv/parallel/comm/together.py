"""What all ranks do, or none: it fails on all of them if it fails on any."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from lowerconv.parallel.comm.communicator import Communicator

# Seconds that a rank which has failed waits for the others to come and hear of it.
DESERTED = 3.0

T = TypeVar("T")


class _Deserted(Exception):
    """The others do not come."""


class _Short:
    """The patience of a rank that has failed."""

    def check(self, what: str, seconds: float) -> None:
        if seconds > DESERTED:
            raise _Deserted

    def ended(self) -> None:
        pass


def together(communicator: Communicator, action: Callable[[], T]) -> T:
    """Return ``action()``, or raise on all ranks if it fails on any.

    For what comes before the work: without it, a rank that cannot open its files would leave the
    others waiting for it. A rank that has failed waits for the others for some seconds only: they
    may be waiting for it inside their own action. Then it is `deserted`, and has to end them.

    Parameters
    ----------
    communicator : Communicator
    action : callable
        Without arguments.

    Returns
    -------
    object
        What `action` returns on this rank.

    Raises
    ------
    Exception
        That of `action` on this rank.
    RuntimeError
        `action` failed on another rank; the message names the first of these.
    """
    failure: Exception | None = None
    try:
        result = action()
    except Exception as error:
        failure = error
    try:
        messages = communicator.gather(
            None if failure is None else str(failure), None if failure is None else _Short()
        )
    except _Deserted:
        communicator.deserted = True
    if failure is not None:
        raise failure
    for rank, message in enumerate(messages):
        if message is not None:
            raise RuntimeError(f"rank {rank}: {message}")
    return result
