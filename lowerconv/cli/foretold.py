"""What a calibration predicts of a run of ``lowerconv train``, and how right that was."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from lowerconv.predict.calibration import Calibration
from lowerconv.predict.collective_costs import Cluster, Placement
from lowerconv.predict.resources import why
from lowerconv.predict.step import StepPrediction, predict_step
from lowerconv.runtime.threads import get_num_threads
from lowerconv.train.metrics import EpochMetrics
from lowerconv.train.trainer import Trainer


@dataclass(frozen=True)
class Foretold:
    """A prediction of a run, made before it.

    Attributes
    ----------
    step : StepPrediction
    """

    step: StepPrediction

    def before(self) -> str:
        """Return what is predicted, in words."""
        return f"predicted: {self.step.epoch_seconds:.3g} s to train an epoch; {why(self.step)}"

    def after(self, history: Sequence[EpochMetrics]) -> str:
        """Return how right that was: beside the median epoch, the first of several left out."""
        epochs = history[1:] or history
        taken = self.step.images / statistics.median(row.images_per_second for row in epochs)
        return (
            f"predicted {self.step.epoch_seconds:.3g} s to train an epoch, measured {taken:.3g} s "
            f"(predicted / measured - 1: {self.step.epoch_seconds / taken - 1:+.1%})"
        )


def foretell(known: Calibration, trainer: Trainer, spare: bool) -> Foretold:
    """Return what a calibration predicts of a run.

    Parameters
    ----------
    known : Calibration
    trainer : Trainer
        That has not begun yet.
    spare : bool
        Whether each rank leaves a core to messages.

    Raises
    ------
    ValueError
        The calibration is of something else, or the run is one that is not predicted; the message
        says why.
    """
    settings, facts = trainer.settings, known.network
    for name, mine, theirs in (
        ("model", settings.model, facts.model),
        ("data", settings.data, facts.data),
        ("threads", get_num_threads(), facts.threads),
        ("accumulate", settings.accumulate, 1),
    ):
        if mine != theirs:
            raise ValueError(f"{name}: got {mine!r}, expected {theirs!r}, as was calibrated")
    hosts = trainer.communicator.hosts
    per_host = len(hosts[0])
    if hosts != [list(range(h[0], h[-1] + 1)) for h in hosts] or len(set(map(len, hosts))) > 1:
        raise ValueError("hosts: expected as many ranks on each, numbered one host after the other")
    cluster = Cluster(Placement(trainer.communicator.ranks, per_host), known.links_by_kind(), spare)
    return Foretold(predict_step(known, cluster, settings.batch, trainer.parallel))
