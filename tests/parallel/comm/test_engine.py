"""Which collectives move while others do, of a process alone: routines that only count."""

import pytest

from lowerconv.parallel.comm import engine as engines
from lowerconv.parallel.comm.engine import AT_ONCE, URGENT, Engine


class Routines:
    """Routines that wait for messages that the test delivers."""

    def __init__(self, monkeypatch) -> None:
        self.begun: list[str] = []
        self.come: set[str] = set()
        self.engine = Engine()
        monkeypatch.setattr(
            engines, "_all_done", lambda requests: all(r in self.come for r in requests)
        )
        self.engine.idle_after = 1000.0

    def submit(self, name: str, **options) -> engines.Task:
        def routine(link):
            self.begun.append(name)
            yield [name]

        return self.engine.submit(routine, name, **options)

    def deliver(self, *names: str) -> list[str]:
        self.come.update(names)
        before = len(self.begun)
        self.engine.progress()
        return self.begun[before:]


@pytest.fixture
def routines(monkeypatch):
    return Routines(monkeypatch)


def test_those_without_a_priority_take_turns(routines):
    for name in "abcd":
        routines.submit(name)
    assert "".join(routines.begun) == "abcd"[:AT_ONCE]
    assert routines.deliver("b") == ["c"]
    assert routines.deliver("a", "c") == ["d"]


def test_what_is_needed_first_overtakes(routines):
    routines.submit("low", priority=1)
    routines.submit("lower", priority=0.5)
    assert routines.begun == ["low", "lower"]
    routines.submit("high", priority=3)
    routines.submit("higher", priority=4)
    assert routines.begun == ["low", "lower", "high", "higher"]
    routines.submit("middle", priority=2)
    routines.submit("in turn")
    assert len(routines.begun) == 4  # nothing more while two that are needed first move
    assert routines.deliver("low") == []  # it does not even look
    assert routines.deliver("higher") == ["middle"]
    assert routines.deliver("high", "middle", "lower") == ["in turn"]


def test_urgent_ones_always_move(routines):
    names = [str(n) for n in range(AT_ONCE + 3)]
    for name in names:
        routines.submit(name, priority=URGENT)
    assert routines.begun == names
    routines.submit("other", priority=7)
    assert "other" not in routines.begun
    assert routines.deliver(*names) == ["other"]


def test_one_that_waits_for_a_late_rank_holds_nobody_up(routines):
    for name in "abc":
        routines.submit(name, priority=ord(name))
    routines.submit("other", priority=1)
    assert routines.deliver() == []
    routines.engine.idle_after = -1.0
    assert routines.deliver() == ["other"]


def test_what_lasts_does_not_count(routines):
    for tag in range(AT_ONCE):
        routines.submit(f"lasting {tag}", tag=tag)
    routines.submit("other", priority=1)
    routines.submit("in turn")
    assert routines.begun[AT_ONCE:] == ["other", "in turn"]
    assert routines.engine.progress()
    assert routines.deliver("other", "in turn") == []
    assert routines.engine.progress()  # they last
