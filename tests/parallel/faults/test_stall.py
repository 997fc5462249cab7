"""Who is blamed when a wait takes long."""

import re
import time

import pytest

from lowerconv.parallel.comm.status import Status
from lowerconv.parallel.faults.stall import COMPILING, Answer, StallWatch

LIMIT = 5.0
HEALTHY = Answer(17, False, False, 0.0, 0.2, "computing, after features.3 forward")
BUSY = Answer(16, False, False, 0.0, 12.0, "loading a batch")
COMPILES = Answer(1, False, True, 0.0, 20.0, "computing")
WAITS = Answer(17, True, False, 9.0, 9.0, "bucket 2")
WAITS_SHORTLY = Answer(17, True, False, 1.0, 1.0, "bucket 2")


def watch(answers: dict[int, Answer], ranks: int = 4) -> StallWatch:
    """Return that of rank 0, which has asked; without its thread, and without MPI."""
    made = StallWatch.__new__(StallWatch)
    made.timeout, made.status = LIMIT, Status()
    made._places = [f"n{rank}" for rank in range(ranks)]
    made._rank, made._ranks = 0, ranks
    made._answers, made._last = answers, dict(answers)
    return made


@pytest.mark.parametrize("answer", [HEALTHY, BUSY, COMPILES, WAITS])
def test_answers_arrive_as_they_are(answer):
    assert Answer.unpack(answer.pack(3)) == answer


def test_a_long_text_is_cut():
    answer = Answer(1, False, False, 0.0, 0.0, "x" * 1000)
    assert Answer.unpack(answer.pack(1)).doing == "x" * 200


def test_what_a_rank_says_of_itself():
    status = Status()
    status.note("computing", 3)
    assert str(Answer.of(status)) == "step 3, computing, since 0 s"
    status.waiting, status.waiting_since = "bucket 1", time.monotonic() - 7
    assert str(Answer.of(status)) == "step 3, waiting for bucket 1 since 7 s"


BLAMED = {
    "silent": ({1: WAITS, 3: HEALTHY}, "rank 2 on host n2 does not answer"),
    "two-silent": ({2: WAITS}, "rank 1 on host n1 does not answer .*rank 3 on host n3 does not"),
    "busy": ({1: WAITS, 2: BUSY, 3: WAITS}, "rank 2 on host n2 does not go on: step 16, loading"),
    "all-wait": (dict.fromkeys((1, 2, 3), WAITS), "all ranks wait for each other.*bucket 2"),
    "slow": ({1: WAITS, 2: HEALTHY, 3: WAITS}, "^$"),
    "compiling": ({1: WAITS, 2: COMPILES, 3: WAITS}, "^$"),
    "just-begun-to-wait": ({1: WAITS, 2: WAITS_SHORTLY, 3: WAITS}, "^$"),
}


@pytest.mark.parametrize("name", BLAMED)
def test_who_is_blamed(name):
    answers, says = BLAMED[name]
    problem = watch(answers)._judge("bucket 2", 9.0)
    assert re.search(says, problem), problem


def test_compilation_may_not_take_for_ever():
    assert not COMPILES.stalls(LIMIT)
    assert Answer(1, False, True, 0.0, COMPILING + 1, "computing").stalls(LIMIT)
