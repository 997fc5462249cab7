"""What is shown while training."""

import io

import pytest
from rich.console import Console

from lowerconv.train import progress
from lowerconv.train.metrics import EpochMetrics

ROW = EpochMetrics(2, 0.5, 0.8, 0.6, 0.75, 1234.5, 3.0, 0.1, 0.7, 0.875)


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
def test_everything_promised_is_shown(monkeypatch, terminal):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=120, color_system=None)
    reporter = progress.ConsoleReporter(console)
    reporter.say("hello [world]")
    reporter.start_epoch(2, 3, 100)
    reporter.step(10, 0.9, 0.5)
    reporter.step(50, 0.7123, 0.625)
    if reporter._progress is not None:
        reporter._progress.refresh()
    reporter.end_epoch(ROW, 3)
    reporter.close()
    text = output.getvalue()
    for part in ("hello [world]", "2/3", "50%", "0.7123", "62.50%", "images/s", "0:00 left"):
        assert part in text
    assert "epoch 2/3  loss 0.5000  train 80.00%  test 75.00%  ema 87.50%  1,234 images/s" in text
    if not terminal:
        assert "\r" not in text
        assert "[##########..........]" in text


def test_no_bar_on_the_terminal_that_open_mpi_makes(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    output = io.StringIO()
    reporter = progress.ConsoleReporter(Console(file=output, force_terminal=True, width=120))
    reporter.say("hello")
    reporter.start_epoch(1, 3, 100)
    reporter.step(10, 0.9, 0.5)
    reporter.close()
    assert output.getvalue() == "hello\n"
