"""Several ranks under mpiexec do what one process does."""

from functools import cache

import numpy as np
import pytest

from ...long import long_but
from ..conftest import PROGRAMS, SIZES, train

RANKS = [1, 2, 3, 4, 5]

# Ways to share the work; small buckets, so that there are several.
WAYS: dict[str, dict] = {
    "data": {"bucket_mib": 1e-3},
    "between-layers": {"overlap": "layers", "bucket_mib": 1e-3},
    "at-the-end": {"overlap": "none"},
    "deterministic": {"deterministic": True, "bucket_mib": 1e-3},
    "tree": {"strategy": "tree", "bucket_mib": 1e-3},
    "model": {"strategy": "model"},
    "owt-a": {"strategy": "owt", "owt_scheme": "a", "bucket_mib": 1e-3},
    "owt-b": {"strategy": "owt", "owt_scheme": "b", "overlap": "layers"},
    "owt-c": {"strategy": "owt", "owt_border": "4", "owt_chunks": 2},
    "spatial": {"strategy": "spatial", "bucket_mib": 1e-3},
}


@pytest.mark.parametrize("ranks", long_but([1, 3], RANKS))
def test_every_call(mpiexec, ranks):
    run = mpiexec(ranks, PROGRAMS / "calls.py", ranks)
    assert run.returncode == 0, run.stderr
    assert all(f"rank {rank} done" in run.stdout for rank in range(ranks))


@pytest.fixture(scope="module")
def steps(mpiexec, tmp_path_factory):
    """Return a function that trains on some ranks in all ways, one twice: what came out."""

    @cache
    def all_ways(ranks: int) -> dict[str, dict[str, np.ndarray]]:
        ways = WAYS | {"again": WAYS["deterministic"]}
        runs = {f"{size}/{way}": [*SIZES[size], ways[way]] for size in SIZES for way in ways}
        return train(mpiexec, ranks, tmp_path_factory.mktemp("steps"), runs)

    def run(ranks: int, size: str, way: str) -> dict[str, np.ndarray]:
        return all_ways(ranks)[f"{size}/{way}"]

    return run


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("ranks", long_but([2, 5], RANKS))
def test_ranks_train_like_one_process(steps, ranks, size, way):
    alone, many = steps(1, size, "data"), steps(ranks, size, way)
    if WAYS[way].get("strategy") in ("model", "spatial"):
        assert (many["shares"] == alone["shares"]).all()
    else:
        # The tests would pass by accident if one rank did all the work.
        assert (many["shares"].sum(1) > 0).all()
        assert np.array_equal(many["shares"].sum(0), alone["shares"][0])
    np.testing.assert_allclose(many["losses"], alone["losses"], rtol=1e-11)
    np.testing.assert_allclose(many["weights"], alone["weights"], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(many["test"], alone["test"], rtol=1e-11)
    assert np.array_equal(many["right"], alone["right"])


def test_twice_the_same_is_exactly_the_same(steps):
    first, second = (steps(5, "batch-7-last-of-3", way) for way in ("deterministic", "again"))
    assert first["losses"].tobytes() == second["losses"].tobytes()
    assert first["weights"].tobytes() == second["weights"].tobytes()


def test_some_ranks_have_nothing_to_do(steps):
    """In the last batch, of three samples, two of five ranks have an empty share."""
    assert (steps(5, "batch-7-last-of-3", "data")["shares"] == 0).any()


@pytest.mark.parametrize("ranks", long_but([4], RANKS))
def test_batch_norm_over_all_ranks(mpiexec, ranks):
    """Of four ranks one has nothing of a batch of three, and still takes part."""
    run = mpiexec(ranks, PROGRAMS / "normalising.py", ranks, 4, 5, 7, 3)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("right") == ranks
