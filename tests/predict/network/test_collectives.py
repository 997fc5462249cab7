"""Collectives: what is recorded is what the engine sends, and times as formulas have them."""

from collections import Counter, defaultdict, deque

import numpy as np
import pytest

from lowerconv.parallel.comm.link import Link
from lowerconv.predict.network.collectives import (
    COLLECTIVES,
    collective_seconds,
    ranks_of,
    schedule_of,
)
from lowerconv.predict.network.flows import simulate
from lowerconv.predict.network.graph import GraphBuilder
from lowerconv.predict.network.recording import record
from lowerconv.predict.network.text import parse_topology

from ...long import long_but

UNEVEN = [[0, 1, 2], [3, 4], [5, 6, 7, 8]]


class LocalLink(Link):
    """Sends real arrays between ranks of this process, which take turns."""

    def __init__(self, rank, ranks, hosts, boxes, sent):
        super().__init__(None, 0, hosts or [[r] for r in range(ranks)])
        self.rank, self.ranks, self._members = rank, ranks, range(ranks)
        self.boxes, self.messages = boxes, sent

    def among(self, members):
        part = super().among(members)
        part.__class__, part.boxes, part.messages = LocalLink, self.boxes, self.messages
        return part

    def send(self, array, to):
        if not array.size:
            return []
        me, other = self._members[self.rank], self._members[to]
        self.messages[me, other].append(array.nbytes)
        self.boxes[me, other].append(array.copy())
        return [lambda: True]

    def receive(self, array, source):
        if not array.size:
            return []
        box, done = self.boxes[self._members[source], self._members[self.rank]], []

        def arrived():
            if not done and box:
                array[:] = box.popleft()
                done.append(True)
            return bool(done)

        return [arrived]


def run(name, arrays, hosts):
    """Run a collective on real arrays; return the bytes of messages of each pair, in order."""
    boxes, sent = defaultdict(deque), defaultdict(list)
    ranks = len(arrays)
    generators = [
        COLLECTIVES[name](LocalLink(rank, ranks, hosts, boxes, sent), array)
        for rank, array in enumerate(arrays)
    ]
    waiting = {rank: [] for rank in range(ranks)}
    while waiting:
        for rank in list(waiting):
            waiting[rank] = [arrived for arrived in waiting[rank] if not arrived()]
            if not waiting[rank]:
                waiting[rank] = next(generators[rank], None)
                if waiting[rank] is None:
                    del waiting[rank]
    return sent


@pytest.mark.parametrize("name", COLLECTIVES)
@pytest.mark.parametrize(("ranks", "size"), [(1, 5), (2, 7), (3, 2), (5, 23), (8, 64), (9, 100)])
def test_recorded_are_the_messages_that_are_sent(name, ranks, size):
    hosts = UNEVEN if ranks == 9 else None
    arrays = [np.arange(size, dtype=np.float64) + rank for rank in range(ranks)]
    total = sum(arrays)
    sent = run(name, arrays, hosts)
    if name not in ("reduce-scatter", "all-gather", "broadcast", "reduce"):
        for array in arrays:
            np.testing.assert_array_equal(array, total)
    schedule = record(COLLECTIVES[name], ranks, size, np.float64, hosts)
    recorded = defaultdict(list)
    for source, target, nbytes in zip(
        schedule.source.tolist(), schedule.target.tolist(), schedule.nbytes, strict=True
    ):
        recorded[source, target].append(nbytes)
    assert recorded == {pair: messages for pair, messages in sent.items() if messages}
    assert Counter(schedule.messages.tolist()) in (Counter(), Counter({1: schedule.source.size}))


def test_sums_are_recorded():
    schedule = record(COLLECTIVES["ring"], 4, 1000, np.float32)
    added = np.add.reduceat(schedule.added, schedule.first)
    np.testing.assert_array_equal(added, 3 * 1000)  # three parts of 250 floats each


@pytest.mark.parametrize("ranks", [2, 3, 4, 5, 6, 7, 8, 13, 16, 31, 48, 100])
def test_halving_doubling_of_all_ranks_at_once_is_as_recorded(ranks):
    size = 101 + ranks
    recorded, found = (
        schedule_of("halving-doubling", ranks, size, np.float64, form=form)
        for form in ("full", "compact")
    )
    assert found._fields == recorded._fields
    orders = [np.lexsort((s.target_stage, s.source_stage)) for s in (recorded, found)]
    for name in ("source", "target", "source_stage", "target_stage", "nbytes", "messages"):
        one, other = getattr(recorded, name)[orders[0]], getattr(found, name)[orders[1]]
        np.testing.assert_array_equal(one, other, err_msg=name)
    for name in ("first", "last", "added", "after", "before"):
        np.testing.assert_array_equal(getattr(recorded, name), getattr(found, name), err_msg=name)


