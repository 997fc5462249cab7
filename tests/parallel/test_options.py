"""What options may be, and what belongs to which strategy."""

from pathlib import Path

import pytest

from lowerconv.parallel.options import CHECK_EVERY, STRATEGIES, ParallelOptions
from lowerconv.parallel.strategies import STRATEGIES as CLASSES

from ..long import long_but

PROGRAMS = Path(__file__).parent / "programs"


def test_every_strategy_has_a_class():
    assert set(CLASSES) == set(STRATEGIES)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"strategy": "magic"}, "strategy: got 'magic', expected one of data, tree"),
        ({"allreduce": "pigeon"}, "allreduce: got 'pigeon', expected one of auto, library"),
        ({"bucket_mib": 0.0}, "bucket_mib: got 0.0, expected at least 0.001 and at most"),
        ({"strategy": "async", "staleness": -1}, "staleness: got -1, expected at least 0"),
        ({"owt_scheme": "a"}, "owt_scheme: got 'a' with strategy 'data', expected it with owt"),
        ({"strategy": "tree", "allreduce": "ring"}, "allreduce: got 'ring' with strategy 'tree'"),
        ({"strategy": "async", "elastic": True}, "elastic: got True with strategy 'async'"),
        ({"strategy": "server", "deterministic": True}, "deterministic: got True with"),
    ],
)
def test_what_cannot_be_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        ParallelOptions(**given)


@pytest.mark.parametrize("value", ["1", True, 2.5])
def test_a_number_of_the_wrong_kind_is_refused(value):
    with pytest.raises(TypeError, match="owt_updates: got"):
        ParallelOptions(strategy="owt", owt_updates=value)


def test_weights_of_deterministic_runs_are_compared():
    assert ParallelOptions().checked_every is None
    assert ParallelOptions(check_every=7).checked_every == 7
    assert ParallelOptions(deterministic=True).checked_every == CHECK_EVERY
    assert ParallelOptions(deterministic=True, check_every=3).checked_every == 3


@pytest.mark.parametrize("ranks", long_but([3], [2, 3]))
def test_a_rank_that_parts_from_the_others_stops_the_run(mpiexec, ranks):
    run = mpiexec(ranks, PROGRAMS / "parting.py")
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("named") == ranks
