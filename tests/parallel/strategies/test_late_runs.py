"""Whole runs with gradients that come late: they learn as well, and they resume."""

import csv
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from lowerconv.train.checkpoint import LAST, Checkpoint, load_checkpoint

from ...long import long_rows_but

BROKEN = Path(__file__).parents[1] / "programs" / "broken.py"

# Staleness wants a smaller learning rate, or no momentum: Mitliagkas et al., "Asynchrony begets
# momentum" (2016). An average of the weights takes off most of what is chance.
# Of few images that can be told apart there is no chance left: all are known in the end.
RECIPES = {
    "few": "--epochs 8 --batch 32 --lr 0.02 --momentum 0 --ema 0.9 --threads 1",
    "many": "--epochs 5 --batch 32 --lr 0.02 --momentum 0 --ema 0.99 --threads 1",
}


@pytest.fixture(scope="module")
def recipe(tiny_fashion):
    """Return a function that returns the arguments of a run."""
    data = {"few": ["--data", f"fashion-mnist:{tiny_fashion}"], "many": []}
    return lambda name: ["train", *data[name], *RECIPES[name].split()]


@pytest.fixture(scope="module")
def accuracy(run_lowerconv, recipe, tmp_path_factory):
    """Return a function that returns that of a process alone."""

    @cache
    def alone(name: str) -> float:
        out = tmp_path_factory.mktemp("alone") / "run"
        run = run_lowerconv(*recipe(name), "--out", out)
        assert run.returncode == 0, run.stderr
        row = last_row(out)
        assert (row["staleness_mean"], row["staleness_max"]) == ("", "")
        return float(row["ema_accuracy"])

    return alone


def last_row(out: Path) -> dict[str, str]:
    with open(out / "metrics.csv") as file:
        return list(csv.DictReader(file))[-1]


@pytest.mark.parametrize(
    ("name", "ranks", "options", "least", "most"),
    long_rows_but(
        [0],
        [
            ("few", 3, "--parallel server --staleness 2", 0, 2),
            ("many", 3, "--parallel server --staleness 2", 0, 2),
            ("many", 3, "--parallel async --staleness 1", 0, 1),
            ("many", 2, "--parallel async --staleness 1 --deterministic", 0.99, 1),
        ],
    ),
)
def test_they_learn_as_well(mpiexec, tmp_path, recipe, accuracy, name, ranks, options, least, most):
    out = tmp_path / "run"
    run = mpiexec(ranks, "-m", "lowerconv", *recipe(name), *options.split(), "--out", out)
    assert run.returncode == 0, run.stderr
    row = last_row(out)
    assert abs(float(row["ema_accuracy"]) - accuracy(name)) <= 0.01
    assert least <= float(row["staleness_mean"]) <= float(row["staleness_max"]) <= most
    assert f"staleness {float(row['staleness_mean']):.2f}, at most" in run.stdout
    assert f"of {most} allowed" in run.stdout


@pytest.fixture(scope="module")
def broken_run(mpiexec, tiny_fashion):
    """Return a function that runs `BROKEN` and returns the checkpoint."""

    def run(ranks: int, out: Path, options: dict, what: str) -> Checkpoint:
        data = f"fashion-mnist:{tiny_fashion}"
        done = mpiexec(ranks, BROKEN, out, data, json.dumps(options), what)
        assert done.returncode == 0, done.stderr
        return load_checkpoint(out / LAST)

    return run


@pytest.fixture(scope="module")
def whole(broken_run, tmp_path_factory) -> Checkpoint:
    """Return the checkpoint of a process alone."""
    return broken_run(1, tmp_path_factory.mktemp("whole") / "run", {}, "whole")


@pytest.mark.parametrize(
    ("first", "second"),
    long_rows_but(
        [1, 3],
        [
            (
                (3, {"strategy": "server", "staleness": 0}),
                (2, {"strategy": "server", "staleness": 0}),
            ),
            (
                (2, {"strategy": "server", "staleness": 0, "servers": 1}),
                (3, {"strategy": "server", "staleness": 0, "servers": 2}),
            ),
            ((3, {"strategy": "server", "staleness": 0}), (1, {})),
            (
                (2, {"strategy": "async", "staleness": 0}),
                (3, {"strategy": "server", "staleness": 0}),
            ),
        ],
    ),
)
def test_they_resume_on_other_ranks(broken_run, whole, tmp_path, first, second):
    for (ranks, options), what in ((first, "break"), (second, "resume")):
        broken = broken_run(ranks, tmp_path / "broken", options, what)
    assert whole.tensors.keys() == broken.tensors.keys()
    assert any(name.startswith("velocity/") for name in whole.tensors)
    assert whole.state["updates"] == broken.state["updates"]
    for name, array in whole.tensors.items():
        np.testing.assert_allclose(broken.tensors[name], array, rtol=1e-3, atol=1e-5, err_msg=name)
