"""Sums of gradients that arrive some steps later."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

PROGRAMS = Path(__file__).parent / "programs"

#          samples, batch: divides by all ranks or none, and a last batch smaller than the ranks
SIZES = {"batch-30": (120, 30), "batch-7-last-of-3": (31, 7)}


def train(mpiexec, ranks, out, runs, program="steps.py") -> dict[str, np.ndarray]:
    done = mpiexec(ranks, PROGRAMS / program, out, json.dumps(runs))
    assert done.returncode == 0, done.stderr
    return {name.partition("/")[2]: array for name, array in np.load(out).items()}


@pytest.fixture(scope="module")
def steps(mpiexec, tmp_path_factory):
    """Return a function that runs a program on some ranks, and returns what came out."""

    @cache
    def run(ranks: int, size: str, program: str = "steps.py", **options) -> dict[str, np.ndarray]:
        out = tmp_path_factory.mktemp("steps") / "out.npz"
        runs = {"one": [*SIZES[size], options]}
        return train(mpiexec, ranks, out, runs, program)

    return run


def same(many, alone):
    np.testing.assert_allclose(many["losses"], alone["losses"], rtol=1e-9)
    np.testing.assert_allclose(many["weights"], alone["weights"], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(many["test"], alone["test"], rtol=1e-9)
    assert np.array_equal(many["right"], alone["right"])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5])
def test_without_staleness_it_is_data_parallelism(steps, ranks, size):
    many = steps(ranks, size, strategy="async", staleness=0, bucket_mib=0.001)
    same(many, steps(1, size))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("ranks", "staleness", "overlap"),
    [(1, 2, "auto"), (2, 1, "thread"), (3, 2, "thread"), (4, 3, "layers"), (5, 1, "none")],
)
def test_gradients_are_so_many_steps_stale(steps, ranks, size, staleness, overlap):
    """Deterministic: each sum is applied as late as allowed."""
    given = {"strategy": "async", "staleness": staleness}
    many = steps(ranks, size, deterministic=True, overlap=overlap, bucket_mib=0.001, **given)
    reference = steps(1, size, "stale.py", **given)
    same(many, reference)
    assert not np.allclose(reference["weights"], steps(1, size)["weights"], rtol=1e-3)


@pytest.mark.parametrize("overlap", ["thread", "layers", "none"])
@pytest.mark.parametrize(("ranks", "slow"), [(2, 0), (3, 1)])
def test_a_slow_rank_is_waited_for_in_time(mpiexec, ranks, slow, overlap):
    options = json.dumps({"strategy": "async", "staleness": 2, "overlap": overlap})
    run = mpiexec(ranks, PROGRAMS / "slowed.py", slow, options)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("right") == ranks


def test_gradients_of_several_batches(mpiexec, tmp_path):
    """Three batches an update, the last of two: as one rank does it."""
    options = {"strategy": "async", "staleness": 2, "deterministic": True}
    runs = {"one": [31, 4, options, 3]}
    reference = train(mpiexec, 1, tmp_path / "reference.npz", runs, "stale.py")
    for ranks in (1, 3):
        same(train(mpiexec, ranks, tmp_path / f"{ranks}.npz", runs), reference)
