"""The engine's rules on a clock of their own, beside schedules that were computed by hand."""

import math

import pytest

from lowerconv.predict.replay import Compute, Look, Message, Replay, Sum, Wait, run_alone


def wire(*seconds):
    return tuple(Message(0.0, s, 0.0) for s in seconds)


def played(replay, *requests):
    """Run a main thread that submits the sums among some requests."""

    def main():
        for request in requests:
            if isinstance(request, Sum):
                replay.submit(request)
            else:
                yield request

    replay.run(main())


def test_two_sums_share_the_wire():
    replay, a, b = Replay(threaded=True), Sum("a", wire(3)), Sum("b", wire(3))
    played(replay, a, Compute(2), b, Wait(a), Wait(b))
    assert a.finished == pytest.approx(4)  # 1 of 3 is left when b begins: twice as long
    assert b.finished == pytest.approx(6)
    assert replay.computed() == pytest.approx(2)
    assert replay.exposed() == pytest.approx(4)
    assert replay.in_flight == pytest.approx(6)


def test_latencies_pass_at_the_same_time():
    replay, a, b = (
        Replay(threaded=True),
        Sum("a", (Message(2, 1, 0),)),
        Sum("b", (Message(2, 1, 0),)),
    )
    played(replay, a, b, Wait(a), Wait(b))
    assert (a.finished, b.finished) == (pytest.approx(4), pytest.approx(4))


def test_a_third_sum_waits_for_its_turn():
    replay = Replay(threaded=True)
    a, b, c = (Sum(name, wire(1)) for name in "abc")
    played(replay, a, b, c, Wait(c))
    assert (a.finished, b.finished) == (pytest.approx(2), pytest.approx(2))
    assert (c.started, c.finished) == (pytest.approx(2), pytest.approx(3))


def test_what_is_needed_first_overtakes():
    replay = Replay(threaded=True)
    a, b, c = Sum("a", wire(1, 1), 1), Sum("b", wire(1, 1), 2), Sum("c", wire(1), 3)
    played(replay, a, b, Compute(1), c, Wait(a))
    # At 1 half of the first messages is left, and c is third on the wire: a's and b's end at 2.5.
    # Then b and c move, and a begins its second one at 3.5 only, when c is done.
    assert c.finished == pytest.approx(3.5)
    assert b.finished == pytest.approx(4.5)
    assert a.finished == pytest.approx(5)


def test_without_a_thread_messages_move_when_somebody_looks():
    replay, a = Replay(threaded=False), Sum("a", (Message(1, 0, 0.5), Message(1, 0, 0.5)))
    played(replay, a, Compute(3), Look(), Compute(3), Wait(a))
    # The first arrives at 1 and is added from 3 to 3.5; the second arrives at 4.5, is added at 6.5.
    assert a.finished == pytest.approx(7)
    assert replay.computed() == pytest.approx(6)
    assert replay.exposed() == pytest.approx(1)


def test_without_a_thread_a_wait_looks_all_the_time():
    replay, a = Replay(threaded=False), Sum("a", (Message(1, 1, 0.5), Message(1, 1, 0.5)))
    played(replay, a, Wait(a))
    assert a.finished == pytest.approx(5)


@pytest.mark.parametrize(("spare", "end"), [(False, 5), (True, 4)])
def test_a_thread_without_a_core_of_its_own_stops_the_layers(spare, end):
    replay, a = Replay(threaded=True, spare=spare), Sum("a", (Message(0, 1, 1),))
    played(replay, a, Compute(4))
    assert replay.now == pytest.approx(end)
    assert replay.exposed() == pytest.approx(end - 4)


def test_a_sum_begins_when_the_last_rank_submits_it():
    replay, a = Replay(threaded=True, mains=2), Sum("a", wire(1))

    def main(seconds):
        yield Compute(seconds)
        replay.submit(a)
        yield Wait(a)

    replay.run(main(1), main(4))
    assert (a.started, a.finished) == (pytest.approx(4), pytest.approx(5))
    assert replay.exposed(0) == pytest.approx(4)
    assert replay.exposed(1) == pytest.approx(1)


def test_who_waits_for_what_nobody_sends_is_told():
    replay = Replay(threaded=True)
    with pytest.raises(RuntimeError, match="never begins"):
        replay.run(iter([Wait(Sum("a", wire(1)))]))


def test_a_sum_alone_takes_what_its_messages_take():
    messages = [Message(0.25, 1, 0.5)] * 7
    assert run_alone(messages) == pytest.approx(7 * 1.75)
    assert math.isclose(run_alone([]), 0.0)


def test_a_look_ends_no_message_that_it_has_begun():
    """Each message needs a look of all ranks: the sum is done at the third look, or by a wait."""
    replay, a = Replay(threaded=False), Sum("a", (Message(0, 0, 0.5),) * 3)
    looks = [request for _ in range(4) for request in (Compute(1), Look())]
    played(replay, a, *looks)
    # Looks begin at 1, 2.5 and 4.
    assert a.finished == pytest.approx(4.5)
    assert replay.exposed() == pytest.approx(1.5)
    replay, a = Replay(threaded=False), Sum("a", (Message(0, 0, 0),) * 3)
    played(replay, a, *looks)
    assert a.finished == pytest.approx(3)
    replay, a = Replay(threaded=False), Sum("a", (Message(0, 0, 0.5),) * 3)
    played(replay, a, Compute(1), Look(), Wait(a))
    assert a.finished == pytest.approx(2.5)


def test_looks_of_other_ranks_wait_for_nothing():
    replay, a = Replay(threaded=False, mains=2), Sum("a", (Message(0, 0, 0.5),))

    def main(seconds):
        replay.submit(a)
        yield Compute(seconds)
        yield Look()
        yield Compute(1)

    replay.run(main(10), main(1))
    assert replay.exposed(1) == pytest.approx(0)
    assert a.finished == pytest.approx(10.5)
