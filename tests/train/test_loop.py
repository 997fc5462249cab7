"""Training in one process: it learns, it repeats itself exactly, it resumes exactly."""

from pathlib import Path

import numpy as np
import pytest

from lowerconv.data import load
from lowerconv.parallel import Communicator
from lowerconv.train import CheckpointError, Settings, Trainer
from lowerconv.train.progress import Reporter
from lowerconv.train.schedule import cosine


def trainer(directory: Path, out: Path, **changes) -> Trainer:
    data = f"fashion-mnist:{directory}"
    settings = {
        "model": "lenet",
        "data": data,
        "epochs": 1,
        "batch": 32,
        "lr": 0.02,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "seed": 1,
    } | changes
    out.mkdir(exist_ok=True)
    return Trainer(Settings(**settings), *load(data), out, Communicator(), Reporter())


def weights(run: Trainer) -> bytes:
    return run.optimizer.data.tobytes() + run.optimizer.velocity.tobytes()


def test_it_learns(tiny_fashion, tmp_path):
    run = trainer(tiny_fashion, tmp_path / "run", epochs=4)
    run.fit()
    assert run.history[-1].test_accuracy > 0.9
    assert run.history[-1].train_loss < run.history[0].train_loss
    assert len(run.losses) == 4 * 7  # 203 images in batches of 32, the last of 11
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert len(rows) == 5
    assert rows[0].startswith("epoch,train_loss,train_accuracy,test_loss,test_accuracy")


def test_the_same_seed_gives_the_same_run(tiny_fashion, tmp_path):
    runs = [trainer(tiny_fashion, tmp_path / f"{i}", seed=seed) for i, seed in enumerate((1, 1, 2))]
    for run in runs:
        run.fit()
    assert runs[0].losses == runs[1].losses
    assert weights(runs[0]) == weights(runs[1])
    assert runs[0].losses != runs[2].losses


@pytest.mark.parametrize("algorithm", ["direct", "lowering", "pipelined"])
def test_algorithms_train_alike(tiny_fashion, tmp_path, algorithm):
    auto = trainer(tiny_fashion, tmp_path / "auto")
    forced = trainer(tiny_fashion, tmp_path / "forced", algorithm=algorithm)
    for run in (auto, forced):
        run.fit()
    np.testing.assert_allclose(forced.losses, auto.losses, rtol=1e-4)


@pytest.mark.parametrize("augment", [None, "crop,rotate,cast"])
def test_resumed_run_ends_with_the_weights_of_an_unbroken_one(tiny_fashion, tmp_path, augment):
    unbroken = trainer(tiny_fashion, tmp_path / "unbroken", epochs=3, augment=augment)
    unbroken.fit()

    class Killed(Exception):
        pass

    class KillingReporter(Reporter):
        def step(self, images, loss, accuracy):
            if len(broken.history) == 1 and images > 100:
                raise Killed

    broken = trainer(tiny_fashion, tmp_path / "broken", epochs=3, augment=augment)
    broken.reporter = KillingReporter()
    with pytest.raises(Killed):
        broken.fit()
    resumed = trainer(tiny_fashion, tmp_path / "broken", epochs=3, augment=augment)
    resumed.resume()
    assert len(resumed.history) == 1
    resumed.fit()
    assert weights(resumed) == weights(unbroken)
    assert [row.epoch for row in resumed.history] == [1, 2, 3]
    assert [row.train_loss for row in resumed.history] == [
        row.train_loss for row in unbroken.history
    ]


def test_the_learning_rate_falls_from_its_start_to_zero():
    rates = [cosine(0.4, step, 100) for step in range(101)]
    assert rates[0] == 0.4
    assert rates[50] == pytest.approx(0.2)
    assert rates[100] == pytest.approx(0, abs=1e-12)
    assert sorted(rates, reverse=True) == rates


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 2},
        {"model": "cifar10_quick"},
        {"lr": 0.5},
        {"batch": 31},
        {"epochs": 9},
        {"augment": "flip"},
    ],
    ids=str,
)
def test_resume_refuses_other_settings(tiny_fashion, tmp_path, changes):
    trainer(tiny_fashion, tmp_path / "run").save()
    with pytest.raises(CheckpointError, match=f"was trained with {next(iter(changes))}"):
        trainer(tiny_fashion, tmp_path / "run", **changes).resume()


def test_curves_are_drawn(tiny_fashion, tmp_path):
    pytest.importorskip("matplotlib")
    trainer(tiny_fashion, tmp_path / "run").fit()
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
