"""Clocks of ranks: offsets that are known are found, and nothing waits for ever."""

from pathlib import Path

import pytest

from lowerconv.parallel.trace.clocks import Alignment, ClockError, Reading, compare_clocks

from ...long import long_but

PROGRAMS = Path(__file__).parents[1] / "programs"


@pytest.mark.parametrize("ranks", long_but([3], [1, 2, 3, 5]))
def test_skewed_and_drifting_clocks_are_aligned(mpiexec, ranks):
    run = mpiexec(ranks, PROGRAMS / "clocks.py")
    assert run.returncode == 0, run.stderr
    assert all(f"rank {rank} done" in run.stdout for rank in range(ranks))


def test_a_process_alone_has_the_only_clock():
    assert compare_clocks(None, clock=lambda: 7) == Reading(7, 0, 0)


def test_alignment_goes_in_a_straight_line():
    clock = Alignment(Reading(1000, 50, 3), Reading(2000, 60, 2))
    assert [clock(at) for at in (1000, 1500, 2000)] == [1050, 1555, 2060]
    assert clock(3000) == 3070
    assert clock.uncertainty == 3


def test_alignment_keeps_the_nanoseconds_of_a_host_that_is_up_for_years():
    start = 3 * 365 * 86_400 * 10**9 + 1
    clock = Alignment(Reading(start, -7, 1), Reading(start + 10**9, -7, 1))
    assert [clock(start + i) - start for i in range(3)] == [-7, -6, -5]


def test_alignment_of_two_readings_at_once():
    same = Reading(10, 5, 1)
    assert Alignment(same, same)(20) == 25


class DeadRequest:
    cancelled = False

    def Test(self):
        return False

    def Cancel(self):
        DeadRequest.cancelled = True


class DeadComm:
    """A job of two in which the other rank is gone."""

    def __init__(self, rank):
        self.rank = rank

    def Get_rank(self):
        return self.rank

    def Get_size(self):
        return 2

    def Isend(self, *_):
        return DeadRequest()

    Irecv = Isend


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_does_not_answer_is_named(rank):
    with pytest.raises(ClockError, match=rf"rank {1 - rank} has not answered for \d+ s"):
        compare_clocks(DeadComm(rank), timeout=0.05)
    assert DeadRequest.cancelled


def test_rounds_are_checked():
    with pytest.raises(ValueError, match="rounds: got 0, expected 1 or more"):
        compare_clocks(None, rounds=0)
