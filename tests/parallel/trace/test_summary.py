"""Summaries of made-up traces: the answers are known."""

import pytest

from lowerconv.parallel.trace.chrome import Event, RankTrace, Step, Trace, Transfer
from lowerconv.parallel.trace.summary import describe, summarize, summarize_all

from ..traces import MS, made_up_trace, rank_trace


@pytest.mark.parametrize("number", [None, 6])
def test_a_rank(number):
    summary = summarize(rank_trace(1), number)
    assert summary.steps == (3 if number is None else 1)
    assert summary.seconds == pytest.approx(0.100)
    assert summary.compute == pytest.approx(0.078)  # 10 to 80 and 90 to 98
    assert summary.exposed == pytest.approx(0.010)
    assert summary.data == pytest.approx(0.010)
    assert summary.other == pytest.approx(0.002)
    assert summary.in_flight == pytest.approx(0.035)  # 55 to 90: both at once count once
    assert summary.hidden == pytest.approx(1 - 10 / 35)
    assert (summary.nbytes, summary.sent) == (6e6, 9e6)
    assert summary.images_per_second == pytest.approx(90)


def test_all_ranks_together():
    whole, ranks = summarize_all(made_up_trace(3))
    assert len(ranks) == 3
    assert whole.seconds == pytest.approx(0.1)
    assert whole.images_per_second == pytest.approx(80 + 90 + 100)
    assert whole.hidden == pytest.approx(1 - 10 / 35)
    text = describe(made_up_trace(3))
    for part in ("3 steps of 100.0 ms: 78.0 compute, 10.0 waiting", "270 images/s", "71% of it"):
        assert part in text


def one_step(events, transfers, begin=0, end=100):
    return RankTrace(
        0,
        "h",
        0,
        [Step(0, 1, begin * MS, end * MS)],
        [Event(kind, "", a * MS, b * MS, {}) for kind, a, b in events],
        [Transfer("", 1, sent, a * MS, a * MS, b * MS) for sent, a, b in transfers],
    )


@pytest.mark.parametrize(
    "events,transfers,hidden",
    [
        ([], [(1, 10, 50)], 1.0),  # asynchronous: nobody waited
        ([("wait", 10, 50)], [(1, 10, 50)], 0.0),
        ([("wait", 10, 20), ("progress", 30, 40)], [(1, 10, 50)], 0.5),
        ([("wait", 0, 100)], [(1, 10, 50)], 0.0),  # for what had not begun: never below none
        ([("wait", 80, 90)], [(1, 60, 140)], 0.75),  # it goes on after the step
        ([("wait", 0, 10)], [(1, -40, 10), (1, 30, 60)], 0.75),
        ([("wait", 10, 20)], [], None),
    ],
)
def test_hidden_share(events, transfers, hidden):
    found = summarize(one_step(events, transfers)).hidden
    assert found == (None if hidden is None else pytest.approx(hidden))


def test_bytes_that_the_library_sends_are_not_known():
    assert summarize(one_step([], [(5, 1, 2), (None, 3, 4)])).sent is None
    assert summarize(one_step([], [(5, 1, 2), (6, 3, 4)])).sent == 11


def test_steps_of_two_epochs_leave_out_what_is_between():
    rank = one_step([("wait", 90, 200)], [(1, 50, 400)])
    rank.steps.append(Step(1, 1, 300 * MS, 400 * MS))
    summary = summarize(rank)
    assert summary.seconds == pytest.approx(0.1)
    assert summary.exposed == pytest.approx(0.005)
    assert summary.in_flight == pytest.approx(0.075)


def test_no_communication_is_told():
    assert "no communication" in describe(Trace("x", [one_step([("forward", 0, 50)], [])]))
