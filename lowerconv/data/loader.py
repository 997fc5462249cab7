"""From stored images to batches of float32: shuffled, shared among ranks, normalised."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from lowerconv.data.dataset import Dataset
from lowerconv.kernels.call import share as part
from lowerconv.kernels.call import spread
from lowerconv.machine.threads import get_num_threads, parallel_region


@njit(cache=True, nogil=True)
def _look_up_share(worker, workers, images, indices, table, out):
    """Copy the images at `indices`, each byte replaced by its channel's entry in `table`."""
    first, last = part(len(indices), worker, workers)
    for i in range(first, last):
        image = images[indices[i]]
        for c in range(image.shape[0]):
            for h in range(image.shape[1]):
                for w in range(image.shape[2]):
                    out[i, c, h, w] = table[c, image[c, h, w]]


@njit(cache=True, nogil=True)
def _look_up(team, images, indices, table, out):
    spread(team, _look_up_share, (images, indices, table, out))


class Normalizer:
    """Bytes to float32 with mean 0 and deviation 1 per channel over a data set.

    Parameters
    ----------
    images : ndarray, (N, C, H, W), uint8
        The training images, whose mean and deviation (of value / 255) count.
    """

    def __init__(self, images: np.ndarray) -> None:
        channels = images.shape[1]
        counts = np.stack(
            [np.bincount(images[:, c].ravel(), minlength=256) for c in range(channels)]
        )
        values = np.arange(256) / 255
        mean = counts @ values / counts.sum(1)
        self._set(mean, np.sqrt(counts @ values**2 / counts.sum(1) - mean**2))

    @classmethod
    def of(cls, mean: Sequence[float], deviation: Sequence[float]) -> Normalizer:
        """Return one with a known mean and deviation of each channel."""
        normalizer = cls.__new__(cls)
        normalizer._set(np.array(mean), np.array(deviation))
        return normalizer

    def _set(self, mean: np.ndarray, deviation: np.ndarray) -> None:
        self.mean, self.deviation = mean, deviation
        values = np.arange(256) / 255
        # A channel of one colour has no deviation: it becomes all zeros.
        divisor = np.where(self.deviation > 0, self.deviation, 1)
        self._table = ((values - self.mean[:, None]) / divisor[:, None]).astype(np.float32)

    def __call__(self, images: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Return the images at `indices`, (len(indices), C, H, W), float32."""
        out = np.empty((len(indices), *images.shape[1:]), np.float32)
        with parallel_region(get_num_threads()) as team:
            _look_up(team, images, indices, self._table, out)
        return out


def share(count: int, rank: int, ranks: int) -> range:
    """Return the part of ``range(count)`` that belongs to one of the ranks.

    Parts differ by one at most and follow each other in the order of the ranks; some are empty
    where there are fewer items than ranks.
    """
    return range(count * rank // ranks, count * (rank + 1) // ranks)


@dataclass(frozen=True)
class Batch:
    """One rank's share of a global batch.

    Attributes
    ----------
    images : ndarray, (n, C, H, W), float32
    labels : ndarray, (n,), int64
    first_sample : int
        Place of the share in the global batch.
    size : int
        Samples in the global batch.
    """

    images: np.ndarray
    labels: np.ndarray
    first_sample: int
    size: int


class Loader:
    """The batches of one rank.

    Every rank shuffles the whole set alike and takes its share of each global batch, so the
    batches are the same whatever the number of ranks.  The last batch of an epoch may be smaller.

    Parameters
    ----------
    dataset : Dataset
    normalizer : Normalizer
    batch : int
        Samples in a global batch.
    rank, ranks : int
    """

    def __init__(
        self, dataset: Dataset, normalizer: Normalizer, batch: int, rank: int = 0, ranks: int = 1
    ) -> None:
        self.dataset, self.normalizer, self.batch = dataset, normalizer, batch
        self.rank, self.ranks = rank, ranks

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch)

    @property
    def batch_sizes(self) -> np.ndarray:
        """Samples in each global batch of an epoch."""
        starts = np.arange(0, len(self.dataset), self.batch)
        return np.minimum(self.batch, len(self.dataset) - starts)

    def batches(self, seed: int | None = None, epoch: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch.

        Parameters
        ----------
        seed : int, optional
            With `epoch` it decides the order; None keeps the order of the set.
        epoch : int
        """
        count = len(self.dataset)
        order = np.arange(count) if seed is None else _shuffled(count, seed, epoch)
        for start in range(0, count, self.batch):
            indices = order[start : start + self.batch]
            mine = share(len(indices), self.rank, self.ranks)
            chosen = indices[mine.start : mine.stop]
            yield Batch(
                self.normalizer(self.dataset.images, chosen),
                self.dataset.labels[chosen],
                mine.start,
                len(indices),
            )


def _shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)
