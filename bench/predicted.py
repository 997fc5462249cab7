"""Predicted runs beside real ones: predictions are written to a file before anything is run.

    python -m bench.predicted [--model lenet cifar10_quick] [--parallel data tree] [--ranks 1 2]
                              [--batch N] [--data fashion-mnist] [--epochs 3] [--threads 1]
                              [--out DIR]

Each model is calibrated on as many ranks as the largest job has (``lowerconv predict-time
--calibrate``), then all its runs are predicted and written to ``DIR/predictions.json``.  Only then
do the runs begin, ``mpiexec -n RANKS lowerconv train``, on this machine; ``DIR/measured.json`` has
what they took.  Compared are the seconds of a training epoch, the first one left out: those of the
images/s in the run's metrics, the median.  Error: ``predicted / measured - 1``.  Where gradients
may be late, also how many updates were missing in the weights, on average.

All ranks have the same number of threads, so that a job of fewer ranks leaves cores idle.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lowerconv.bench.load import Others
from lowerconv.nn.models import MODELS
from lowerconv.parallel.options import ParallelOptions
from lowerconv.predict.calibration import load
from lowerconv.predict.resources import explore
from lowerconv.predict.step import PREDICTED

PREDICTIONS, MEASURED = "predictions.json", "measured.json"


def launcher() -> str:
    """Return the launcher beside Python, or else on the PATH."""
    found = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which(
        "mpiexec"
    )
    if found is None:
        raise FileNotFoundError("bench.predicted: got no mpiexec, expected one on the PATH")
    return found


def started(ranks: int, arguments: list[str]) -> None:
    """Run ``lowerconv`` on some ranks, and fail where it does."""
    environment = os.environ | {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    }
    command = [launcher(), "-n", str(ranks), sys.executable, "-m", "lowerconv", *arguments]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


def predict(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Calibrate all models, and return a row for each run that will be made."""
    rows = []
    for model in options.model:
        path = options.out / f"{model}.json"
        batch = options.batch or MODELS[model].batch
        counts = list(map(str, options.ranks))
        started(
            max(options.ranks),
            [
                "predict-time",
                "--calibrate",
                str(path),
                "--model",
                model,
                "--data",
                options.data,
                "--threads",
                str(options.threads),
                "--batch",
                str(batch),
                "--ranks",
                *counts,
            ],
        )
        known = load(path)
        for number, strategy in enumerate(options.parallel):
            plan = explore(known, ParallelOptions(strategy), options.ranks, [batch])
            for row in plan.rows:
                if row.step.ranks == 1 and number:
                    continue  # a rank alone sends nothing, whatever the strategy
                rows.append(
                    {
                        "model": model,
                        "parallel": strategy,
                        "ranks": row.step.ranks,
                        "batch": batch,
                        "step": row.step.seconds,
                        "exposed": row.step.exposed,
                        "epoch": row.step.epoch_seconds,
                        "stale": row.step.staleness_mean,
                    }
                )
    return rows


def measure(row: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Return a row with the seconds of an epoch, as a real run takes them."""
    others = Others()
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "run"
        started(
            row["ranks"],
            [
                "train",
                "--model",
                row["model"],
                "--data",
                options.data,
                "--parallel",
                row["parallel"],
                "--batch",
                str(row["batch"]),
                "--epochs",
                str(options.epochs),
                "--threads",
                str(options.threads),
                "--out",
                str(out),
            ],
        )
        with open(out / "metrics.csv", encoding="utf-8", newline="") as file:
            epochs = list(csv.DictReader(file))
    images = load(options.out / f"{row['model']}.json").network.images
    taken = [images / float(epoch["images_per_second"]) for epoch in epochs[1:]]
    missing = [float(epoch["staleness_mean"]) for epoch in epochs[1:] if epoch["staleness_mean"]]
    return row | {
        "measured": statistics.median(taken),
        "epochs": taken,
        "stale_measured": statistics.mean(missing) if missing else None,
        "others": others.cores(),
    }


def table_of(rows: list[dict[str, Any]]) -> Table:
    """Return a row for each run."""
    table = Table(title="seconds of an epoch", box=SIMPLE_HEAD)
    for title in ("model", "strategy"):
        table.add_column(title)
    for title in (
        "ranks",
        "batch",
        "predicted",
        "measured",
        "from",
        "to",
        "error",
        "stale\npredicted",
        "stale\nmeasured",
    ):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        ends = min(row["epochs"]), max(row["epochs"])
        table.add_row(
            *(row["model"], row["parallel"], str(row["ranks"]), str(row["batch"])),
            *(f"{seconds:.3f}" for seconds in (row["epoch"], row["measured"], *ends)),
            f"{row['epoch'] / row['measured'] - 1:+.1%}",
            *("" if n is None else f"{n:.2f}" for n in (row["stale"], row["stale_measured"])),
        )
    return table


def summary(rows: list[dict[str, Any]]) -> str:
    """Return mean and worst of the errors, in words."""
    errors = [abs(row["epoch"] / row["measured"] - 1) for row in rows]
    return f"mean error {statistics.mean(errors):.1%}, worst {max(errors):.1%}, {len(rows)} runs"


def write(path: Path, options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Write rows with what they are of."""
    content = {
        "command": sys.argv[1:],
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "data": options.data,
        "threads": options.threads,
        "rows": rows,
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Predict, write, run, compare."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.predicted",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    models = ("lenet", "cifar10_quick")
    parser.add_argument("--model", nargs="+", choices=list(MODELS), default=models)
    parser.add_argument("--parallel", nargs="+", choices=PREDICTED, default=("data", "tree"))
    parser.add_argument("--ranks", nargs="+", type=int, default=(1, 2))
    parser.add_argument("--batch", type=int, help="of all ranks together; default: the model's")
    parser.add_argument("--data", default="fashion-mnist", help="(%(default)s)")
    parser.add_argument("--epochs", type=int, default=3, help="the first does not count")
    parser.add_argument("--threads", type=int, default=1, help="of each rank (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("predicted"), help="(%(default)s)")
    options = parser.parse_args()
    if options.epochs < 2:
        parser.error(f"argument --epochs: got {options.epochs}, expected at least 2")
    options.out.mkdir(parents=True, exist_ok=True)
    rows = predict(options)
    write(options.out / PREDICTIONS, options, rows)
    rows = [measure(row, options) for row in rows]
    write(options.out / MEASURED, options, rows)
    console = Console(width=120, markup=False, highlight=False, color_system=None)
    console.print(table_of(rows))
    console.print(summary(rows))


if __name__ == "__main__":
    main()
