"""TensorBoard events: written for every epoch, once, also by a run that is resumed."""

import struct
import sys

import pytest

from lowerconv.train.metrics import EpochMetrics
from lowerconv.train.tensorboard import TensorBoard


def events(directory) -> list:
    """Return all events, in the order in which they were written."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted(directory.glob("events.*"), key=lambda path: path.stat().st_mtime_ns):
        content = file.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            found.append(Event.FromString(content[12 : 12 + size]))  # after a checksum
            content = content[16 + size :]
    return found


def points(directory, tag: str) -> dict[int, float]:
    """Return what TensorBoard shows of a metric: a session ends all later steps before it."""
    shown: dict[int, float] = {}
    for event in events(directory):
        if event.session_log.status == 1:
            shown = {step: value for step, value in shown.items() if step < event.step}
        for value in event.summary.value:
            if value.tag == tag:
                assert event.step not in shown
                shown[event.step] = value.simple_value
    return shown


def test_a_resumed_run_shows_every_epoch_once(trainer, tmp_path):
    pytest.importorskip("tensorboardX")
    settings = {"epochs": 3, "ema": 0.9, "tensorboard": True}
    first = trainer(tmp_path, **settings)
    write = first._checkpointer.directory.events.write

    def write_and_die(row):
        write(row)
        if row.epoch == 2:  # between the events of the epoch and its checkpoint
            raise KeyboardInterrupt

    first._checkpointer.directory.events.write = write_and_die
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    assert len(points(tmp_path, "loss/train")) == 2
    resumed = trainer(tmp_path, resume=True, **settings)
    assert len(resumed.history) == 1
    resumed.fit()
    for tag, name in (
        ("loss/train", "train_loss"),
        ("loss/ema", "ema_loss"),
        ("accuracy/test", "test_accuracy"),
        ("learning_rate", "learning_rate"),
    ):
        expected = {row.epoch: getattr(row, name) for row in resumed.history}
        assert points(tmp_path, tag) == pytest.approx(expected, abs=1e-6)


def test_without_the_package_a_line_tells_how_to_get_it(trainer, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(RuntimeError, match=r'^tensorboard: .*: pip install "lowerconv\[tensorb'):
        trainer(tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()


def test_what_is_written_with_a_stub(tmp_path, monkeypatch):
    calls = []

    class SummaryWriter:
        def __init__(self, directory, purge_step, filename_suffix):
            calls.append((directory, purge_step))

        def add_scalar(self, *arguments):
            calls.append(arguments)

        def flush(self):
            pass

        def close(self):
            calls.append("closed")

    stub = type(sys)("tensorboardX")
    stub.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "tensorboardX", stub)
    board = TensorBoard(tmp_path, [])
    board.write(EpochMetrics(5, 1.0, 0.5, 2.0, 0.25, 100.0, 3.0, 0.1))
    board.close()
    assert calls[0] == (str(tmp_path), 1)
    assert ("loss/train", 1.0, 5) in calls
    assert ("accuracy/test", 0.25, 5) in calls
    assert ("images_per_second", 100.0, 5) in calls
    assert not any("ema" in call[0] for call in calls)
    assert calls[-1] == "closed"
