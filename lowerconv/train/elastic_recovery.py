"""How a run goes on when some of its ranks die: what it keeps, and what it goes back to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from lowerconv.console import PlainConsole
from lowerconv.copying import not_copied
from lowerconv.parallel.faults.elastic import Snapshot, recover
from lowerconv.train.directory import RunDirectory
from lowerconv.train.loop import EpochCounts, update_sizes
from lowerconv.train.progress import ConsoleReporter, Reporter

if TYPE_CHECKING:
    from lowerconv.train.trainer import Trainer


@not_copied("make another from its arguments")
class ElasticRecovery:
    """The copy of a run that the ranks that are left go on from.

    Parameters
    ----------
    trainer : Trainer
        Whose weights, history and loaders go back; all ranks make one together.
    tensorboard : bool
        Whether the directory has events for TensorBoard, should this rank have to take it over.

    Attributes
    ----------
    tally : EpochCounts or None
        What has been counted in the epoch that has begun.
    """

    def __init__(self, trainer: Trainer, tensorboard: bool) -> None:
        self._trainer, self._tensorboard = trainer, tensorboard
        self._path = Path(trainer.communicator.broadcast(str(trainer.out)))
        self._snapshot = Snapshot(trainer._tensors())
        self._right = 0
        self.tally: EpochCounts | None = None
        self.keep()

    @property
    def begun(self) -> bool:
        """Whether an update of this epoch has been made."""
        return self.tally is not None and self.tally.update > 0

    def begin(self, epoch: int) -> EpochCounts:
        """Return what has been counted in an epoch, which may go on or begin."""
        if self.tally is None or self.tally.epoch != epoch:
            self.tally = EpochCounts.of(epoch, self._updates())
        return self.tally

    def _updates(self) -> int:
        trainer = self._trainer
        return len(update_sizes(trainer._train, trainer.settings.accumulate))

    def end_epoch(self) -> None:
        """Keep what there is after an epoch, of which nothing has to be counted any more."""
        self.tally = None
        self.keep()

    def keep(self) -> None:
        """Keep what it takes to go on from here without a rank that dies."""
        trainer = self._trainer
        update = 0 if self.tally is None else self.tally.update
        self._right = 0 if self.tally is None else self.tally.right
        facts = list(trainer.history), list(trainer.losses), trainer.optimizer.updates
        self._snapshot.take((len(trainer.history), update), facts)

    def may_go_on(self, error: Exception) -> bool:
        """Return whether an error is only the death of others."""
        return self._trainer.communicator.has_lost_ranks(error)

    def recover(self) -> None:
        """Go on with the ranks that are left, from the last update that any of them has made."""
        trainer = self._trainer
        trainer.communicator.status.note("going on without the dead")
        own = set(trainer.strategy.differing_buffers())
        before = trainer.communicator.ranks
        found = recover(trainer.communicator, self._snapshot, own, trainer.strategy.rejoin)
        epoch, update = found.place
        history, losses, trainer.optimizer.updates = found.facts
        trainer.history, trainer.losses = list(history), list(losses)
        if self.tally is None or self.tally.epoch != epoch:
            self.tally, self._right = EpochCounts.of(epoch, self._updates()), 0
        self.tally.go_back(update, self._right)
        for loader in (trainer._train, trainer._test):
            loader.take_share(*trainer.strategy.loader_share)
        if trainer.communicator.rank == 0 and trainer._directory is None:
            self._take_over()
        lost = ", ".join(map(str, found.lost))
        trainer.reporter.say(
            f"rank {lost} of {before} died: {trainer.communicator.ranks} go on in epoch "
            f"{epoch + 1} from update {update + 1}"
        )

    def _take_over(self) -> None:
        """Own the directory of the run, and speak, as rank 0 has died."""
        trainer = self._trainer
        if type(trainer.reporter) is Reporter:
            part, trainer.reporter = trainer.reporter.part, ConsoleReporter(PlainConsole())
            trainer.reporter.part = part
        trainer._directory = RunDirectory(self._path)
        try:
            trainer._directory.take_over()
            if self._tensorboard:
                trainer._directory.record(trainer.history)
            if not os.access(self._path, os.W_OK):
                raise PermissionError("no permission to write")
        except OSError as error:
            raise RuntimeError(
                f"rank 0 has died, and {self._path} cannot be written here: {error}; elastic "
                "expects a directory that all hosts share"
            ) from None
