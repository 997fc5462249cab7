"""Runs in one process: they learn, they repeat themselves exactly, they resume exactly."""

import csv
import json
import re
import threading

import numpy as np
import pytest

from lowerconv import nn
from lowerconv.data import Augment, Dataset, load, pack
from lowerconv.train import CheckpointError, Classifier
from lowerconv.train.checkpoint import BEST, LAST, load_checkpoint
from lowerconv.train.metrics import EpochMetrics, best_epoch
from lowerconv.train.progress import Reporter

from ..long import drawn

# Each with a state of its own, and together with all that a checkpoint must keep.
RECIPES = {
    "sgd": {},
    "nesterov-cosine-warmup": {"nesterov": True, "warmup": 1.5, "validation": 0.2},
    "adam-ema-step": {"optimizer": "adam", "lr": 1e-3, "ema": 0.8, "schedule": "step"},
    "adamw-accumulate": {"optimizer": "adamw", "lr": 1e-3, "accumulate": 3, "ema": 0.9},
    "lars-poly-scaled": {
        "optimizer": "lars",
        "lr": 2.0,
        "schedule": "poly",
        "scale_lr_from": 16,
        "warmup": 1,
        "label_smoothing": 0.1,
    },
    "augmented": {"augment": "crop,rotate,cast"},
    "augmented-accumulate-ema-validation": {
        "augment": "rotate=5,vignette,cast",
        "accumulate": 2,
        "ema": 0.7,
        "validation": 0.2,
        "workers": 2,
    },
}


def tensors(run) -> bytes:
    """Return all that the steps to come depend on."""
    return b"".join(array.tobytes() for array in run.state.tensors().values())


def without_times(run) -> list[dict]:
    times = ("seconds", "images_per_second")
    return [{k: v for k, v in vars(row).items() if k not in times} for row in run.history]


def test_it_learns(trainer, tmp_path):
    run = trainer(tmp_path / "run", epochs=4)
    assert run.fit() is run.history
    assert run.history[-1].test_accuracy > 0.9
    assert run.history[-1].train_loss < run.history[0].train_loss
    assert len(run.losses) == 4 * 7  # 203 images in batches of 32, the last of 11
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert len(rows) == 5
    assert rows[0].startswith("epoch,train_loss,train_accuracy,test_loss,test_accuracy")


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "sgd"])
def test_every_recipe_learns(trainer, tmp_path, name):
    run = trainer(tmp_path, epochs=6, **RECIPES[name])
    run.fit()
    assert max(row.accuracy for row in run.history) > 0.8
    assert run.history[-1].train_loss < run.history[0].train_loss


def test_the_same_seed_gives_the_same_run(trainer, tmp_path):
    runs = [trainer(tmp_path / f"{i}", seed=seed) for i, seed in enumerate((1, 1, 2))]
    for run in runs:
        run.fit()
    assert runs[0].losses == runs[1].losses
    assert tensors(runs[0]) == tensors(runs[1])
    assert runs[0].losses != runs[2].losses


@pytest.mark.parametrize("algorithm", ["direct", "lowering", "pipelined"])
def test_algorithms_train_alike(trainer, tmp_path, algorithm):
    auto = trainer(tmp_path / "auto")
    forced = trainer(tmp_path / "forced", algorithm=algorithm)
    for run in (auto, forced):
        run.fit()
    np.testing.assert_allclose(forced.losses, auto.losses, rtol=1e-4)


class Killed(Exception):
    pass


class KillingReporter(Reporter):
    """Ends the run in its second epoch, when most of the images are done."""

    def start_epoch(self, epoch, epochs, images):
        self.epoch = epoch

    def step(self, images, loss, accuracy):
        if self.epoch == 2 and images > 100:
            raise Killed


def test_a_resumed_run_ends_as_an_unbroken_one(trainer, tmp_path, rng):
    for name in drawn(rng, RECIPES, 4):
        print(name)
        check_resumed(trainer, tmp_path / name, {"epochs": 3} | RECIPES[name])


