"""How a run goes on when some of its ranks die: what it keeps, and what it goes back to."""

from __future__ import annotations

from pathlib import Path

from lowerconv.console import PlainConsole
from lowerconv.parallel.faults.elastic import Snapshot, recover
from lowerconv.train.callback import Callback
from lowerconv.train.checkpointer import Checkpointer
from lowerconv.train.progress import ConsoleReporter, Reporter
from lowerconv.train.run_state import RunState


class ElasticRecovery(Callback):
    """The copy of a run from which the others go on after ranks have died.

    Parameters
    ----------
    run : RunState
        Whose weights, history and loaders go back; all ranks make one together.
    checkpointer : Checkpointer
        Of whose directory another rank takes hold if rank 0 dies.
    """

    def __init__(self, run: RunState, checkpointer: Checkpointer) -> None:
        self._run, self._checkpointer = run, checkpointer
        directory = checkpointer.directory
        path = "" if directory is None else str(directory.path)
        self._path = Path(run.communicator.broadcast(path))
        self._snapshot = Snapshot(run.tensors())
        self._correct = 0
        self._keep()

    @property
    def begun(self) -> bool:
        """Whether an update of this epoch has been made."""
        return self._run.counts is not None and self._run.counts.update > 0

    def on_update_end(self, updates: int) -> None:
        """Copy all that is needed to go on from here, should a rank die."""
        self._keep()

    def on_epoch_end(self) -> None:
        """Copy all that is needed to go on after this epoch, whose counts are no longer needed."""
        self._run.counts = None
        self._keep()

    def _keep(self) -> None:
        run = self._run
        update = 0 if run.counts is None else run.counts.update
        self._correct = 0 if run.counts is None else run.counts.correct
        facts = list(run.history), list(run.losses), run.strategy.optimizer.updates
        self._snapshot.take((len(run.history), update), facts)

    def recover(self) -> None:
        """Go on with the ranks that are left, from the last update that any of them has made."""
        run, strategy, communicator = self._run, self._run.strategy, self._run.communicator
        communicator.status.note("going on without the dead")
        own = set(strategy.differing_buffers())
        before = communicator.ranks
        lost = recover(communicator, self._snapshot, own, strategy.rejoin)
        epoch, update = self._snapshot.progress
        run.history[:], run.losses[:], strategy.optimizer.updates = self._snapshot.facts
        if run.counts is None or run.counts.epoch != epoch:
            self._correct = 0
        run.begin_epoch(epoch).go_back(update, self._correct)
        for loader in (run.train_loader, run.test_loader):
            loader.take_share(*strategy.loader_share)
        if communicator.rank == 0 and self._checkpointer.directory is None:
            self._take_over()
        dead = ", ".join(map(str, lost))
        run.reporter.say(
            f"rank {dead} of {before} died: {communicator.ranks} go on in epoch {epoch + 1} from "
            f"update {update + 1}"
        )

    def _take_over(self) -> None:
        """Own the directory of the run, and speak, as rank 0 has died."""
        run = self._run
        if type(run.reporter) is Reporter:
            part, run.reporter = run.reporter.part, ConsoleReporter(PlainConsole())
            run.reporter.part = part
        self._checkpointer.take_over(self._path, run)
