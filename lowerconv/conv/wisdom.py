"""What tuning has measured on this CPU, remembered from one process to the next.

One file for each version of the package and each CPU, a choice per line.  Processes only ever add
lines, so that many may tune at once; of several lines about one thing the last one counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from contextlib import suppress
from copy import deepcopy
from errno import ENOSPC
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite.binding as llvm

from lowerconv.codegen.isa import host_isa
from lowerconv.machine.cache import (
    ANOTHER_DIRECTORY,
    cache_directory,
    describe_unwritable,
    warn_unwritable,
    writable,
)
from lowerconv.machine.features import cpu_name
from lowerconv.version import __version__

CHECK_DIGITS = 16  # hexadecimal, of the SHA-256 of a record

Choice = dict[str, Any]


class _Snapshot(NamedTuple):
    """The choices of a file, and what the file was like when they were read."""

    path: Path | None  # None where this user has no cache
    state: tuple[int, ...] | None  # None where there is no file
    choices: dict[str, Choice]


# Replaced as a whole and never changed, so that threads need no lock, and forked children cannot
# inherit one that is held.
_snapshot: _Snapshot | None = None

_unwritten: dict[
    tuple[Path | None, str], Choice
] = {}  # choices for which there was no place in the file


def wisdom_path() -> Path | None:
    """Return the file of this version of the package and this CPU; it may not exist yet.

    None where this user has no cache (`cache_directory`).
    """
    directory = cache_directory()
    return None if directory is None else directory / "wisdom" / _file_name()


@lru_cache
def _file_name() -> str:
    # Once per process: where there are many CPUs it takes milliseconds to have them described.
    cpu = re.sub(r"[^a-z0-9]+", "-", cpu_name().lower()).strip("-")
    core = llvm.get_host_cpu_name()  # what virtual machines leave out of the CPU's name
    return f"{__version__}-{cpu[:100] or 'unknown'}-{core}-{host_isa().name}.jsonl"


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
        The file has damaged lines, or cannot be read: they are ignored.
    """
    path = wisdom_path()
    choice = _unwritten.get((path, key))
    if choice is None:
        choice = _choices(path).get(key)
    return deepcopy(choice)


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
        choice = json.loads(json.dumps(choice, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise type(error)(f"choice: got {choice!r}, expected what JSON can hold: {error}") from None
    path = wisdom_path()
    record = {"key": key, "choice": choice, "check": _check(key, choice)}
    try:
        _append(path, json.dumps(record, separators=(",", ":")).encode())
    except OSError as error:
        _unwritten[path, key] = choice
        warn_unwritable(path, error)
    else:
        _unwritten.pop((path, key), None)


def all_kept() -> bool:
    """Tell whether all that this process has remembered is there for later ones."""
    path = wisdom_path()
    return all(place != path for place, _ in _unwritten)


def forget() -> None:
    """Delete what is remembered for this version and this CPU.

    Raises
    ------
    OSError
        The file is there and cannot be deleted.
    """
    path = wisdom_path()
    for place in [place for place in list(_unwritten) if place[0] == path]:
        _unwritten.pop(place, None)
    with suppress(FileNotFoundError, NotADirectoryError):
        if path is not None:
            path.unlink()


def _check(key: str, choice: Choice) -> str:
    canonical = json.dumps(
        {"key": key, "choice": choice}, sort_keys=True, separators=(",", ":"), allow_nan=False
    )
    return hashlib.sha256(canonical.encode()).hexdigest()[:CHECK_DIGITS]


def check_writable() -> Path:
    """Return the path of the file, which can be written.

    Raises
    ------
    OSError
        It cannot be written: the text names it and says what is to be set.
    """
    path = wisdom_path()
    try:
        os.close(_open(path))
    except OSError as error:
        text = f"{describe_unwritable(path, error)}; {ANOTHER_DIRECTORY}"
        raise OSError(text) from None
    return writable(path)


def _open(path: Path | None) -> int:
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
    return os.open(writable(path), flags, 0o666)


def _append(path: Path | None, line: bytes) -> None:
    """Add a line in one write, behind those of all other processes."""
    descriptor = _open(path)
    try:
        _lock(descriptor, exclusive=True)
        text = line + b"\n"
        if os.lseek(descriptor, 0, os.SEEK_END):
            os.lseek(descriptor, -1, os.SEEK_END)
            if os.read(descriptor, 1) != b"\n":  # torn: its writer was killed, or its disk full
                text = b"\n" + text
        if os.write(descriptor, text) != len(text):
            raise OSError(ENOSPC, os.strerror(ENOSPC))
    finally:
        os.close(descriptor)


def _lock(descriptor: int, exclusive: bool) -> None:
    """Wait until nobody is writing; closing the file ends the lock.

    A write grows the file before all of it can be read.  Where there are no such locks a reader may
    at worst take a line that is being written for a damaged one, and finds it whole the next time.
    """
    with suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)


def _choices(path: Path | None) -> dict[str, Choice]:
    """Return what the file holds, read anew only if it has changed."""
    global _snapshot
    snapshot, state = _snapshot, _state(path)
    if snapshot is None or (snapshot.path, snapshot.state) != (path, state):
        choices, problem = _read(path) if path and state else ({}, None)
        _snapshot = snapshot = _Snapshot(path, state, choices)
        if problem:
            warnings.warn(f"{path}: {problem}", RuntimeWarning, stacklevel=4)
    return snapshot.choices


def _state(path: Path | None) -> tuple[int, ...] | None:
    if path is None:
        return None
    # Taken before the file is read: what is added in between is found changed the next time.
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _read(path: Path) -> tuple[dict[str, Choice], str | None]:
    """Return the choices of a file, and what is wrong with it."""
    try:
        with open(path, "rb") as file:
            _lock(file.fileno(), exclusive=False)
            content = file.read()
    except FileNotFoundError:
        return {}, None
    except OSError as error:
        return {}, f"it cannot be read ({error.strerror}) and is ignored"
    choices, damaged = {}, 0
    for line in content.split(b"\n"):
        if line.strip():
            record = _parse(line)
            if record is None:
                damaged += 1
            else:
                choices[record[0]] = record[1]
    lines = "1 damaged line is" if damaged == 1 else f"{damaged} damaged lines are"
    problem = f"{lines} ignored; 'lowerconv tune --forget' begins a new file" if damaged else None
    return choices, problem


def _parse(line: bytes) -> tuple[str, Choice] | None:
    """Return key and choice of a line; None if it is damaged."""
    try:
        record = json.loads(line)
        key, choice = record["key"], record["choice"]
        whole = isinstance(choice, dict) and record["check"] == _check(key, choice)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return (key, choice) if whole and isinstance(key, str) else None
