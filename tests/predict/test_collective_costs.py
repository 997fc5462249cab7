"""Messages of the collectives, beside those that the collectives themselves send."""

from collections import defaultdict

import numpy as np
import pytest

from lowerconv.parallel.comm.collectives import ALLREDUCE
from lowerconv.predict.collective_costs import (
    MOST_MESSAGES,
    Link,
    LinkCost,
    Links,
    Placement,
    fit,
    messages_of,
)
from lowerconv.predict.replay import run_alone

OURS = [name for name in ALLREDUCE if name != "library"]


class Recorded:
    """A link that sends nothing, and notes to whom how many items would go."""

    def __init__(self, rank, ranks, hosts, sent):
        self.rank, self.ranks, self.hosts, self.sent = rank, ranks, hosts, sent
        self._members = range(ranks)

    def among(self, members):
        part = Recorded(list(members).index(self.rank), len(members), [], self.sent)
        part._members = [self._members[m] for m in members]
        return part

    def send(self, array, to):
        self.sent.append((self._members[to], array.size))
        return []

    def receive(self, array, source):
        return []

    def scratch(self, size, dtype):
        return np.zeros(size, dtype)


def recorded(name, at, items):
    """Return for each message of a collective what each rank sends: (rank, to, items)."""
    hosts = [
        list(range(h, min(h + at.per_host, at.ranks))) for h in range(0, at.ranks, at.per_host)
    ]
    found = defaultdict(list)
    for rank in range(at.ranks):
        sent = []
        link = Recorded(rank, at.ranks, hosts, sent)
        for number, _ in enumerate(ALLREDUCE[name](link, np.zeros(items, np.float32))):
            found[number] += [(rank, to, size) for to, size in sent]
            sent.clear()
    return [found[number] for number in sorted(found)]


@pytest.mark.parametrize("name", ["ring", "direct", "halving-doubling", "two-level"])
@pytest.mark.parametrize("at", [(2, 1), (2, 2), (4, 1), (4, 2), (8, 1), (8, 2), (8, 4), (16, 4)])
def test_messages_are_those_that_are_sent(name, at):
    """Where all ranks send at the same time: message by message."""
    at = Placement(*at)
    items = 1 << 10
    expected = [part for part, times in messages_of(name, at) for _ in range(times)]
    sent = recorded(name, at, items)
    assert len(sent) == len(expected)
    for messages, part in zip(sent, expected, strict=True):
        near, far = [0], defaultdict(int)
        for rank, to, size in messages:
            if rank // at.per_host == to // at.per_host:
                near.append(size)
            else:
                far[rank // at.per_host] += size
        assert max(near) / items == pytest.approx(part.near)
        assert max(far.values(), default=0) / items == pytest.approx(part.far)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 6, 7, 13])
def test_no_rank_sends_more_than_the_messages_have(name, ranks):
    items = 2520 * 13
    at = Placement(ranks, 1)
    most = sum(times * part.far for part, times in messages_of(name, at))
    sent = defaultdict(int)
    for messages in recorded(name, at, items):
        for rank, _, size in messages:
            sent[rank] += size
    assert max(sent.values(), default=0) / items <= most + 1e-3
    if name in ("ring", "direct"):
        assert max(sent.values(), default=0) / items == pytest.approx(most, abs=1e-3)


def test_a_line_through_two_sizes_gives_what_was_measured():
    rng = np.random.default_rng(seed := 3)
    print("seed", seed)
    for _ in range(100):
        name = str(rng.choice(OURS[:4]))
        ranks, host = int(rng.integers(2, 9)), bool(rng.integers(2))
        at = Placement(ranks, ranks if host else 1)
        start, slope = rng.uniform(1e-6, 1e-3), rng.uniform(1e-10, 1e-7)
        taken = {n: start + slope * n for n in (1 << 14, 1 << 21)}
        link = Link({name: fit(name, at, taken)}, float(rng.uniform()))
        links = Links(link, None) if host else Links(None, link)
        for n in (1 << 14, 1 << 18, 1 << 21):
            assert links.seconds(name, at, n) == pytest.approx(start + slope * n)
            assert run_alone(links.messages(name, at, n)) == pytest.approx(start + slope * n)


@pytest.mark.parametrize("taken", [{16: 2.0, 1600: 1.0}, {16: 1e-3, 1600: 1.0}, {1600: 1.0}])
def test_lines_do_not_fall_nor_begin_below_nothing(taken):
    cost = fit("ring", Placement(2, 1), taken)
    assert cost.latency >= 0
    assert cost.byte >= 0
    assert 2 * cost.latency + 1600 * cost.byte == pytest.approx(max(taken[1600], taken.get(16, 0)))


def test_many_messages_are_taken_together():
    links = Links(None, Link({"ring": LinkCost(1e-5, 1e-9)}, 0.25))
    at = Placement(1000, 1)
    messages = links.messages("ring", at, 1 << 20)
    assert len(messages) <= MOST_MESSAGES
    assert run_alone(messages) == pytest.approx(links.seconds("ring", at, 1 << 20))


def test_a_ring_crosses_hosts_once_in_each_direction():
    """With two ranks on each of four hosts: both kinds of links are used, the slower counts."""
    near, far = Link({"ring": LinkCost(0, 1e-9)}, 0), Link({"ring": LinkCost(0, 1e-8)}, 0)
    at = Placement(8, 2)
    seconds = Links(near, far).seconds("ring", at, 8000)
    assert seconds == pytest.approx(14 * 1000 * 1e-8)


def test_errors():
    with pytest.raises(ValueError, match=r"^algorithm: got 'star', expected one of library"):
        messages_of("star", Placement(2, 1))
    with pytest.raises(ValueError, match=r"^per_host: got 0"):
        Placement(2, 0)
