"""The dataset in memory, and the error of its readers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lowerconv.checks import plain_array
from lowerconv.data.source import Pixels, count_bytes


class DataError(ValueError):
    """Damaged, incomplete or inconsistent data.

    The message names the file and the byte or field at fault, what was found there and what was
    expected; :meth:`at` puts these four into words.
    """

    @classmethod
    def at(cls, source: str | os.PathLike[str], where: str, found: str, expected: str) -> DataError:
        """Make the error from its four parts.

        Parameters
        ----------
        source : path or str
            The file or folder, or the name of the dataset where no single file is at fault.
        where : str
            The byte offset (``"byte 16"``), record or field.
        found, expected : str
            In words, numbers included.

        Returns
        -------
        DataError
        """
        return cls(f"{os.fspath(source)}: {where}: found {found}, expected {expected}")


class DataWarning(RuntimeWarning):
    """Something odd about data that can be used all the same, such as files left out."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images, all of one shape, in memory.

    Parameters
    ----------
    name : str
        Name of the dataset, such as ``"cifar10"``; its train and test parts share it.
    images : ndarray, (N, C, H, W), uint8
        C-contiguous; no extent is 0.
    labels : ndarray, (N,), int64
        Each an index into `classes`.
    classes : tuple of str
        Names of the classes, no two equal.

    Raises
    ------
    TypeError
        If an array is masked.
    DataError
        If a field does not have this form.
    """

    name: str
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        images, labels, classes = self.images, self.labels, self.classes
        for field, array in (("images", images), ("labels", labels)):
            if isinstance(array, np.ndarray):
                plain_array(array, f"dataset {self.name!r}: {field}")
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
            raise self._error("images", _describe(images), "a uint8 array (N, C, H, W)")
        if 0 in images.shape:
            raise self._error("images", f"shape {images.shape}", "at least one image and pixel")
        if not images.flags.c_contiguous:
            raise self._error("images", f"strides {images.strides}", "a C-contiguous array")
        if not isinstance(labels, np.ndarray) or labels.dtype != np.int64 or labels.ndim != 1:
            raise self._error("labels", _describe(labels), "an int64 array (N,)")
        if len(labels) != len(images):
            raise self._error("labels", f"{len(labels)} labels", f"{len(images)}, one per image")
        if not isinstance(classes, tuple) or not all(isinstance(c, str) for c in classes):
            raise self._error("classes", repr(classes), "a tuple of names")
        if not classes or len(set(classes)) != len(classes):
            raise self._error("classes", repr(classes), "at least one name and no name twice")
        outside = np.flatnonzero((labels < 0) | (labels >= len(classes)))
        if outside.size:
            first = int(outside[0])
            raise self._error(
                f"labels[{first}]", f"label {labels[first]}", f"0..{len(classes) - 1}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width (C, H, W) of every image, in pixels."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    @property
    def stored_size(self) -> tuple[int, int]:
        """Height and width in pixels: training sees all of an image."""
        return self.image_shape[1:]

    @property
    def runs(self) -> None:
        """None: no image is read from a disk later on (see `source.Source`)."""
        return None

    def histogram(self) -> npt.NDArray[np.int64]:
        """Return how often each byte occurs in each channel, (C, 256), int64."""
        return count_bytes(self.images)

    def locate(self, indices: npt.NDArray[np.int64]) -> Pixels:
        """Return where some images lie.

        Parameters
        ----------
        indices : ndarray, (n,), int64
            Numbers of the images.

        Returns
        -------
        Pixels
        """
        images = self.images
        addresses = images.ctypes.data + indices * images[0].nbytes
        return Pixels(addresses, np.tile(images.shape[2:], (len(indices), 1)), images)

    def _error(self, field: str, found: str, expected: str) -> DataError:
        return DataError.at(f"dataset {self.name!r}", field, found, expected)


def find_directory(directory: str | os.PathLike[str], expected: str) -> Path:
    """Return the directory as a path, ``~`` expanded.

    Parameters
    ----------
    directory
        Where the user says that the data is.
    expected
        What should be in it, for the error message.

    Raises
    ------
    DataError
        If it is missing or not a directory.
    """
    path = os.path.expanduser(directory)
    if not os.path.isdir(path):
        found = "something that is not a directory" if os.path.exists(path) else "nothing"
        raise DataError.at(path, "directory", found, f"a directory with {expected}")
    return Path(path)


def _describe(value: object) -> str:
    """Name the dtype and shape of an array, or the type of anything else."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return type(value).__name__
