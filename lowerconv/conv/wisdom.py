"""What tuning has measured on this CPU, remembered from one process to the next.

A directory for each version of the package and each CPU, and in it a small file for each choice,
named by a hash of what the choice is about.  Files are written aside and renamed, so that any
number of processes may tune at once, on any file system: nobody waits for a lock.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from contextlib import suppress
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from lowerconv.codegen.isa import host_isa
from lowerconv.machine.disk_cache import (
    ANOTHER_DIRECTORY,
    cache_directory,
    describe_unwritable,
    read_checked,
    store_checked,
    warn_damaged,
    warn_unwritable,
    writable,
)
from lowerconv.machine.features import cpu_name
from lowerconv.version import __version__

SUFFIX = ".wisdom"

Choice = dict[str, Any]

# Choices that could not be written: by the directory, which is None without a cache, and the key.
_unwritten: dict[tuple[Path | None, str], Choice] = {}


def wisdom_path() -> Path | None:
    """Return the directory of this version of the package and this CPU; it may not exist yet.

    None where this user has no cache (`cache_directory`).
    """
    directory = cache_directory()
    return None if directory is None else directory / "wisdom" / _machine()


@lru_cache
def _machine() -> str:
    # Once per process: where there are many CPUs it takes milliseconds to have them described.
    cpu = re.sub(r"[^a-z0-9]+", "-", cpu_name().lower()).strip("-")
    core = llvm.get_host_cpu_name()  # what virtual machines leave out of the CPU's name
    return f"{__version__}-{cpu[:100] or 'unknown'}-{core}-{host_isa().name}"


def _file(directory: Path | None, key: str) -> Path | None:
    """Return the file of a choice."""
    if directory is None:
        return None
    return directory / (hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32] + SUFFIX)


def recall(key: str) -> Choice | None:
    """Return what was chosen for `key`, by this process or another.

    Parameters
    ----------
    key : str

    Returns
    -------
    dict or None
        The last choice as `remember` was given it (tuples have become lists), the caller's own to
        change; None where there is none.

    Warns
    -----
    RuntimeWarning
        The file is damaged, or cannot be read: it is ignored.  Told once per process.
    """
    directory = wisdom_path()
    if (directory, key) in _unwritten:
        return deepcopy(_unwritten[directory, key])
    path = _file(directory, key)
    content = read_checked(path)
    if content is None:
        return None
    try:
        record = json.loads(content)
        if record["key"] == key and isinstance(record["choice"], dict):
            return dict(record["choice"])
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    warn_damaged(path, "it is whole, but holds something else")
    return None


def remember(key: str, choice: Choice) -> None:
    """Keep `choice` for this process and all later ones, over any earlier one.

    Parameters
    ----------
    key : str
        What the choice is about: all that it depends on, but for the CPU and the version.
    choice : dict
        Anything that JSON can hold.

    Raises
    ------
    TypeError, ValueError
        An argument that is not of this kind.

    Warns
    -----
    RuntimeWarning
        The file cannot be written, so this process alone remembers.  Told once per process.
    """
    if not isinstance(key, str):
        raise TypeError(f"key: got {type(key).__name__}, expected a string")
    if not isinstance(choice, dict):
        raise TypeError(f"choice: got {type(choice).__name__}, expected a dict")
    try:
        text = json.dumps({"key": key, "choice": choice}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise type(error)(f"choice: got {choice!r}, expected what JSON can hold: {error}") from None
    directory = wisdom_path()
    try:
        store_checked(_file(directory, key), text.encode())
    except OSError as error:
        _unwritten[directory, key] = json.loads(text)["choice"]
        warn_unwritable(directory, error)
    else:
        _unwritten.pop((directory, key), None)


def all_kept() -> bool:
    """Return whether later processes will find all that this one has remembered."""
    path = wisdom_path()
    return all(directory != path for directory, _ in list(_unwritten))


def forget() -> None:
    """Delete what is remembered for this version and this CPU.

    Raises
    ------
    OSError
        A file is there and cannot be deleted.
    """
    path = wisdom_path()
    for place in [place for place in list(_unwritten) if place[0] == path]:
        _unwritten.pop(place, None)
    if path is None:
        return
    with suppress(FileNotFoundError, NotADirectoryError):
        for file in path.iterdir():  # the directory stays: others may be about to write there
            if file.suffix == SUFFIX:
                file.unlink(missing_ok=True)


def check_writable() -> None:
    """Make the directory, and see that files can be written there.

    Raises
    ------
    OSError
        Files cannot be written; the message names the directory and the variable to set.
    """
    path = wisdom_path()
    try:
        with tempfile.TemporaryFile(dir=writable(_file(path, "")).parent):
            pass
    except OSError as error:
        text = f"{describe_unwritable(path, error)}; {ANOTHER_DIRECTORY}"
        raise OSError(text) from None