def check_resumed(trainer, tmp_path, settings):
    unbroken = trainer(tmp_path / "unbroken", **settings)
    unbroken.fit()
    with pytest.raises(Killed):
        trainer(tmp_path / "broken", reporter=KillingReporter(), **settings).fit()
    resumed = trainer(tmp_path / "broken", resume=True, **settings)
    assert len(resumed.history) == 1
    resumed.fit()
    assert tensors(resumed) == tensors(unbroken)
    assert resumed.optimizer.updates == unbroken.optimizer.updates
    assert without_times(resumed) == without_times(unbroken)
    for file in (LAST, BEST):
        ours, theirs = (load_checkpoint(tmp_path / run / file) for run in ("broken", "unbroken"))
        assert ours.tensors.keys() == theirs.tensors.keys()
        assert all(ours.tensors[n].tobytes() == t.tobytes() for n, t in theirs.tensors.items())


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 2},
        {"model": "cifar10_quick"},
        {"lr": 0.5},
        {"batch": 31},
        {"ema": 0.5},
        {"augment": "flip"},
        {"validation": 0.1},
        {"schedule": "step"},
        {"milestones": (1, 2), "schedule": "step"},
    ],
    ids=str,
)
def test_resume_refuses_other_settings(trainer, tmp_path, changes):
    trainer(tmp_path / "run").save()
    with pytest.raises(CheckpointError, match="was trained with "):
        trainer(tmp_path / "run", resume=True, **changes)


def test_resume_refuses_other_images(trainer, tmp_path):
    train, test = load("fashion-mnist")
    trainer(tmp_path, data=(train, test)).save()
    with pytest.raises(CheckpointError, match=r"training images: size 8500, not 203"):
        trainer(tmp_path, resume=True)
    # The same name does not make them the same.
    other = Dataset(train.name, train.images[:100], train.labels[:100], train.classes)
    with pytest.raises(CheckpointError, match=r"was trained with mean \["):
        trainer(tmp_path, data=(other, test), resume=True)


def test_a_run_is_not_overwritten(trainer, tmp_path):
    trainer(tmp_path).save()
    with pytest.raises(CheckpointError, match="holds a run already"):
        trainer(tmp_path)


