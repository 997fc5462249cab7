"""Asynchronous data parallelism: sums of gradients arrive while the next steps are computed.

With staleness s, gradients J and learning rate lr::

    W[t+1] = W[t] - lr sum_n dJ(x_n; W[t-s])

    step      |   0   |   1   |   2   |   3   |   4   |            s = 2
    sum of 0          |~~~~~~~~~~|
    sum of 1                  |~~~~~~~~|                           ~ on its way
    sum of 2                           |~~~~~~~~~|
    applied                      0     1         2
    missing       0       1       1       2       1

There is no server and no barrier: a step begins as long as no more than s sums are missing.  Sums
are applied in the order of the steps, the same ones on all ranks, so that all have the same weights
when nothing is on its way; in between some may be ahead of others.

Oyama, Nomura, Sato, Nishimura, Tamatsu, Matsuoka, "Predicting statistics of asynchronous SGD
parameters for a large-scale distributed deep learning system on GPU supercomputers" (2016).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from lowerconv.copying import not_copied
from lowerconv.nn.loss import LossResult
from lowerconv.parallel.comm.buckets import Buckets
from lowerconv.parallel.comm.engine import Task
from lowerconv.parallel.strategies.data import DataParallel
from lowerconv.parallel.strategies.staleness import Staleness
from lowerconv.parallel.strategies.strategy import Work


@not_copied("make another `Trainer` or strategy in each process")
@dataclass
class PendingUpdate:
    """The gradients of an update, on their way to sums.

    Attributes
    ----------
    lr : float
        Of the update.
    sums : ndarray, (parameters,)
    tasks : list of Task
        One for each bucket.
    """

    lr: float
    sums: np.ndarray
    tasks: list[Task]


class Asynchronous(DataParallel):
    """Data parallelism whose sums may be some steps late.

    Sums are applied as soon as they are found before a step; ``deterministic`` applies each as late
    as allowed, whenever it comes, so that every gradient but the first of an epoch is exactly
    ``staleness`` updates old.  Nothing is on its way between epochs.

    Parameters as of :class:`Strategy`.
    """

    staleness: Staleness

    def _build(self) -> None:
        super()._build()
        options = self.options
        self.synchronous = options.staleness == 0
        self.staleness = Staleness(options.staleness)
        self._pending: deque[PendingUpdate] = deque()
        self._free = [np.empty_like(self.optimizer.grad) for _ in range(options.staleness + 1)]

    def train(self, work: Work) -> LossResult:
        """Apply the sums that have come, and compute this rank's share of the next."""
        if work.first:
            self._apply(self.options.staleness)
            self.staleness.note(len(self._pending), len(self._pending))
        return super().train(work)

    def _sum(
        self,
        buckets: Buckets,
        gradients: tuple[np.ndarray, ...],
        earlier: np.ndarray | None,
        lr: float,
    ) -> None:
        sums = self._free.pop()
        buckets.begin(earlier, sums)
        self.network.backward(*gradients)
        self._pending.append(PendingUpdate(lr, sums, buckets.end()))
        if self.synchronous:  # nothing to gain from being late
            self._apply(0)

    @property
    def _defers_updates(self) -> bool:
        return False  # sums of an older step go before those of newer ones

    def _apply(self, most: int) -> None:
        """Apply the sums that have come, and wait until at most `most` of them are missing."""
        if self.buckets is None or self.engine is None:
            return
        if not self.engine.threaded:
            self.engine.progress()
        while self._pending and (len(self._pending) > most or self._arrived(self._pending[0])):
            update = self._pending.popleft()
            self.buckets.update(update.tasks, update.lr, update.sums)
            self._free.append(update.sums)

    def _arrived(self, update: PendingUpdate) -> bool:
        return not self.options.deterministic and all(task.done for task in update.tasks)

    def finish(self) -> None:
        """Apply all sums that are on their way."""
        self._apply(0)
        self.staleness.end_epoch(self.communicator)

    def describe(self) -> str:
        """Return how gradients are summed, and how late they may be."""
        return ", ".join(
            filter(None, [super().describe(), f"up to {self.options.staleness} steps late"])
        )
