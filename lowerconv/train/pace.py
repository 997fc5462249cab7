"""How an epoch goes, and how fast."""

from __future__ import annotations

import time

from lowerconv.data.loader import Loader
from lowerconv.nn.loss import LossResult
from lowerconv.train.callback import Callback
from lowerconv.train.progress import Reporter


class Pace(Callback):
    """Tells how an epoch goes, and measures how fast, from when it is made on.

    The first batch is left out, if there are others: its kernels may have been compiled.

    Parameters
    ----------
    reporter : Reporter
        Is told.
    loader : Loader
        Of this rank's share.
    before : int
        Images of the epoch that are done already.
    warming_up : bool
        It is the first epoch of this process: tell how long the first batch took.
    """

    def __init__(self, reporter: Reporter, loader: Loader, before: int, warming_up: bool) -> None:
        self._reporter, self._batch, self._warming_up = reporter, loader.batch, warming_up
        self._images, self._ranks, self._before = len(loader.dataset), loader.ranks, before
        self._several = len(loader) > 1
        self._done, self._loss, self._correct, self._batches = 0, 0.0, 0, 0
        self._begin = self._first_batch = time.perf_counter()

    def on_batch_end(self, samples: int, result: LossResult, left: int) -> None:
        """Take in this rank's share of a batch."""
        self._batches += 1
        self._done += samples
        self._loss += result.loss
        self._correct += result.correct
        if self._batches == 1 and self._several:
            self._first_batch = time.perf_counter()
            if self._warming_up:
                seconds = self._first_batch - self._begin
                self._reporter.say(f"first step after {seconds:.1f} s")
        self._reporter.step(
            min(self._before + self._done * self._ranks, self._images),
            self._loss / max(1, self._done),
            self._correct / max(1, self._done),
        )

    def images_per_second(self) -> float:
        """Return how fast it was until now, all ranks together."""
        first = self._batch if self._first_batch > self._begin else 0
        timed = max(0, self._images - self._before) - first
        return max(0, timed) / (time.perf_counter() - self._first_batch)

    def seconds(self) -> float:
        """Return how long it has taken until now."""
        return time.perf_counter() - self._begin
