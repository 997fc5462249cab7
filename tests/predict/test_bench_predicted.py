"""`bench.predicted`: predictions are on disk before anything is run."""

import json
import sys
from pathlib import Path

import pytest

from lowerconv.predict.calibration import HOST, save
from lowerconv.train.metrics import EpochMetrics, write_csv

from .made_up import calibration, link_seconds, step_seconds

ROOT = Path(__file__).parents[2]


@pytest.fixture
def predicted(monkeypatch):
    """Return the module: it is not installed."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])
    from bench import predicted

    return predicted


def test_predictions_are_written_first(predicted, tmp_path, monkeypatch, capsys):
    """A step takes 64 ms, 1000 images 1 s; runs are made up that take a quarter more."""
    ran = []

    def started(ranks, arguments):
        options = dict(zip(arguments[1::2], arguments[2::2], strict=False))
        if arguments[0] == "predict-time":
            steps = [step_seconds(32, 0.032 / 6), step_seconds(64, 0.064 / 6)]
            known = calibration(steps, [link_seconds(HOST, mib=1e-6)])
            save(known, Path(options["--calibrate"]))
            return
        ran.append((ranks, options["--parallel"]))
        assert len(json.loads((tmp_path / "predictions.json").read_text())["rows"]) == 3
        speed = 800.0 * ranks
        rows = [EpochMetrics(n, 1, 0, 1, 0, s, 1, 0.1) for n, s in ((1, 1.0), (2, speed))]
        out = Path(options["--out"])
        out.mkdir()
        write_csv(out / "metrics.csv", rows)

    monkeypatch.setattr(predicted, "started", started)
    arguments = ["x", "--model", "lenet", "--epochs", "2", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    predicted.main()
    assert ran == [(1, "data"), (2, "data"), (2, "tree")]
    printed = capsys.readouterr().out
    assert printed.count("-20.0%") == 3
    assert "mean error 20.0%, worst 20.0%, 3 runs" in printed
    rows = json.loads((tmp_path / "measured.json").read_text())["rows"]
    assert [row["measured"] for row in rows] == pytest.approx([1.25, 0.625, 0.625])
    assert [row["epoch"] for row in rows] == pytest.approx([1.0, 0.5, 0.5], rel=1e-4)


def test_one_epoch_is_not_enough(predicted, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", "--epochs", "1"])
    with pytest.raises(SystemExit):
        predicted.main()
    assert "argument --epochs: got 1, expected at least 2" in capsys.readouterr().err
