"""What a run leaves on disk: checkpoints, metrics, curves, and events for TensorBoard."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import NamedTemporaryFile

from lowerconv.copying import not_copied
from lowerconv.train.checkpoint import (
    BEST,
    LAST,
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from lowerconv.train.metrics import EpochMetrics, best_epoch, draw_curves, write_csv
from lowerconv.train.tensorboard import TensorBoard

RUNS = Path("runs")
METRICS = "metrics.csv"


def default_path(model: str, data: str, resume: bool) -> Path:
    """Return the next directory for runs of this model and data, or the last one to resume."""
    stem = f"{model}-{re.sub(r'[^A-Za-z0-9]+', '-', data).strip('-')}-"
    numbers = [
        int(path.name.removeprefix(stem))
        for path in RUNS.glob(f"{stem}*")
        if path.name.removeprefix(stem).isdecimal()
    ]
    last = max(numbers, default=0)
    return RUNS / f"{stem}{last if resume else last + 1}"


@not_copied("make another from its arguments")
class RunDirectory:
    """The directory of a run.

    Parameters
    ----------
    path : Path
        Made by `open`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: TensorBoard | None = None

    def load(self) -> Checkpoint:
        """Return the last checkpoint; raises CheckpointError if it is missing or damaged."""
        return load_checkpoint(self.path / LAST)

    def open(self, history: list[EpochMetrics], tensorboard: bool) -> None:
        """Make the directory, and write the events of the epochs that are done.

        Raises
        ------
        OSError
            It cannot be made, or nothing can be written in it.
        RuntimeError
            There is no TensorBoard, and it is asked for.
        """
        try:
            if tensorboard:
                self.events = TensorBoard(self.path, history)
            self.path.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=self.path):
                pass
        except OSError as error:
            reason = error.strerror or error
            raise OSError(
                f"{self.path}: cannot be written ({reason}); --out names another directory"
            ) from error

    def check_new(self) -> None:
        """Raise CheckpointError if there is a run already."""
        if (self.path / LAST).exists():
            raise CheckpointError(
                f"{self.path}: holds a run already; --resume continues it, another --out starts a "
                "new one"
            )

    def save(self, checkpoint: Checkpoint, history: list[EpochMetrics]) -> None:
        """Write the metrics and the checkpoints after an epoch.

        The last checkpoint comes last: what it says is done is on disk, and whatever a killed run
        wrote before it is written once more, the same, by the run that resumes.
        """
        if history and best_epoch(history) == len(history):
            save_checkpoint(self.path / BEST, checkpoint)
        write_csv(self.path / METRICS, history)
        if self.events is not None and history:
            self.events.write(history[-1])
        save_checkpoint(self.path / LAST, checkpoint)

    def draw(self, history: list[EpochMetrics], title: str) -> None:
        """Draw the curves, where matplotlib is installed."""
        draw_curves(self.path / "curves.png", history, title)

    def close(self) -> None:
        """End the file of events."""
        if self.events is not None:
            self.events.close()
