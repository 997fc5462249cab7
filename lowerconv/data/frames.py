"""Frames in the order in which they come: image files of a folder, and raw ones of a pipe.

Frames are decoded by jobs of `lowerconv.data.ahead`.  What a job makes is a `Frame`, a DataError
where one frame is damaged, so that those after it still come, or None after the last one.
"""

from __future__ import annotations

import io
import os
import re
import select
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from lowerconv.copying import not_copied
from lowerconv.data.dataset import DataError, find_directory
from lowerconv.data.folder import EXTENSIONS, is_image, list_visible
from lowerconv.data.picture import apply_pixel_limit


class Frame(NamedTuple):
    """A frame that is ready for a network.

    Attributes
    ----------
    name : str
        Of the file; of raw frames their number, from 0.
    pixels : ndarray
        As the network takes them.
    came : float
        When it was there to be decoded, on the clock of ``time.perf_counter``: when the last byte
        of a raw frame had come, or when reading a file began.
    """

    name: str
    pixels: np.ndarray
    came: float


class Taker(Protocol):
    """What makes frames ready for a network; called by threads that decode."""

    def read(self, path: Path) -> np.ndarray:
        """Return an image file as the network takes it; raises DataError where it is damaged."""

    def take(self, pixels: np.ndarray) -> np.ndarray:
        """Return RGB pixels (H, W, 3), uint8, as the network takes them: a copy."""


Decoded = Frame | DataError | None
Jobs = Iterator[Callable[[], Decoded]]


class Frames(Protocol):
    """Where frames come from.

    Attributes
    ----------
    in_turn : bool
        Whether a frame can only be decoded after the one before: by one thread.
    """

    in_turn: bool

    def jobs(self, taker: Taker) -> Jobs:
        """Yield what decodes the frames, one by one."""

    def stop(self) -> None:
        """Have jobs that wait for a frame end without one."""

    def close(self) -> None:
        """Give back what the system has lent, when no job is under way."""


def natural(name: str) -> tuple:
    """Return the key that sorts names as people count: ``frame9`` before ``frame10``.

    Examples
    --------
    >>> sorted(["b1", "a10", "a9"], key=natural)
    ['a9', 'a10', 'b1']
    """
    parts = re.split("([0-9]+)", name)
    return [int(p) if i % 2 else p for i, p in enumerate(parts)], name


class FolderFrames:
    """The image files of a folder, in natural order.

    Parameters
    ----------
    directory : path
        Hidden files, folders and files with other extensions in it are passed over.

    Raises
    ------
    DataError
        There is no such folder, or no image in it.
    """

    in_turn = False

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        root = find_directory(directory, "images")
        apply_pixel_limit()
        paths = [path for path in list_visible(root) if is_image(path)]
        if not paths:
            expected = f"files {' '.join(sorted(EXTENSIONS))}"
            raise DataError.at(root, "folder", "no images", expected)
        self.paths = sorted(paths, key=lambda path: natural(path.name))

    def jobs(self, taker: Taker) -> Jobs:
        """Yield what decodes the frames, one by one."""
        for path in self.paths:
            yield partial(_read, path, taker)

    def stop(self) -> None:
        """Do nothing: no file is waited for."""

    def close(self) -> None:
        """Do nothing: files are closed when they have been read."""


def _read(path: Path, taker: Taker) -> Decoded:
    came = time.perf_counter()
    try:
        return Frame(path.name, taker.read(path), came)
    except DataError as error:
        return error


@not_copied("make another from its arguments")
class RawFrames:
    """Frames of RGB bytes, row by row, one after the other: ``rgb24``, as ffmpeg calls it.

    Parameters
    ----------
    descriptor : int
        Of a pipe or file that is open for reading; it stays open.
    size : (int, int)
        Width and height.
    name : str
        For errors.
    """

    in_turn = True

    def __init__(self, descriptor: int, size: tuple[int, int], name: str = "stdin") -> None:
        self.width, self.height = size
        self._name, self._descriptor = name, descriptor
        self._file = io.FileIO(descriptor, closefd=False)
        self._bytes = bytearray(3 * self.width * self.height)
        self._pixels = np.frombuffer(self._bytes, np.uint8).reshape(self.height, self.width, 3)
        self._frames, self._over = 0, False
        self._poll: select.poll | None = None
        self._wake: tuple[int, ...] = ()
        if hasattr(select, "poll"):  # elsewhere `stop` ends with the next bytes
            self._wake = os.pipe()
            self._poll = select.poll()
            for ready in (descriptor, self._wake[0]):
                self._poll.register(ready, select.POLLIN)

    def jobs(self, taker: Taker) -> Jobs:
        """Yield what decodes the frames, one by one, as long as there may be another."""
        while not self._over:
            yield partial(self._next, taker)

    def _next(self, taker: Taker) -> Decoded:
        if self._over:
            return None
        got = self._fill()
        came = time.perf_counter()
        if got == len(self._bytes):
            pixels = taker.take(self._pixels)
            self._frames += 1
            return Frame(str(self._frames - 1), pixels, came)
        stopped, self._over = self._over, True
        if not got or stopped:
            return None
        return DataError.at(
            self._name,
            f"frame {self._frames}",
            f"{got:,} bytes, then the end",
            f"{len(self._bytes):,}, those of {self.width}x{self.height} pixels in rgb24",
        )

    def _fill(self) -> int:
        """Read a frame; returns how many bytes have come."""
        left = memoryview(self._bytes)
        while left and self._something_came():
            count = self._file.readinto(left)
            if count == 0:
                break
            left = left[count or 0 :]  # None: nothing is there, and it must not be waited for
        return len(self._bytes) - len(left)

    def _something_came(self) -> bool:
        """Wait for bytes, or the end of the pipe; returns False where `stop` came before."""
        if self._poll is not None:
            self._poll.poll()
        return not self._over

    def stop(self) -> None:
        """Have jobs that wait for a frame end without one."""
        self._over = True
        if self._wake:
            os.write(self._wake[1], b".")

    def close(self) -> None:
        """Close what `stop` needs."""
        while self._wake:
            with suppress(OSError):
                os.close(self._wake[-1])
            self._wake = self._wake[:-1]
        self._file.close()
