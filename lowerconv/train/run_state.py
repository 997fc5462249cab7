"""The state of a run in progress: what trains, what was measured, and who reports it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lowerconv.copying import not_copied
from lowerconv.data.loader import Loader
from lowerconv.parallel.comm.communicator import Communicator
from lowerconv.parallel.strategies.strategy import Strategy
from lowerconv.train.checkpoint import state
from lowerconv.train.ema import WeightAverage
from lowerconv.train.loop import EpochCounts, update_sizes
from lowerconv.train.metrics import EpochMetrics
from lowerconv.train.progress import Reporter
from lowerconv.train.settings import Settings


@not_copied("make another `Trainer`")
@dataclass
class RunState:
    """What training changes and checkpoints keep, and what it is done with.

    Attributes
    ----------
    settings : Settings
    strategy : Strategy
    train_loader, test_loader : Loader
        Of this rank's share.
    reporter : Reporter
        Another one, where this rank speaks for rank 0, which has died.
    average : WeightAverage or None
    history : list of EpochMetrics
    losses : list of float
        Mean loss of every update of this process.
    counts : EpochCounts or None
        Of the epoch that has begun.
    """

    settings: Settings
    strategy: Strategy
    train_loader: Loader
    test_loader: Loader
    reporter: Reporter
    average: WeightAverage | None
    history: list[EpochMetrics] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    counts: EpochCounts | None = None

    @property
    def communicator(self) -> Communicator:
        """Of the ranks that train."""
        return self.strategy.communicator

    def update_sizes(self) -> np.ndarray:
        """Return how many samples each update of an epoch has."""
        return update_sizes(self.train_loader, self.settings.accumulate)

    def begin_epoch(self, epoch: int) -> EpochCounts:
        """Return what has been counted in an epoch, which may go on or begin."""
        if self.counts is None or self.counts.epoch != epoch:
            self.counts = EpochCounts.of(epoch, len(self.update_sizes()))
        return self.counts

    def tensors(self) -> dict[str, np.ndarray]:
        """Return what this rank has of the arrays that updates change, as checkpoints name them."""
        averages = self.average.values if self.average is not None else {}
        scaling = self.strategy.optimizer.scaling
        return (
            state(self.strategy.network)
            | self.strategy.arrays()
            | {f"ema/{name}": array for name, array in averages.items()}
            | ({} if scaling is None else {"loss_scale": scaling.state})
        )
