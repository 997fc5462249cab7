"""Files that are never half written."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable
from contextlib import suppress
from errno import EACCES, EBADF, EINVAL, EISDIR, ENOSYS, ENOTSUP, EOPNOTSUPP, EPERM
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".partial"

#: With these a file system says that it lacks an operation: nothing is lost. With all others
#: (EIO, ENOSPC, EDQUOT ...) something may be.
LACKING = frozenset({EINVAL, ENOSYS, ENOTSUP, EOPNOTSUPP})
#: The same of operations on directories, and on who may do what, that some do not offer.
LACKING_OF_DIRECTORIES = LACKING | {EACCES, EBADF, EISDIR, EPERM}


def write_atomically(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file so that a reader sees the old content or the new, whenever we are killed.

    Any number of processes may write it at once: one of the contents is there whole.

    Parameters
    ----------
    path : Path
    content : bytes or callable
        The latter is given the open file, to write to.

    Raises
    ------
    OSError
        It cannot be written; the message names it, and what was there before is still whole.
    """
    # A name of its own, and a short one: that of the file may be as long as names can be.
    partial = path.with_name(f".{uuid.uuid4().hex}{PARTIAL}")
    try:
        with open(partial, "xb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            _sync(file.fileno(), LACKING)
        os.replace(partial, path)
    except OSError as error:
        if error.filename in (None, os.fspath(partial)):  # else it is of something read meanwhile
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    _sync_directory(path.parent)


def remove_partials(directory: Path) -> None:
    """Remove what killed processes have left half written; nobody else may write there now."""
    for path in directory.iterdir():
        if re.fullmatch(rf"\.[0-9a-f]{{32}}{re.escape(PARTIAL)}", path.name):
            path.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    """Have the new name itself reach the disk, where that can be asked for."""
    if os.name != "posix":
        return
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError as error:
        if error.errno not in LACKING_OF_DIRECTORIES:
            raise
        return
    try:
        _sync(descriptor, LACKING_OF_DIRECTORIES)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(directory)) from error
    finally:
        os.close(descriptor)


def _sync(descriptor: int, lacking: frozenset[int]) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in lacking:
            raise
