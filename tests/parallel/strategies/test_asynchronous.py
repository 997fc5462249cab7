"""Sums of gradients that arrive some steps later."""

import numpy as np
import pytest

from ...long import chosen
from ..conftest import UPDATES

# Of four ranks one has nothing of a batch of three.
RANKS = chosen([0, 3], [1, 2, 3, 4, 5])
#         ranks, staleness, overlap
STALE = chosen(
    range(4),
    [
        (1, 2, "auto"),
        (4, 2, "thread"),
        (4, 3, "layers"),
        (4, 1, "none"),
        (2, 1, "thread"),
        (3, 2, "thread"),
        (5, 1, "none"),
    ],
)
EXACT = {"strategy": "async", "staleness": 0, "bucket_mib": 0.001}


def late(staleness: int) -> dict:
    return {"strategy": "async", "staleness": staleness}


def on_time(overlap: str) -> dict:
    """As late as allowed, always."""
    return {"deterministic": True, "overlap": overlap, "bucket_mib": 0.001}


RUNS = [
    (1, {}, "steps.py"),
    *[(ranks, EXACT, "steps.py") for ranks in RANKS],
    *[(ranks, late(s) | on_time(overlap), "steps.py") for ranks, s, overlap in STALE],
    *[(1, late(s), "stale.py") for s in sorted({s for _, s, _ in STALE})],
]
SLOWED = chosen(
    [3, 4],
    [
        (ranks, slow, {"strategy": "async", "staleness": 2, "overlap": overlap})
        for ranks, slow in ((2, 0), (3, 1))
        for overlap in ("thread", "layers", "none")
    ],
)


def same(many, alone):
    np.testing.assert_allclose(many["losses"], alone["losses"], rtol=1e-9)
    np.testing.assert_allclose(many["weights"], alone["weights"], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(many["test"], alone["test"], rtol=1e-9)
    assert np.array_equal(many["right"], alone["right"])


@pytest.mark.parametrize("size", UPDATES)
@pytest.mark.parametrize("ranks", RANKS)
def test_without_staleness_it_is_data_parallelism(steps, ranks, size):
    same(steps(ranks, size, **EXACT), steps(1, size))


@pytest.mark.parametrize("size", UPDATES)
@pytest.mark.parametrize(("ranks", "staleness", "overlap"), STALE)
def test_gradients_are_so_many_steps_stale(steps, ranks, size, staleness, overlap):
    """Deterministic: each sum is applied as late as allowed."""
    many = steps(ranks, size, **late(staleness), **on_time(overlap))
    reference = steps(1, size, "stale.py", **late(staleness))
    same(many, reference)
    assert not np.allclose(reference["weights"], steps(1, size)["weights"], rtol=1e-3)


@pytest.mark.parametrize(("ranks", "slow", "options"), SLOWED)
def test_a_slow_rank_is_waited_for_in_time(slowed, ranks, slow, options):
    slowed(ranks, slow, options)
