"""What a run has measured: one row per epoch, as a CSV file and as a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from lowerconv.files import write_atomically
from lowerconv.printable import drawable


@dataclass(frozen=True)
class EpochMetrics:
    """One epoch: losses in nats per sample, accuracies from 0 to 1.

    Those of the test are of the weights after the epoch, on the test set or on the images held out
    for validation; ``ema`` stands for the same test of the averaged weights.  The speed is that of
    training after the first step, which may have compiled; `seconds` is all of the epoch, its tests
    included; the learning rate is that of the last update.  Staleness is how many updates the
    weights lacked for which a gradient was computed, with strategies that allow it.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    images_per_second: float
    seconds: float
    learning_rate: float
    ema_loss: float | None = None
    ema_accuracy: float | None = None
    staleness_mean: float | None = None
    staleness_max: int | None = None

    @property
    def accuracy(self) -> float:
        """Of the weights that will predict: the averaged ones where there are any."""
        return self.test_accuracy if self.ema_accuracy is None else self.ema_accuracy


def best_epoch(history: Sequence[EpochMetrics]) -> int:
    """Return the number of the most accurate epoch, the first of equals; 0 if there is none."""
    return max(history, key=lambda row: row.accuracy).epoch if history else 0


def write_csv(path: Path, history: list[EpochMetrics]) -> None:
    """Write the history as CSV, one row per epoch, atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, [field.name for field in fields(EpochMetrics)], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(asdict(row) for row in history)
    write_atomically(path, text.getvalue().encode())


def draw_curves(path: Path, history: list[EpochMetrics], title: str) -> bool:
    """Draw loss and accuracy over the epochs; False where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        return False
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    epochs = [row.epoch for row in history]
    for place, (quantity, label, factor) in enumerate(
        [("loss", "cross-entropy (nats)", 1), ("accuracy", "accuracy (%)", 100)], 1
    ):
        axes = figure.add_subplot(1, 2, place)
        # Told apart by line style too, so that a print in grey can be read.
        for part, style, colour in (
            ("train", "--", "tab:blue"),
            ("test", "-", "tab:red"),
            ("ema", ":", "tab:green"),
        ):
            values = [getattr(row, f"{part}_{quantity}") for row in history]
            if None not in values:
                axes.plot(
                    epochs,
                    [factor * value for value in values],
                    style,
                    color=colour,
                    marker="o",
                    markersize=3,
                    label=part,
                )
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(drawable(title))
    partial = io.BytesIO()
    figure.savefig(partial, format="png", dpi=120)
    write_atomically(path, partial.getvalue())
    return True
