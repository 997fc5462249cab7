"""The number of threads that environment variables ask for."""

from __future__ import annotations

import os
import warnings
from typing import NamedTuple

THREADS_MAX = 1024  # threads: more than any machine has cores
OWN, OPENMP = "LOWERCONV_NUM_THREADS", "OMP_NUM_THREADS"

_told = False


class Request(NamedTuple):
    """How many threads a variable asks for."""

    threads: int
    variable: str


def requested() -> Request | None:
    """Return how many threads the environment asks for, None where it does not.

    ``LOWERCONV_NUM_THREADS`` counts before ``OMP_NUM_THREADS``, of whose list, such as ``4,2``, the
    first number counts: the others are for nested regions.  A variable that is empty is not set.

    Raises
    ------
    ValueError
        ``LOWERCONV_NUM_THREADS`` is no number from 1 to 1024.

    Warns
    -----
    RuntimeWarning
        Once, where ``OMP_NUM_THREADS`` is nonsense: it is ignored, as OpenMP does.
    """
    global _told
    own = os.environ.get(OWN, "").strip()
    if own:
        if not _is_number(own) or int(own) > THREADS_MAX:
            raise ValueError(f"{OWN}: got {own!r}, expected an integer from 1 to {THREADS_MAX}")
        return Request(int(own), OWN)
    openmp = os.environ.get(OPENMP, "").strip()
    if not openmp:
        return None
    if valid_openmp(openmp):
        return Request(min(int(openmp.partition(",")[0]), THREADS_MAX), OPENMP)
    if not _told:
        _told = True
        warnings.warn(
            f"lowerconv: {OPENMP}={openmp} is ignored, expected a positive integer or a list of "
            f"them; set {OWN}, or {OPENMP}",
            RuntimeWarning,
            stacklevel=2,
        )
    return None


def valid_openmp(text: str) -> bool:
    """Return whether OpenMP takes such a value of ``OMP_NUM_THREADS``."""
    return all(_is_number(number) for number in text.split(","))


def _is_number(text: str) -> bool:
    text = text.strip().removeprefix("+")
    return text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0
