"""Who watches the layers of a network: as many as want to, whatever the strategy."""

from pathlib import Path

import numpy as np
import pytest

from lowerconv import nn

from ..long import long_but

PROGRAMS = Path(__file__).parent / "programs"


def noting(notes, name):
    return lambda layer, frame, phase: notes.append((name, phase))


def test_watches_are_called_in_order_and_removed_one_by_one():
    net, notes = nn.Sequential(nn.ReLU()), []
    x = np.ones((1, 2), np.float32)
    second = net.register_watch(noting(notes, "second"))
    third = net.register_watch(noting(notes, "third"))
    net.register_watch(noting(notes, "first"), first=True)
    net.register_gate(lambda layer: notes.append(("gate", type(layer).__name__)))
    net(x)
    watched = [(name, "forward") for name in ("first", "second", "third")]
    assert notes == [("gate", "ReLU"), *watched]
    second.remove()
    second.remove()
    notes.clear()
    net(x)
    third.remove()
    net(x)
    assert [name for name, _ in notes] == ["gate", "first", "third", "gate", "first"]


def test_a_watch_may_remove_itself():
    net, notes = nn.Sequential(nn.ReLU(), nn.Flatten()), []

    def once(layer, frame, phase):
        notes.append(phase)
        handle.remove()

    handle = net.register_watch(once)
    for _ in range(2):
        net(np.ones((1, 2), np.float32))
    assert notes == ["forward"] * 2  # the layers of the run in which it was removed


@pytest.mark.parametrize("ranks", long_but([2], [1, 2]))
def test_stalls_timeline_and_divergence_watch_at_once(mpiexec, tiny_fashion, tmp_path, ranks):
    """With each strategy: layers are noted for others who wait, recorded, and blamed."""
    data = f"fashion-mnist:{tiny_fashion}"
    run = mpiexec(ranks, PROGRAMS / "watched.py", data, tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("right") == ranks


def test_a_slow_rank_is_not_called_stalled(mpiexec, tiny_fashion, tmp_path):
    """Four layers before the border that take long together, each less than the timeout."""
    words = f"train --data fashion-mnist:{tiny_fashion} --out {tmp_path / 'run'} --threads 1"
    words += " --parallel owt --stall-timeout 3 --epochs 1 --batch 203"
    run = mpiexec(2, PROGRAMS / "slow_front.py", *words.split())
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("strategy", ["data", "model", "owt", "spatial"])
def test_ranks_that_are_watched_tell_where_they_diverge(mpiexec, tiny_fashion, tmp_path, strategy):
    words = f"train --data fashion-mnist:{tiny_fashion} --out {tmp_path / 'run'} --threads 1"
    words += f" --parallel {strategy} --stall-timeout 60 --timeline {tmp_path / 'trace'} --lr 1e20"
    words += " --timeline-first 0 --timeline-count 1000 --batch 32"
    run = mpiexec(2, "-m", "lowerconv", *words.split())
    assert run.returncode != 0
    assert "is the first whose output holds" in run.stderr, run.stderr
    assert "Traceback" not in run.stderr
