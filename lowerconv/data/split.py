"""Images held out of a training set, for validation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lowerconv.data.dataset import DataError, Dataset
from lowerconv.data.source import Pixels, Source


def hold_out(source: Source, fraction: float, seed: int) -> tuple[Source, Source]:
    """Return what is left of a data set, and the images held out of it.

    Parameters
    ----------
    source
    fraction
        Of the images, above 0 and below 1, drawn by chance; rounded to whole images.
    seed
        Decides which; not affected by what else is drawn from the same seed.

    Returns
    -------
    (train, validation)
        Both keep the order of the set. Of a `Dataset` both are such, of any other both are a
        `Subset`, which copies nothing.

    Raises
    ------
    DataError
        If one of the two would be empty.

    Examples
    --------
    >>> from lowerconv.data import load
    >>> train, validation = hold_out(load("fashion-mnist")[0], 0.1, seed=0)
    >>> len(train), len(validation)
    (7650, 850)
    """
    count = len(source)
    held = round(count * fraction)
    if not 0 < held < count:
        raise DataError.at(
            f"dataset {source.name!r}",
            f"validation of {fraction:g}",
            f"{held} of {count} images",
            "at least one image to validate and one to train with",
        )
    order = np.random.default_rng([seed, count, 0x5EED]).permutation(count)
    train, validation = (_take(source, np.sort(part)) for part in (order[held:], order[:held]))
    return train, validation


def _take(source: Source, indices: npt.NDArray[np.int64]) -> Source:
    if isinstance(source, Dataset):
        images, labels = source.images[indices], source.labels[indices]
        return Dataset(source.name, images, labels, source.classes)
    return Subset(source, indices)


class Subset:
    """Some images of a data set: a `source.Source`.

    Parameters
    ----------
    source : Source
    indices : ndarray, (N,), int64
        Which images, ascending.
    """

    def __init__(self, source: Source, indices: npt.NDArray[np.int64]) -> None:
        self._source, self._indices = source, indices
        self.name, self.classes = source.name, source.classes
        self.image_shape, self.stored_size = source.image_shape, source.stored_size
        self.labels = source.labels[indices]

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def runs(self) -> npt.NDArray[np.int64] | None:
        """Where runs begin that hold any of the images, and their bytes, all of which are read."""
        runs = self._source.runs
        if runs is None:
            return None
        begins = np.searchsorted(self._indices, runs[:, 0])
        holds_some = np.diff(begins, append=len(self)) > 0
        return np.stack([begins, runs[:, 1]], axis=1)[holds_some]

    def histogram(self) -> npt.NDArray[np.int64]:
        """Return that of the whole set: shards keep no other, and all would have to be read."""
        return self._source.histogram()

    def locate(self, indices: npt.NDArray[np.int64]) -> Pixels:
        """Return where some images lie, decoded and found undamaged."""
        return self._source.locate(self._indices[indices])
