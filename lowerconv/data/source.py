"""What a loader reads from: labelled images that lie somewhere in memory."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from lowerconv.checks import plain_array
from lowerconv.codegen.compiled import njit
from lowerconv.copying import not_copied


@not_copied("copy what they were located in, and locate them there")
class Pixels(NamedTuple):
    """Where some images lie.

    Attributes
    ----------
    addresses : ndarray, (n,), int64
        Of the first byte of each image (C, H, W), which has no gaps.
    sizes : ndarray, (n, 2), int64
        Height and width of each.
    owner : object
        Keeps the memory alive.
    """

    addresses: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    owner: object


class Source(Protocol):
    """Labelled images, of which a loader takes some at a time, from several threads.

    `dataset.Dataset` has them in memory, `shards.ShardSet` in mapped files.
    """

    @property
    def name(self) -> str:
        """Name of the data set; its train and test parts share it."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Index into `classes` for each image, (N,)."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width in pixels that training sees; stored images may be larger."""

    @property
    def stored_size(self) -> tuple[int, int]:
        """Height and width in pixels that images were resized to.

        Training sees the middle of that.  A stored image may have more on both sides.
        """

    @property
    def runs(self) -> npt.NDArray[np.int64] | None:
        """Runs of images that are read from a disk in one piece; None for images in memory.

        int64, (runs, 2): the number of the first image of each, and how many bytes the run has.
        """

    def __len__(self) -> int: ...

    def histogram(self) -> npt.NDArray[np.int64]:
        """Return how often each byte occurs in each channel, (C, 256), int64."""

    def locate(self, indices: npt.NDArray[np.int64]) -> Pixels:
        """Return where some images lie, decoded and found undamaged.

        Parameters
        ----------
        indices : ndarray, (n,), int64
            Numbers of the images.

        Returns
        -------
        Pixels

        Raises
        ------
        DataError
            One of them is damaged.
        """


def check_source(value: Any, argument: str) -> None:
    """Raise TypeError for what is no data set, such as an array."""
    if not all(hasattr(value, name) for name in ("image_shape", "classes", "locate")):
        raise TypeError(
            f"{argument}: got {type(value).__name__}, expected a data set such as "
            "lowerconv.data.Dataset"
        )


def check_images(value: Any, argument: str, shape: str) -> npt.NDArray[np.uint8]:
    """Return an array of bytes with at least one pixel, of a shape such as ``(C, H, W)``."""
    images = plain_array(value, argument)
    if images.dtype != np.uint8:
        raise TypeError(f"{argument}: got dtype {images.dtype}, expected uint8")
    if images.ndim != shape.count(",") + 1 or not images.size:
        raise ValueError(f"{argument}: got shape {images.shape}, expected {shape}, none of them 0")
    return images


@njit(cache=True, nogil=True)
def _count(images, counts):
    for n in range(images.shape[0]):
        for c in range(images.shape[1]):
            for h in range(images.shape[2]):
                for w in range(images.shape[3]):
                    counts[c, images[n, c, h, w]] += 1


def count_bytes(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return how often each byte occurs in each channel of images (N, C, H, W)."""
    counts = np.zeros((images.shape[1], 256), np.int64)
    _count(images, counts)
    return counts
