"""From stored images to batches of float32: shuffled, shared among ranks, changed, normalised."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from lowerconv.arguments import Number, checked
from lowerconv.checks import integer, plain_array
from lowerconv.codegen.compiled import njit
from lowerconv.codegen.ranges import share as part
from lowerconv.conv.arrays import contiguous
from lowerconv.copying import not_copied
from lowerconv.data.ahead import Stream, Threads
from lowerconv.data.augment import Augment
from lowerconv.data.dataset import Dataset
from lowerconv.data.order import epoch_order, share
from lowerconv.data.source import Source, check_images, check_source, count_bytes
from lowerconv.data.transform import identity, transform
from lowerconv.runtime.launch import spread
from lowerconv.runtime.team import MOST
from lowerconv.runtime.threads import get_num_threads, parallel_region

WORKERS = Number(int, 0, MOST)  # threads that make batches ahead of their use


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
    images : ndarray, (N, C, H, W), uint8, or Source
        The training images, whose mean and deviation (of value / 255) count.

    Attributes
    ----------
    mean, deviation : ndarray, (C,), float64
    table : ndarray, (C, 256), float32
        What each byte becomes.
    scale, shift : ndarray, (C,), float32
        The same as a line, for values between bytes: ``value * scale + shift``.
    """

    def __init__(self, images: np.ndarray | Source) -> None:
        if isinstance(images, np.ndarray):
            counts = count_bytes(check_images(images, "images", "(N, C, H, W)"))
        else:
            check_source(images, "images")
            counts = images.histogram()
        values = np.arange(256) / 255
        mean = counts @ values / counts.sum(1)
        self._set(mean, np.sqrt(np.maximum(counts @ values**2 / counts.sum(1) - mean**2, 0)))

    @classmethod
    def of(cls, mean: Sequence[float], deviation: Sequence[float]) -> Normalizer:
        """Return one with a known mean and deviation of each channel."""
        for name, values in (("mean", mean), ("deviation", deviation)):
            if isinstance(values, np.ndarray):
                plain_array(values, name)
        normalizer = cls.__new__(cls)
        normalizer._set(np.array(mean), np.array(deviation))
        return normalizer

    def _set(self, mean: np.ndarray, deviation: np.ndarray) -> None:
        for name, values, least in (("mean", mean, -np.inf), ("deviation", deviation, 0.0)):
            if values.dtype.kind not in "fiu":
                raise TypeError(f"{name}: got {values.dtype} numbers, expected real ones")
            fine = np.isfinite(values) & (values >= least)
            if values.shape != (mean.size,) or not values.size or not fine.all():
                raise ValueError(f"{name}: got {values}, expected a finite number for each channel")
        self.mean, self.deviation = mean.astype(np.float64), deviation.astype(np.float64)
        values = np.arange(256) / 255
        # A channel of one colour has no deviation: it becomes all zeros.
        divisor = np.where(self.deviation > 0, self.deviation, 1)
        self.table = ((values - self.mean[:, None]) / divisor[:, None]).astype(np.float32)
        self.scale = (1 / (255 * divisor)).astype(np.float32)
        self.shift = (-self.mean / divisor).astype(np.float32)

    def __call__(self, images: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Return the images at `indices`, (len(indices), C, H, W), float32.

        Raises
        ------
        TypeError, ValueError
            Images that are no bytes or have other channels; an index that is none of theirs.
        """
        plain_array(images, "images")
        if images.dtype != np.uint8:
            raise TypeError(f"images: got dtype {images.dtype}, expected uint8")
        if images.ndim != 4 or images.shape[1] != len(self.table):
            expected = f"(N, {len(self.table)}, H, W)"
            raise ValueError(f"images: got shape {images.shape}, expected {expected}")
        indices = _check_indices(indices, len(images))
        out = np.empty((len(indices), *images.shape[1:]), np.float32)
        with parallel_region(get_num_threads()) as team:
            _look_up(team, images, indices, self.table, out)
        return out


def _check_indices(indices: np.ndarray, count: int) -> np.ndarray:
    """Return indices as kernels take them, which do not ask whether there is such an image."""
    if plain_array(indices, "indices").dtype.kind not in "iu":
        raise TypeError(f"indices: got dtype {indices.dtype}, expected integers")
    if indices.ndim != 1:
        raise ValueError(f"indices: got shape {indices.shape}, expected (n,)")
    if indices.size and not 0 <= indices.min() <= indices.max() < count:
        found = f"{indices.min()} to {indices.max()}"
        raise ValueError(f"indices: got {found}, expected 0 to {count - 1}")
    return contiguous(indices.astype(np.int64, copy=False), "indices")


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
    indices : ndarray, (n,), int64
        Numbers of the images in the data set.
    """

    images: np.ndarray
    labels: np.ndarray
    first_sample: int
    size: int
    indices: np.ndarray


class LoaderState(NamedTuple):
    """Where a loader is: `position` images of an epoch have been handed out, on all ranks."""

    epoch: int
    position: int


@dataclass(frozen=True)
class LoaderReport:
    """Whether training had to wait for its data.

    Attributes
    ----------
    workers : int
        Threads that work ahead; 0: batches are made when they are asked for.
    batches : int
        Batches handed out.
    waits : int
        How many of them were not ready, the first of each epoch aside.
    seconds : float
        How long these were waited for.
    first_seconds : float
        How long the first ones of all epochs were waited for.
    busy_seconds : float
        How long the threads have worked, all of them together.
    """

    workers: int
    batches: int
    waits: int
    seconds: float
    first_seconds: float
    busy_seconds: float

    def __str__(self) -> str:
        if not self.workers:
            return f"data: {self.batches} batches made in {self.busy_seconds:.2f} s, none ahead"
        threads = f"{self.workers} thread" + ("s" if self.workers > 1 else "")
        waited = (
            f"waited for {self.waits}, {self.seconds:.2f} s in all"
            if self.waits
            else ("training never waited")
        )
        return (
            f"data: {self.batches} batches made ahead by {threads} in {self.busy_seconds:.2f} s; "
            f"{waited}; first batches of epochs: {self.first_seconds:.2f} s"
        )


@not_copied("make another from its arguments")
class Loader:
    """The batches of one rank.

    Every rank shuffles the whole set alike and takes its share of each global batch, so the
    batches are the same whatever the number of ranks.  The last batch of an epoch may be smaller.
    What happens to an image does not depend on ranks and threads either.

    Parameters
    ----------
    dataset : Source
        Such as a `Dataset` or a `ShardSet`. Of stored images that are larger than its
        `image_shape` the middle is taken, unless an augmentation moves it.
    normalizer : Normalizer
    batch : int
        Samples in a global batch.
    rank, ranks : int
    augment : Augment, optional
        What happens to images of a shuffled epoch.
    workers : int, optional
        Threads that decode, change and normalise batches ahead of their use. 0: they are made when
        they are asked for. By default 1, and 0 for images in memory that are only normalised,
        which the threads of the kernels do in passing.
    ahead : int, optional
        Batches that are ready or in work at most; by default one more than there are workers.
    cpus : collection of int, optional
        The only CPUs that workers run on, such as the spare one of `affinity.set_share`. By default
        they run wherever the system puts them.
    """

    def __init__(
        self,
        dataset: Source,
        normalizer: Normalizer,
        batch: int,
        rank: int = 0,
        ranks: int = 1,
        *,
        augment: Augment | None = None,
        workers: int | None = None,
        ahead: int | None = None,
        cpus: Collection[int] | None = None,
    ) -> None:
        check_source(dataset, "dataset")
        self.dataset, self.normalizer = dataset, normalizer
        self.batch = integer(batch, "batch", 1)
        self.rank, self.ranks, self.augment = rank, ranks, augment
        if workers is None:
            workers = 0 if dataset.runs is None and not augment else 1
        self.workers = checked("workers", WORKERS, workers)
        self.ahead = self.workers + 1 if ahead is None else integer(ahead, "ahead", 1)
        if cpus is not None:
            cpus = frozenset(integer(cpu, "cpus", 0) for cpu in cpus)
            if not cpus:
                raise ValueError("cpus: got none, expected at least one, or None for any")
        self._threads = Threads(self.workers, cpus)
        self._begun: tuple[tuple, Stream[Batch]] | None = None
        self.state = LoaderState(0, 0)

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch)

    @property
    def batch_sizes(self) -> np.ndarray:
        """Samples in each global batch of an epoch."""
        starts = np.arange(0, len(self.dataset), self.batch)
        return np.minimum(self.batch, len(self.dataset) - starts)

    def batches(
        self, seed: int | None = None, epoch: int = 0, position: int = 0
    ) -> Iterator[Batch]:
        """Yield the batches of one epoch.

        Parameters
        ----------
        seed : int, optional
            With `epoch` it decides the order, and what happens to each image; None keeps the order
            of the set, and images as they are.
        epoch : int
        position : int
            Images of the epoch that are passed over: with that of `state`, which every batch
            advances, an epoch goes on after that batch.

        Raises
        ------
        DataError
            An image is damaged.
        """
        stream = self._take(seed, epoch, position)
        try:
            for batch in stream:
                position += batch.size
                self.state = LoaderState(epoch, position)
                yield batch
        finally:
            stream.close()

    def prefetch(self, seed: int | None = None, epoch: int = 0, position: int = 0) -> None:
        """Begin with batches that `batches` will be asked for, while something else is done."""
        if self.workers:
            stream = self._take(seed, epoch, position)
            self._begun = (seed, epoch, position), stream

    def take_share(self, rank: int, ranks: int) -> None:
        """Make another share of the batches from here on."""
        if self._begun is not None:
            self._begun[1].close()
            self._begun = None
        self.rank, self.ranks = rank, ranks

    def report(self) -> LoaderReport:
        """Return whether anybody waited for batches, since this loader was made."""
        w = self._threads.waiting
        return LoaderReport(
            self.workers, w.results, w.waits, w.seconds, w.first_seconds, w.busy_seconds
        )

    def close(self) -> None:
        """End the threads; what is asked of the loader later on starts new ones."""
        if self._begun is not None:
            self._begun[1].close()
            self._begun = None
        self._threads.close()

    def _take(self, seed: int | None, epoch: int, position: int) -> Stream[Batch]:
        """Return the stream that was begun for these batches, or a new one."""
        begun, self._begun = self._begun, None
        if begun is not None and begun[1].process == os.getpid():
            key, stream = begun
            if key == (seed, epoch, position):
                return stream
            stream.close()
        if self.workers:
            # Compiled here, if it has to be, while nothing else is; and no batch waits for it.
            self._change(np.empty(0, np.int64), seed, epoch)
        return Stream(self._threads, self._jobs(seed, epoch, position), self.ahead)

    def _jobs(self, seed: int | None, epoch: int, position: int) -> Iterator[Callable[[], Batch]]:
        count = len(self.dataset)
        order = np.arange(count) if seed is None else epoch_order(self.dataset, seed, epoch)
        for start in range(integer(position, "position", 0), count, self.batch):
            yield partial(self._make, order[start : start + self.batch], seed, epoch)

    def _make(self, indices: np.ndarray, seed: int | None, epoch: int) -> Batch:
        """Make this rank's share of the batch of these images."""
        mine = share(len(indices), self.rank, self.ranks)
        chosen = indices[mine.start : mine.stop]
        if not self.workers and not self.augment and isinstance(self.dataset, Dataset):
            images = self.normalizer(self.dataset.images, chosen)
        else:
            images = self._change(chosen, seed, epoch)
        labels = self.dataset.labels[chosen]
        return Batch(images, labels, mine.start, len(indices), chosen)

    def _change(self, chosen: np.ndarray, seed: int | None, epoch: int) -> np.ndarray:
        pixels = self.dataset.locate(chosen)
        shape = self.dataset.image_shape
        if self.augment is None or seed is None:
            changes = identity(len(chosen), pixels.sizes, shape[1:])
            casts = np.zeros((len(chosen), shape[0]), np.int32)
        else:
            changes, casts = self.augment.draw(seed, epoch, chosen, pixels.sizes, shape)
        out = np.empty((len(chosen), *shape), np.float32)
        to = self.normalizer
        transform(pixels.addresses, pixels.sizes, changes, casts, to.table, to.scale, to.shift, out)
        return out
