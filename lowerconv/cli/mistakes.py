"""Mistakes of the user or of the machine: told in a line, without a traceback."""

from __future__ import annotations

import sys

from lowerconv.printable import printable_lines

EXPECTED = (MemoryError, OSError, ValueError)


def tell(error: BaseException) -> int:
    """Print what is wrong; returns the exit status.

    Raises
    ------
    BrokenPipeError
        That nobody reads what is printed is no mistake: `main` ends without a word.
    """
    if isinstance(error, BrokenPipeError):
        raise error
    print(f"lowerconv: error: {printable_lines(error)}", file=sys.stderr)
    return 1
