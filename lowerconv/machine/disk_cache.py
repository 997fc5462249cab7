"""Files that one process leaves for the next: small, checked when read, and never needed.

They hold compiled code among other things: whoever can write to the directory can have it run.
"""

from __future__ import annotations

import errno
import hashlib
import os
import uuid
import warnings
from contextlib import suppress
from pathlib import Path

import platformdirs

from lowerconv.machine.mpi import speaks_for_host

DIRECTORY_VARIABLE = "LOWERCONV_CACHE_DIR"

MAGIC = b"lowerconv cache 1\n"
DIGEST_BYTES = hashlib.sha256().digest_size
HEADER_BYTES = len(MAGIC) + DIGEST_BYTES  # the magic word, the checksum, and then the contents

ANOTHER_DIRECTORY = f"{DIRECTORY_VARIABLE} names another directory"
NO_HOME = "this user has no home directory"

# Told once per process, by one rank of a host. Set first: a warning
# may be raised as an error.
_told_damaged = False
_told_unwritable = False


def cache_directory() -> Path | None:
    """Return the directory of all cached files; it is made when something is written there.

    Returns
    -------
    Path or None
        That of the environment variable ``LOWERCONV_CACHE_DIR``; where it is unset or empty, the
        one that the system means for a user's caches (``~/.cache/lowerconv`` on Linux). None where
        it would be below a home directory and there is none: ``HOME`` is unset, and the system has
        no entry for this user, as in many containers.
    """
    chosen = os.environ.get(DIRECTORY_VARIABLE)
    try:
        return Path(chosen or platformdirs.user_cache_dir("lowerconv")).expanduser()
    except (RuntimeError, KeyError, OSError):  # which of them is up to platformdirs and pathlib
        return None


def cached_file(*parts: str) -> Path | None:
    """Return the path of a file below `cache_directory`; None where there is no such directory."""
    directory = cache_directory()
    return None if directory is None else directory.joinpath(*parts)


def refusal(directory: Path | None) -> str | None:
    """Return why nothing can be written in a directory, which need not exist yet; None if it can.

    Writes nothing itself, and so does not find out that a disk is full.
    """
    if directory is None:
        return NO_HOME
    for place in (directory, *directory.parents):
        if os.path.exists(place):
            if not os.path.isdir(place):
                return f"{place} is no directory"
            return None if os.access(place, os.W_OK | os.X_OK) else f"{place} cannot be written"
    return "no part of it exists"


def writable(path: Path | None) -> Path:
    """Return the path of a cached file, whose directory is there.

    Raises
    ------
    OSError
        There is no path, or the directory cannot be made.
    """
    if path is None:
        raise FileNotFoundError(errno.ENOENT, NO_HOME)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def read_checked(path: Path | None) -> bytes | None:
    """Read a file that `write_checked` wrote.

    Parameters
    ----------
    path : Path or None

    Returns
    -------
    bytes or None
        The contents, exactly as they were written; None where there is no such file.

    Warns
    -----
    RuntimeWarning
        The file is there but damaged or not readable: None is returned.  Told once per process.
    """
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        damage = f"it cannot be read ({error.strerror or error})"
    else:
        data = content[HEADER_BYTES:]
        if content[:HEADER_BYTES] == _header(data):
            return data
        damage = "its contents do not have the checksum stored"
        if not content.startswith(MAGIC):
            damage = f"it does not begin with {MAGIC!r}"
    warn_damaged(path, damage)
    return None


def write_checked(path: Path | None, data: bytes) -> None:
    """Write a file for `read_checked`, and the directories above it, if that is possible.

    Parameters
    ----------
    path : Path or None
    data : bytes

    Warns
    -----
    RuntimeWarning
        It cannot be written (no permission, disk full): whatever was there before is still whole.
        Told once per process.
    """
    try:
        store_checked(path, data)
    except OSError as error:
        warn_unwritable(path, error)


def store_checked(path: Path | None, data: bytes) -> None:
    """Write a file for `read_checked`, and the directories above it.

    Any number of processes may write and read it at once: a reader sees one of the contents whole.

    Parameters
    ----------
    path : Path or None
    data : bytes

    Raises
    ------
    OSError
        It cannot be written: whatever was there before is still whole.
    """
    path = writable(path)
    # Unique over the hosts that share a file system too, where process ids are not.
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        # Not flushed to the disk: a file that a power cut leaves short fails its checksum.
        with open(partial, "xb") as file:
            file.write(_header(data) + data)
        os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def warn_damaged(path: Path | None, damage: str) -> None:
    """Tell, once per process, that a cached file is of no use, and why."""
    global _told_damaged
    if not _told_damaged and speaks_for_host():
        _told_damaged = True
        warnings.warn(
            f"{path}: {damage}; it is ignored and made again, and so is any other such file",
            RuntimeWarning,
            stacklevel=3,
        )


def warn_unwritable(path: Path | None, error: OSError, cure: str = ANOTHER_DIRECTORY) -> None:
    """Tell, once per process, that a cached file cannot be written, and what helps."""
    global _told_unwritable
    if not _told_unwritable and speaks_for_host():
        _told_unwritable = True
        warnings.warn(
            f"{describe_unwritable(path, error)}, so this process keeps what it compiles and "
            f"measures to itself; {cure}",
            RuntimeWarning,
            stacklevel=3,
        )


def describe_unwritable(path: Path | None, error: OSError) -> str:
    """Return the message that a cached file cannot be written, and why."""
    return f"{path or 'The cache'}: cannot be written ({error.strerror or error})"


def _header(data: bytes) -> bytes:
    return MAGIC + hashlib.sha256(data).digest()