# Ranks are p, bytes n, seconds of an empty message a, of one byte b.
FORMULAS = {
    "ring": lambda p, n, a, b: 2 * (p - 1) * (a + n / p * b),
    "direct": lambda p, n, a, b: 2 * (p - 1) * (a + n / p * b),
    "two-level": lambda p, n, a, b: 2 * (p - 1) * (a + n / p * b),
    "halving-doubling": lambda p, n, a, b: 2 * np.log2(p) * a + 2 * (p - 1) / p * n * b,
    "tree": lambda p, n, a, b: 2 * np.log2(p) * (a + n * b),
    "reduce-scatter": lambda p, n, a, b: (p - 1) * (a + n / p * b),
    "all-gather": lambda p, n, a, b: (p - 1) * (a + n / p * b),
    "broadcast": lambda p, n, a, b: 2 * (a + (p - 1) * n / p * b),
    "reduce": lambda p, n, a, b: p * a + 2 * (p - 1) * n / p * b,
}


@pytest.mark.parametrize("form", ["full", "compact"])
@pytest.mark.parametrize("name", COLLECTIVES)
@pytest.mark.parametrize("ranks", long_but([2, 16], [2, 16, 64]))
def test_times_on_a_switch_are_those_of_formulas(name, ranks, form):
    topology = parse_topology(f"switch:{ranks},bandwidth=1e9,latency=1e-5")
    size = 64 * 1000
    seconds = collective_seconds(topology, name, size, form=form).max()
    expected = FORMULAS[name](ranks, 4 * size, 2e-5, 1e-9)
    # A compact broadcast has fewer messages than ranks, which does not divide evenly.
    loose = (name, form) == ("broadcast", "compact") and ranks > 33
    assert seconds == pytest.approx(expected, rel=0.01 if loose else 1e-5)


@pytest.mark.parametrize("name", COLLECTIVES)
@pytest.mark.parametrize(
    "text",
    [
        "fat-tree:4x3x4",
        "fat-tree:6x8,oversubscription=2",
        "torus:4x4x3",
        "torus:48",
        "torus:2x2x2x2x3",
        "dragonfly:6x4x2",
        "switch:48,oversubscription=3",
    ],
)
def test_compact_forms_take_as_long_as_full_ones(name, text):
    topology = parse_topology(f"{text},bandwidth=1e9,latency=1e-6")
    full, compact = (
        collective_seconds(topology, name, 4_800_000, form=form, resolution=1e-4).max()
        for form in ("full", "compact")
    )
    print(f"{name} {text}: {compact / full:.4f}")
    assert compact == pytest.approx(full, rel=0.01)


def test_two_level_of_several_ranks_a_host():
    topology = parse_topology("switch:8,bandwidth=1e9,latency=1e-6,memory_bandwidth=5e9")
    hosts = np.repeat(np.arange(8), 4)
    full, compact = (
        collective_seconds(topology, "two-level", 3_200_000, hosts=hosts, form=form).max()
        for form in ("full", "compact")
    )
    assert compact == pytest.approx(full, rel=0.01)
    flat = collective_seconds(topology, "ring", 3_200_000, hosts=np.tile(np.arange(8), 4)).max()
    assert full < 0.4 * flat  # whose ranks are placed so that each neighbour is elsewhere


def test_oversubscription_is_felt():
    plain, shared = (
        collective_seconds(parse_topology(text), "ring", 16_000_000).max()
        for text in ("switch:16,latency=0", "switch:16,latency=0,oversubscription=4")
    )
    assert shared == pytest.approx(4 * plain, rel=1e-6)


def test_adding_takes_its_time():
    topology = parse_topology("switch:4,bandwidth=1e9,latency=0")
    for form in ("full", "compact"):
        plain, adding = (
            collective_seconds(topology, "ring", 4000, form=form, adding=a).max() for a in (0, 1e-9)
        )
        assert adding - plain == pytest.approx(3 * 4000e-9, rel=1e-6)


def test_a_late_rank_holds_up_its_neighbours():
    topology = parse_topology("switch:4,bandwidth=1e9,latency=1e-6")
    schedule = schedule_of("tree", 4, 1000)
    builder = GraphBuilder(topology)
    start = builder.compute(np.array([0, 0, 0, 1.0]))
    done = schedule.add_to(builder, np.arange(4), start)
    end = simulate(builder.build()).end[done]
    assert (end > 1).all() and (end < 1.001).all()


def test_ranks_of_hosts():
    assert ranks_of(np.array([3, 1, 3, 0])) == [[0, 2], [1], [3]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "library"}, "name: got 'library', expected one of ring, halving-doubling"),
        ({"form": "short"}, "form: got 'short', expected one of auto, full, compact"),
        ({"ranks": 0}, "ranks: got 0, expected at least 1"),
        ({"size": -1}, "size: got -1, expected at least 0"),
        ({"hosts": [[0, 1], [1]]}, "hosts: got .* expected each of 3 ranks once"),
    ],
)
def test_arguments_that_are_none(options, message):
    with pytest.raises(ValueError, match=message):
        schedule_of(**{"name": "ring", "ranks": 3, "size": 9, **options})


def test_a_collective_whose_messages_nobody_waits_for():
    def wrong(link, array):
        yield link.send(array, 1 - link.rank)

    with pytest.raises(ValueError, match="collective: messages are sent that nobody waits for"):
        record(wrong, 2, 10)
