"""Directories that one process at a time writes to."""

from __future__ import annotations

import os
import socket
import threading
import warnings
import weakref
from contextlib import suppress
from errno import EACCES, EAGAIN, EDEADLK, ENOLCK
from pathlib import Path

from lowerconv.copying import not_copied
from lowerconv.files import LACKING
from lowerconv.runtime.uninterrupted import uninterrupted

NAME = ".lock"
PLACE = 1 << 10  # the byte that is locked, where the system wants one: behind what is written

_mutex = threading.RLock()  # a lock that is forgotten is released wherever Python collects it
_held: dict[str, tuple[int, int, int]] = {}  # process, descriptor, how many hold it; by path


class BusyError(OSError):
    """A directory that another process writes to; the message names both."""


@not_copied("make another from its arguments")
class DirectoryLock:
    """Keeps other processes from a directory, from `acquire` to `release` or this process's end.

    Within one process any number may hold it. It ends with the process, however that ends.

    Parameters
    ----------
    directory : Path
        In which `acquire` makes a file ``.lock``.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._release: weakref.finalize | None = None

    def acquire(self) -> None:
        """Take the directory, unless it is held here; who is interrupted has to `release` it.

        Raises
        ------
        BusyError
            Another process holds it.
        OSError
            The file cannot be made.

        Warns
        -----
        RuntimeWarning
            The file system has no locks: nothing keeps others from writing there.
        """
        if self._release is not None and self._release.alive:
            return
        lacking: list[str] = []
        uninterrupted(lambda: self._hold(lacking))
        for reason in lacking:
            warnings.warn(
                f"{self._directory}: its file system has no locks ({reason}), so nothing keeps "
                "another process from writing there too",
                RuntimeWarning,
                stacklevel=2,
            )

    def _hold(self, lacking: list[str]) -> None:
        path = os.path.join(os.path.realpath(self._directory), NAME)
        with _mutex:
            process, descriptor, holders = _held.get(path, (os.getpid(), -1, 0))
            if process != os.getpid():  # of the parent: forked children hold no locks
                process, descriptor, holders = os.getpid(), -1, 0
            if not holders:
                descriptor = _acquire(path, self._directory, lacking)
            _held[path] = process, descriptor, holders + 1
        self._release = weakref.finalize(self, _release, path, process)

    def release(self) -> None:
        """Let others have the directory, once nobody in this process holds it."""
        if self._release is not None:
            uninterrupted(self._release)


def _acquire(path: str, directory: Path, lacking: list[str]) -> int:
    """Return the descriptor of the locked file; notes why the file system has no locks."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                _lock(descriptor)
            except OSError as error:
                if error.errno in (EACCES, EAGAIN, EDEADLK):
                    raise BusyError(
                        f"{directory}: {_owner(descriptor)} writes there; expected another "
                        "directory, or to begin when that has ended"
                    ) from None
                if error.errno not in LACKING | {ENOLCK}:
                    raise
                lacking[:] = [str(error.strerror)]
            # Whoever held it may have removed the file since it was opened here.
            if _same(descriptor, path):
                with suppress(OSError):
                    os.ftruncate(descriptor, 0)
                    os.write(
                        descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode()
                    )
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    try:
        import fcntl
    except ImportError:
        import msvcrt

        os.lseek(descriptor, PLACE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        # Not flock: that would last as long as any child that was forked meanwhile.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _same(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _owner(descriptor: int) -> str:
    with suppress(OSError):
        os.lseek(descriptor, 0, os.SEEK_SET)
        text = os.read(descriptor, PLACE).decode(errors="replace")
        if text:
            return text
    return "another process"


def _release(path: str, process: int) -> None:
    with _mutex:
        if process != os.getpid() or path not in _held:
            return
        _, descriptor, holders = _held.pop(path)
        if holders > 1:
            _held[path] = process, descriptor, holders - 1
            return
        if os.name == "posix":  # before others can have it; elsewhere open files cannot be removed
            with suppress(OSError):
                os.unlink(path)
        os.close(descriptor)
        if os.name != "posix":
            with suppress(OSError):
                os.unlink(path)
