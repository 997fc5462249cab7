"""From stored images to batches of float32: shuffled, shared among ranks, changed, normalised."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from lowerconv.arguments import Number, checked
from lowerconv.checks import integer
from lowerconv.copying import not_copied
from lowerconv.data.ahead import Stream, Threads
from lowerconv.data.augment import Augment
from lowerconv.data.dataset import Dataset
from lowerconv.data.normalizer import Normalizer
from lowerconv.data.order import epoch_order, share
from lowerconv.data.source import Source, check_source
from lowerconv.data.transform import identity, transform
from lowerconv.machine.variables import THREADS_MAX

WORKERS = Number(int, 0, THREADS_MAX)  # threads that make batches ahead of their use


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
            Counted from 0.
        position : int
            Images of the epoch that are passed over. With the position of `state`, which every
            batch advances, an epoch goes on where it was left.

        Yields
        ------
        Batch

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
        """Begin with batches that `batches` will be asked for, while something else is done.

        Parameters
        ----------
        seed, epoch, position : int, optional
            As for `batches`.
        """
        if self.workers:
            stream = self._take(seed, epoch, position)
            self._begun = (seed, epoch, position), stream

    def take_share(self, rank: int, ranks: int) -> None:
        """Make another share of the batches from here on.

        Parameters
        ----------
        rank, ranks : int
            The share's number, from 0, and how many there are.
        """
        if self._begun is not None:
            self._begun[1].close()
            self._begun = None
        self.rank, self.ranks = rank, ranks

    def report(self) -> LoaderReport:
        """Return how long training has waited for batches since this loader was made."""
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
