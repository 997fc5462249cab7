"""Mistakes of the user or of the machine: told in a line, without a traceback."""

from __future__ import annotations

import sys

EXPECTED = (MemoryError, OSError, ValueError)


def tell(error: BaseException) -> int:
    """Print what is wrong; returns the exit status."""
    print(f"lowerconv: error: {error}", file=sys.stderr)
    return 1