def test_the_default_directory_is_a_new_one(trainer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = load("fashion-mnist")
    names = [trainer(None, data=data).out for _ in range(2)]
    assert [str(name.name) for name in names] == ["lenet-fashion-mnist-1", "lenet-fashion-mnist-2"]


def test_validation_images_are_held_out(trainer, tmp_path):
    run = trainer(tmp_path / "run", validation=0.25)
    assert len(run.state.train_loader.dataset) == 152
    assert len(run.state.test_loader.dataset) == 51
    assert "152 training and 51 validation images" in run.describe()
    train, _ = load("fashion-mnist")
    run = trainer(tmp_path / "none", data=(train, None), validation=0.1)
    assert len(run.state.test_loader.dataset) == 850
    with pytest.raises(ValueError, match=r"^validation: got 0 and no test set"):
        trainer(tmp_path / "both", data=(train, None))


def test_shards_train_as_memory_does(trainer, tiny_fashion, tmp_path):
    pack(f"fashion-mnist:{tiny_fashion}", tmp_path / "shards")
    data, recipe = f"shards:{tmp_path / 'shards'}", {"augment": "crop,cast", "epochs": 2}
    whole = [
        trainer(tmp_path / "memory", **recipe),
        trainer(tmp_path / "mapped", data=data, **recipe),
    ]
    for run in whole:
        run.fit()
    assert tensors(whole[0]) == tensors(whole[1])
    # The same images are held out; what is left has no histogram of its own.
    held = [
        trainer(tmp_path / f"held-{i}", data=d, validation=0.3) for i, d in enumerate((None, data))
    ]
    assert np.array_equal(*(run.state.test_loader.dataset.labels for run in held))
    assert held[1].fit()[0].test_accuracy > 0.2


@pytest.mark.parametrize("accumulate", [1, 3])
def test_whether_training_waited_is_told(trainer, tmp_path, accumulate):
    said = []
    run = trainer(tmp_path, epochs=2, augment="cast", accumulate=accumulate)
    run.reporter.say = said.append
    others = set(threading.enumerate())  # of loaders that other tests have forgotten
    run.fit()
    (line,) = [line for line in said if line.startswith("data: ")]
    assert line.startswith("data: 14 batches made ahead by 1 thread in ")  # 7 in each epoch
    assert re.search(r"; (training never waited|waited for \d+, .* s in all); first", line)
    left = set(threading.enumerate()) - others
    assert not [thread for thread in left if "lowerconv-data" in thread.name]


@pytest.mark.parametrize("spelling", ["cast,flip", "flip=50 ,cast=20", Augment(flip=50, cast=20)])
def test_spellings_of_augmentations_are_the_same_run(trainer, tmp_path, spelling):
    trainer(tmp_path, augment="flip,cast").save()
    run = trainer(tmp_path, augment=spelling, resume=True)
    assert run.settings.augment == "flip,cast"
    assert "augmented by flip,cast" in run.describe()
    assert trainer(tmp_path / "none", augment="").settings.augment is None


def row(epoch: int, accuracy: float, ema: float | None = None) -> EpochMetrics:
    return EpochMetrics(epoch, 1.0, 0.5, 1.0, accuracy, 100.0, 1.0, 0.1, None, ema)


def test_the_best_epoch_is_that_of_the_weights_that_predict():
    assert best_epoch([]) == 0
    assert best_epoch([row(1, 0.5), row(2, 0.7), row(3, 0.7), row(4, 0.6)]) == 2
    assert best_epoch([row(1, 0.9, 0.1), row(2, 0.8, 0.2)]) == 2


def test_patience_ends_a_run_and_best_is_kept(trainer, tmp_path, monkeypatch):
    accuracies = [0.3, 0.5, 0.4, 0.5, 0.45, 0.9]
    monkeypatch.setattr(
        "lowerconv.train.epoch.evaluate", lambda *_: (1.0, accuracies[len(run.history)])
    )
    said = []
    run = trainer(tmp_path, epochs=6, patience=3)
    run.reporter.say = said.append
    assert [r.epoch for r in run.fit()] == [1, 2, 3, 4, 5]
    assert any("test accuracy was best after epoch 2, 3 epochs ago" in line for line in said)
    best, last = (load_checkpoint(tmp_path / file) for file in (BEST, LAST))
    assert [len(checkpoint.state["history"]) for checkpoint in (best, last)] == [2, 5]
    assert best.tensors["0.weight"].tobytes() != last.tensors["0.weight"].tobytes()
    # It stays stopped.
    assert len(trainer(tmp_path, epochs=6, patience=3, resume=True).fit()) == 5


def test_the_average_is_tested_beside_the_weights_and_predicts(trainer, tmp_path):
    run = trainer(tmp_path, epochs=3, ema=0.9)
    weights = []
    run.reporter.end_epoch = lambda *_: weights.append(run.optimizer.data.copy())
    run.fit()
    assert weights[-1].tobytes() == run.optimizer.data.tobytes()  # back in place, bit for bit
    last = run.history[-1]
    assert last.ema_loss != last.test_loss
    with open(tmp_path / "metrics.csv") as file:
        assert float(list(csv.DictReader(file))[-1]["ema_accuracy"]) == last.ema_accuracy
    classifier = Classifier(tmp_path / LAST)
    assert classifier.averaged
    loss, accuracy = classifier.evaluate(run.state.test_loader.dataset, 32)
    assert (loss, accuracy) == (last.ema_loss, last.ema_accuracy)


def test_networks_and_data_of_ones_own(trainer, tmp_path):
    train, test = load("fashion-mnist")
    few = Dataset("few", train.images[:500], train.labels[:500], train.classes)

    def network():
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(324, 10)
        )

    mine = network()
    before = mine.parameters()["0.weight"].data.copy()
    run = trainer(tmp_path, mine, (few, test), epochs=2)
    assert np.array_equal(run.network.parameters()["0.weight"].data, before)  # not drawn anew
    assert run.settings.model == "Sequential"
    assert run.settings.data == "few"
    accuracy = run.fit()[-1].test_accuracy
    with pytest.raises(CheckpointError, match="of network 'Sequential', expected one of lenet"):
        Classifier(tmp_path / LAST)
    assert Classifier(tmp_path / LAST, network()).evaluate(test)[1] == accuracy
    with pytest.raises(CheckpointError, match=r"tensor '0.weight' is .*, expected"):
        Classifier(tmp_path / LAST, nn.Sequential(nn.Conv2d(1, 5, 3)))


def test_settings_are_in_the_checkpoint(trainer, tmp_path):
    run = trainer(tmp_path, ema=0.5)
    run.save()
    saved = load_checkpoint(tmp_path / LAST).state
    assert saved["settings"] == json.loads(json.dumps(vars(run.settings)))
    assert saved["inputs"]["classes"][0] == "T-shirt/top"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": "vgg"}, ValueError, "model: got 'vgg', expected one of lenet"),
        ({"optimiser": "sgd"}, TypeError, "optimiser: no such setting, expected one of model"),
        ({"epochs": 1.5}, TypeError, "epochs: got 1.5, expected int"),
        ({"lr": float("nan")}, ValueError, "lr: got nan, expected at least 0"),
        ({"augment": "mirror"}, ValueError, "augment: got 'mirror' in 'mirror', expected some of"),
        ({"workers": -1}, ValueError, "workers: got -1, expected at least 0 and at most 1024"),
    ],
    ids=["model", "name", "type", "range", "augment", "workers"],
)
def test_mistakes_are_named(trainer, tmp_path, arguments, error, message):
    with pytest.raises(error, match=f"^{message}"):
        trainer(tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_curves_are_drawn(trainer, tmp_path):
    pytest.importorskip("matplotlib")
    trainer(tmp_path, ema=0.9).fit()
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
