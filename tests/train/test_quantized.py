"""Runs with few bits: they learn, resume exactly, and their files know the bits."""

import csv
import json

import numpy as np
import pytest

from lowerconv import nn, quant
from lowerconv.train import CheckpointError, Classifier
from lowerconv.train.checkpoint import LAST, load_checkpoint

from ..long import drawn

RECIPES = {
    "bits": {"weight_bits": 4, "activation_bits": 4, "weight_steps": "filter"},
    "weights-accumulate-ema": {"weight_bits": 2, "accumulate": 3, "ema": 0.8},
    "ternary-adam": {
        "ternary_weights": True,
        "activation_bits": 8,
        "optimizer": "adam",
        "lr": 1e-3,
    },
    "stochastic": {"fixed_point": (4, 12)},
    "nearest-gradients-accumulate": {
        "fixed_point": (4, 12),
        "gradient_fixed_point": (-2, 18),
        "rounding": "nearest",
        "accumulate": 2,
    },
}
recipes = pytest.mark.parametrize("name", RECIPES)


def tensors(run) -> bytes:
    return b"".join(array.tobytes() for array in run.state.tensors().values())


def test_a_run_that_is_resumed_ends_with_the_same_bits(trainer, tmp_path, rng):
    for name in drawn(rng, RECIPES, 3):
        print(name)
        check_resumed(trainer, tmp_path / name, RECIPES[name])


def check_resumed(trainer, tmp_path, recipe):
    unbroken = trainer(tmp_path / "unbroken", epochs=3, **recipe)
    unbroken.fit()
    broken = trainer(tmp_path / "broken", epochs=3, **recipe)
    broken._out_of_patience = lambda: len(broken.history) == 1
    broken.fit()
    given = dict.fromkeys(("epochs", "batch", "lr", "weight_decay", "seed"))
    resumed = trainer(tmp_path / "broken", resume=True, **given)
    assert resumed.settings == unbroken.settings
    resumed.fit()
    assert tensors(resumed) == tensors(unbroken)


@recipes
def test_the_file_knows_its_bits(trainer, tmp_path, name):
    run = trainer(tmp_path, epochs=4, **RECIPES[name])
    run.fit()
    row = run.history[-1]
    assert row.test_accuracy > 0.5
    classifier = Classifier(tmp_path / LAST)
    test = run.state.test_loader.dataset
    averaged = name.endswith("ema")
    found = (row.ema_loss, row.ema_accuracy) if averaged else (row.test_loss, row.test_accuracy)
    assert classifier.evaluate(test, 32) == found
    assert list(classifier.network.parameters()) == list(run.network.parameters())


def test_a_network_of_ones_own(trainer, tmp_path):
    def network():
        return nn.Sequential(nn.MaxPool2d(4), nn.Flatten(), nn.Linear(49, 20), nn.Linear(20, 10))

    run = trainer(tmp_path, network(), weight_bits=3)
    run.fit()
    test = run.state.test_loader.dataset
    expected = run.history[-1].test_loss, run.history[-1].test_accuracy
    assert Classifier(tmp_path / LAST, network()).evaluate(test, 32) == expected
    prepared = quant.prepare(network(), weight_bits=3)
    with pytest.raises(ValueError, match=r"^network: 2 is quantized already"):
        Classifier(tmp_path / LAST, prepared)


def test_other_bits_are_refused(trainer, tmp_path):
    trainer(tmp_path, weight_bits=4).save()
    with pytest.raises(CheckpointError, match="was trained with weight_bits 4, not 3"):
        trainer(tmp_path, resume=True, weight_bits=3)
    trainer(tmp_path / "all").save()
    with pytest.raises(CheckpointError, match="was trained with ternary_weights False, not True"):
        trainer(tmp_path / "all", resume=True, ternary_weights=True)


@pytest.mark.parametrize("strategy", ["model", "owt", "server"])
def test_strategies_that_divide_the_network_are_refused(trainer, tmp_path, strategy):
    with pytest.raises(ValueError, match=f"^parallel: got '{strategy}' with 4-bit weights, expec"):
        trainer(tmp_path, parallel=strategy, weight_bits=4)


def test_an_average_has_more_bits_than_fixed_point(trainer, tmp_path):
    with pytest.raises(ValueError, match=r"^ema: got 0\.9 with fixed_point \(4, 12\), expected"):
        trainer(tmp_path, ema=0.9, fixed_point=(4, 12))


def losses(out) -> list[float]:
    with open(out / "metrics.csv") as file:
        return [float(row["train_loss"]) for row in csv.DictReader(file)]


def test_ranks_of_the_command_line(run_here, mpiexec, tiny_fashion, tmp_path):
    """To the rounding of sums, which now and then makes a number go to another step."""
    arguments = ("train", "--data", f"fashion-mnist:{tiny_fashion}", "--epochs", 1, "--lr", 0.005)
    arguments += ("--weight-bits", 4, "--activation-bits", 4)
    alone = run_here(*arguments, "--out", tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr
    many = mpiexec(2, "-m", "lowerconv", *arguments, "--out", tmp_path / "many")
    assert many.returncode == 0, many.stderr
    np.testing.assert_allclose(losses(tmp_path / "many"), losses(tmp_path / "alone"), rtol=0.01)


def test_commands_take_the_file(run_here, tiny_fashion, tmp_path):
    data = f"fashion-mnist:{tiny_fashion}"
    bits = "--weight-bits 4 --activation-bits 4 --epochs 1"
    done = run_here("train", "--data", data, *bits.split(), "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "4-bit weights, 4-bit activations" in done.stdout
    saved = load_checkpoint(tmp_path / "run" / LAST).state["settings"]
    assert json.loads(json.dumps(saved))["weight_bits"] == 4
    done = run_here("evaluate", tmp_path / "run" / LAST, "--data", data)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("test accuracy")
    wrong = run_here("train", "--data", data, "--weight-bits", 9)
    assert wrong.returncode == 2
    assert "--weight-bits: got 9, expected at least 2 and at most 8" in wrong.stderr
