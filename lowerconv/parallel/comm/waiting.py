"""Waiting for others without hanging, and without stealing the core that they may need."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

EAGER = 200e-6  # seconds of looking without a pause: what a small message takes
SHORTEST, LONGEST = 20e-6, 1e-3  # seconds of sleep between two looks, growing
GROWTH = 1.2  # of each sleep over the one before


class Patience(Protocol):
    """Who decides how long waiting makes sense."""

    def check(self, what: str, seconds: float) -> None:
        """Raise an error where waiting any longer is in vain."""

    def ended(self) -> None:
        """Note that a wait is over of which `check` was told."""


def wait_until(test: Callable[[], bool], what: str, patience: Patience | None = None) -> None:
    """Return when a test succeeds.

    Parameters
    ----------
    test : callable
        Moves messages on and tells whether they are there.
    what : str
        Is waited for, to be shown.
    patience : Patience, optional
    """
    begin = time.monotonic()
    pause = SHORTEST
    told = False
    try:
        while not test():
            waited = time.monotonic() - begin
            if waited < EAGER:
                continue
            if patience is not None:
                told = True
                patience.check(what, waited)
            time.sleep(pause)
            pause = min(LONGEST, GROWTH * pause)
    finally:
        if told and patience is not None:
            patience.ended()


def pause_after(seconds: float) -> float:
    """Return how long `wait_until` sleeps between two looks once it has waited for some seconds."""
    if seconds < EAGER:
        return 0.0
    # Sleeps so far are a geometric series.
    return min(LONGEST, SHORTEST + (GROWTH - 1) * (seconds - EAGER))
