"""Ranks of which one gets no thread for messages, or none that answers: all of them go on alike."""

import pytest

from ..conftest import PROGRAMS


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("lowerconv-communication", "messages move between layers, on all ranks"),
        ("lowerconv-stall", "waited for in silence"),
        ("none", ""),
    ],
)
def test_all_ranks_do_without(mpiexec, name, told):
    run = mpiexec(3, PROGRAMS / "refused.py", name, timeout=100)
    assert run.returncode == 0, run.stderr
    assert sorted(run.stdout.splitlines()) == [f"rank {rank} right" for rank in range(3)]
    assert run.stderr.count("no more threads (can't start new thread)") == bool(told)
    assert told in run.stderr
