"""What a run writes to go on from, and what it goes on from: read and written by rank 0."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

from lowerconv.copying import not_copied
from lowerconv.train import resume
from lowerconv.train.checkpoint import LAST, Checkpoint
from lowerconv.train.directory import RunDirectory
from lowerconv.train.metrics import EpochMetrics
from lowerconv.train.run_state import RunState
from lowerconv.train.setup import Setup


@not_copied("make another `Trainer`")
class Checkpointer:
    """The checkpoints of a run.

    Parameters
    ----------
    tensorboard : bool
        Whether the directory has events for TensorBoard, too.

    Attributes
    ----------
    directory : RunDirectory or None
        That of the run, on rank 0.
    saved : Checkpoint or None
        What the run goes on from, until `restore`.
    changes : list of str
        What is not as it was before, a line each.
    """

    def __init__(self, tensorboard: bool) -> None:
        self._tensorboard = tensorboard
        self.directory: RunDirectory | None = None
        self.saved: Checkpoint | None = None
        self.changes: list[str] = []

    def load(self, path: Path) -> None:
        """Take over the directory of a run that has ended, with its last checkpoint."""
        self.directory = RunDirectory(path)
        self.saved = self.directory.resume()

    def begin(self, path: Path) -> None:
        """Make the directory of a new run."""
        self.directory = RunDirectory(path)
        self.directory.begin()

    def check(self, setup: Setup, run: RunState) -> None:
        """Raise CheckpointError unless a run can go on from what was loaded."""
        assert self.saved is not None
        assert self.directory is not None
        path, strategy = self.directory.path / LAST, run.strategy
        work = resume.describe_work(setup.parallel, run.communicator.ranks)
        updates = len(run.update_sizes())
        self.changes = resume.check(self.saved.state, setup, work, updates, path)
        self.saved.check(strategy.shapes(run.tensors()), path)
        run.history[:] = [EpochMetrics(**row) for row in self.saved.state["history"]]
        strategy.optimizer.updates = self.saved.state["updates"]

    def record(self, run: RunState) -> None:
        """Write events for TensorBoard, where they are asked for; rank 0's."""
        if self._tensorboard and self.directory is not None:
            self.directory.record(run.history)

    def take_over(self, path: Path, run: RunState) -> None:
        """Own the directory of a run whose rank 0 has died."""
        self.directory = RunDirectory(path)
        try:
            self.directory.take_over()
            self.record(run)
            if not os.access(path, os.W_OK):
                raise PermissionError("no permission to write")
        except OSError as error:
            raise RuntimeError(
                f"rank 0 has died, and {path} cannot be written here: {error}; elastic "
                "expects a directory that all hosts share"
            ) from None

    def restore(self, run: RunState) -> None:
        """Give all ranks what rank 0 may have read from a checkpoint; all ranks call it."""
        communicator, strategy = run.communicator, run.strategy
        arrays = run.tensors()
        if communicator.broadcast(self.saved is not None):
            strategy.scatter_whole(arrays, self.saved.tensors if self.saved is not None else None)
            self.saved = None
        else:
            for name in strategy.replicated():
                communicator.broadcast_array(arrays[name])
        run.history[:], strategy.optimizer.updates = communicator.broadcast(
            (run.history, strategy.optimizer.updates)
        )

    def save(self, setup: Setup, run: RunState) -> None:
        """Write the metrics and the checkpoints, on rank 0; all ranks call it."""
        run.communicator.status.note("writing the checkpoint")
        tensors = run.strategy.gather_whole(run.tensors())
        if self.directory is not None:
            facts = resume.describe_run(setup) | {
                "work": resume.describe_work(setup.parallel, run.communicator.ranks),
                "updates": run.strategy.optimizer.updates,
                "history": [asdict(row) for row in run.history],
            }
            self.directory.save(Checkpoint(tensors, facts), run.history)
