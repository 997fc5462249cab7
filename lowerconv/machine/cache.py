"""Files that one process leaves for the next: small, checked when read, and never needed.

They hold compiled code among other things: whoever can write to the directory can have it run.
"""

from __future__ import annotations

import hashlib
import os
import uuid
import warnings
from contextlib import suppress
from pathlib import Path

import platformdirs

DIRECTORY_VARIABLE = "LOWERCONV_CACHE_DIR"

MAGIC = b"lowerconv cache 1\n"
DIGEST_BYTES = hashlib.sha256().digest_size
HEADER_BYTES = len(MAGIC) + DIGEST_BYTES  # the magic word, the checksum, and then the contents

_told_unwritable = False


def cache_directory() -> Path:
    """Return the directory of all cached files; it is made when something is written there.

    Returns
    -------
    Path
        That of the environment variable ``LOWERCONV_CACHE_DIR``; where it is unset or empty, the
        one that the system means for a user's caches (``~/.cache/lowerconv`` on Linux).
    """
    chosen = os.environ.get(DIRECTORY_VARIABLE)
    return Path(chosen or platformdirs.user_cache_dir("lowerconv")).expanduser()


def read_checked(path: Path) -> bytes | None:
    """Read a file that `write_checked` wrote.

    Parameters
    ----------
    path : Path

    Returns
    -------
    bytes or None
        The contents, exactly as they were written; None where there is no such file.

    Warns
    -----
    RuntimeWarning
        The file is there but damaged or not readable: None is returned.
    """
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
    warnings.warn(f"{path}: {damage}; it is ignored and made again", RuntimeWarning, stacklevel=2)
    return None


def write_checked(path: Path, data: bytes) -> None:
    """Write a file for `read_checked`, and the directories above it.

    Any number of processes may write and read it at once: a reader sees one of the contents whole.

    Parameters
    ----------
    path : Path
    data : bytes

    Warns
    -----
    RuntimeWarning
        It cannot be written (no permission, disk full): whatever was there before is still whole.
        Told once per process.
    """
    # Unique over the hosts that share a file system too, where process ids are not.
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not flushed to the disk: a file that a power cut leaves short fails its checksum.
        with open(partial, "xb") as file:
            file.write(_header(data) + data)
        os.replace(partial, path)
    except OSError as error:
        warn_unwritable(path, error)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def warn_unwritable(path: Path, error: OSError) -> None:
    """Tell, once per process, that a cached file cannot be written."""
    global _told_unwritable
    if not _told_unwritable:
        _told_unwritable = True
        warnings.warn(
            f"{path}: cannot be written ({error.strerror or error}), so this process keeps what it "
            f"finds out to itself; {DIRECTORY_VARIABLE} names another directory",
            RuntimeWarning,
            stacklevel=3,
        )


def _header(data: bytes) -> bytes:
    return MAGIC + hashlib.sha256(data).digest()
