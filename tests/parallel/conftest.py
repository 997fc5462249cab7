"""Jobs that several tests share: to start one takes longer than most of what it does."""

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest

PROGRAMS = Path(__file__).parent / "programs"

#          samples, batch: divides by all ranks or none, and a last batch smaller than the ranks
SIZES = {"batch-30": (120, 30), "batch-7-last-of-3": (31, 7)}
#          and how many batches make an update: the last one has two
UPDATES = SIZES | {"three-batches-an-update": (31, 4, 3)}


def train(
    mpiexec: Callable, ranks: int, directory: Path, runs: dict[str, list], program="steps.py"
) -> dict[str, dict[str, np.ndarray]]:
    """Return what a program gives for each of some runs, by their names."""
    out = directory / f"{ranks}.npz"
    # Names become those of files: short ones.
    numbered = dict(enumerate(runs.values()))
    done = mpiexec(ranks, PROGRAMS / program, out, json.dumps(numbered))
    assert done.returncode == 0, done.stderr
    names = list(runs)
    found: dict[str, dict[str, np.ndarray]] = {name: {} for name in runs}
    for path, array in np.load(out).items():
        number, _, what = path.partition("/")
        found[names[int(number)]][what] = array
    return found


@pytest.fixture(scope="module")
def steps(mpiexec, tmp_path_factory, request) -> Callable[..., dict[str, np.ndarray]]:
    """Return a function that gives what training some steps on some ranks brings.

    The first time a job makes all runs of the module's ``RUNS`` that have so many ranks and the
    same program: (ranks, options of `ParallelOptions`, program), of all `UPDATES`.
    """
    found: dict[str, dict[str, np.ndarray]] = {}

    def key(ranks: int, options: dict, program: str, size: str) -> str:
        return json.dumps([ranks, options, program, size], sort_keys=True)

    def make_all(ranks: int, program: str) -> None:
        same = [o for r, o, p in request.module.RUNS if (r, p) == (ranks, program)]
        runs = {}
        for options, (size, (samples, batch, *batches)) in product(same, UPDATES.items()):
            runs[key(ranks, options, program, size)] = [samples, batch, options, *batches]
        found.update(train(mpiexec, ranks, tmp_path_factory.mktemp("steps"), runs, program))

    def run(ranks: int, size: str, program: str = "steps.py", **options) -> dict[str, np.ndarray]:
        wanted = key(ranks, options, program, size)
        if wanted not in found:
            make_all(ranks, program)
        return found[wanted]

    return run


@pytest.fixture(scope="module")
def slowed(mpiexec, request) -> Callable[[int, int, dict], None]:
    """Return a function that fails unless a slow rank is waited for as the options say.

    The first time a job makes all runs of the module's ``SLOWED`` that have so many ranks: (ranks,
    the slow one, options).
    """
    right: dict[str, int] = {}

    def key(ranks: int, slow: int, options: dict) -> str:
        return json.dumps([ranks, slow, options])

    def make_all(ranks: int) -> None:
        same = [run for run in request.module.SLOWED if run[0] == ranks]
        done = mpiexec(ranks, PROGRAMS / "slowed.py", json.dumps([run[1:] for run in same]))
        assert done.returncode == 0, done.stderr
        for number, run in enumerate(same):
            right[key(*run)] = done.stdout.count(f"run {number} is right")

    def check(ranks: int, slow: int, options: dict) -> None:
        wanted = key(ranks, slow, options)
        if wanted not in right:
            make_all(ranks)
        assert right[wanted] == ranks

    return check
