"""Metrics as TensorBoard events, which ``tensorboard --logdir runs`` shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lowerconv.copying import not_copied
from lowerconv.train.metrics import EpochMetrics

GET_TENSORBOARD = 'pip install "lowerconv[tensorboard]"'


def require_tensorboard() -> Any:
    """Return what writes events; raise RuntimeError where it is not installed."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise RuntimeError(
            f"tensorboard: tensorboardX is not installed; get it with: {GET_TENSORBOARD}"
        ) from None
    return SummaryWriter


@not_copied("make another from its arguments")
class TensorBoard:
    """Writes a point of every metric for each epoch.

    Parameters
    ----------
    directory : Path
    history : sequence of EpochMetrics
        Of the run that is resumed. It is written anew, and what a killed process wrote no longer
        counts: its last epochs may be missing, or be some that the checkpoint does not have.

    Raises
    ------
    RuntimeError
        The package that writes events is not installed.
    """

    def __init__(self, directory: Path, history: Sequence[EpochMetrics]) -> None:
        # Files are named after the second in which they are made: the suffix tells two apart.
        self._writer = require_tensorboard()(
            str(directory), purge_step=1, filename_suffix=f".after-{len(history)}"
        )
        for row in history:
            self.write(row)

    def write(self, row: EpochMetrics) -> None:
        """Add the metrics of an epoch; those of training and test share a chart."""
        for name, value in asdict(row).items():
            if name != "epoch" and value is not None:
                part, _, quantity = name.partition("_")
                tag = f"{quantity}/{part}" if quantity in ("loss", "accuracy") else name
                self._writer.add_scalar(tag, value, row.epoch)
        self._writer.flush()

    def close(self) -> None:
        """End the file of events."""
        self._writer.close()
