"""Several ranks under mpiexec do what one process does."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

PROGRAMS = Path(__file__).parent / "programs"
RANKS = [1, 2, 3, 5]

#          samples, batch: divides by all ranks or none, and a last batch smaller than the ranks
SIZES = {"batch-30": (60, 30), "batch-7-last-of-3": (31, 7)}


@pytest.mark.parametrize("ranks", RANKS)
def test_every_call(mpiexec, ranks):
    run = mpiexec(ranks, PROGRAMS / "calls.py", ranks)
    assert run.returncode == 0, run.stderr
    assert all(f"rank {rank} done" in run.stdout for rank in range(ranks))


@pytest.fixture(scope="module")
def steps(mpiexec, tmp_path_factory):
    """Return a function that trains on some ranks and returns what came out, once for each."""

    @cache
    def run(ranks: int, size: str, again: bool = False) -> dict[str, np.ndarray]:
        out = tmp_path_factory.mktemp("steps") / "out.npz"
        done = mpiexec(ranks, PROGRAMS / "steps.py", out, *SIZES[size], "{}")
        assert done.returncode == 0, done.stderr
        return dict(np.load(out))

    return run


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("ranks", RANKS[1:])
def test_ranks_train_like_one_process(steps, ranks, size):
    alone, many = steps(1, size), steps(ranks, size)
    # The tests would pass by accident if one rank did all the work.
    assert (many["shares"].sum(1) > 0).all()
    assert np.array_equal(many["shares"].sum(0), alone["shares"][0])
    np.testing.assert_allclose(many["losses"], alone["losses"], rtol=1e-11)
    np.testing.assert_allclose(many["weights"], alone["weights"], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(many["test"], alone["test"], rtol=1e-11)
    assert np.array_equal(many["right"], alone["right"])


@pytest.mark.parametrize("ranks", [1, 3])
def test_twice_the_same_is_exactly_the_same(steps, ranks):
    first, second = (steps(ranks, "batch-7-last-of-3", again) for again in (False, True))
    assert first["losses"].tobytes() == second["losses"].tobytes()
    assert first["weights"].tobytes() == second["weights"].tobytes()


def test_some_ranks_have_nothing_to_do(steps):
    """In the last batch, of three samples, two of five ranks have an empty share."""
    assert (steps(5, "batch-7-last-of-3")["shares"] == 0).any()


@pytest.mark.parametrize(("ranks", "batch"), [(1, 4), (2, 5), (3, 7), (5, 3)])
def test_batch_norm_over_all_ranks(mpiexec, ranks, batch):
    """Of five ranks two have nothing of a batch of three, and still take part."""
    run = mpiexec(ranks, PROGRAMS / "normalising.py", ranks, batch)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("right") == ranks
