"""What a timeline keeps: of made-up steps exactly, of real ones what has to hold."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowerconv import nn
from lowerconv.nn.module import Step as NetworkStep
from lowerconv.parallel import Communicator
from lowerconv.parallel.trace.chrome import (
    KINDS,
    STEP,
    TRANSFER,
    Step,
    TraceError,
    Transfer,
    lanes,
    read,
    write,
)
from lowerconv.parallel.trace.summary import merged, overlap
from lowerconv.parallel.trace.timeline import Timeline
from tests.parallel.trace.clock import US, Clock, batch, events, layer_done, task

from ...long import long_but
from ..traces import made_up_trace, over

PROGRAMS = Path(__file__).parents[1] / "programs"


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def network():
    return nn.Module()


class TestMainThread:
    def test_events_follow_each_other(self, clock, network):
        timeline = Timeline(0, 1, clock)
        timeline.attach(network)
        source = iter([batch(3)])

        def slow():
            clock.now = 10
            yield next(source)
            clock.now = 1000  # of no step

        for _ in over(timeline, slow()):
            layer_done(network, clock, 30, "a")
            layer_done(network, clock, 40, "b")
            clock.now = 42
            with timeline.doing("loss"):
                clock.now = 50
            layer_done(network, clock, 70, "b", "backward")
            clock.now = 90
            timeline.waited("bucket 0", 75 * US, 90 * US)
            with timeline.doing("update", "bucket 0"):
                clock.now = 95
            clock.now = 99
        trace = timeline.finish(Communicator(), None, "test")
        assert trace.ranks[0].steps == [Step(0, 3, 0, 99 * US)]
        assert events(timeline) == [
            ("data", "", 0, 10),
            ("forward", "a", 10, 30),
            ("forward", "b", 30, 40),
            ("loss", "", 42, 50),
            ("backward", "b", 50, 70),
            ("wait", "bucket 0", 75, 90),
            ("update", "bucket 0", 90, 95),
        ]

    def test_a_wait_inside_a_layer_cuts_it_in_two(self, clock, network):
        timeline = Timeline(0, 1, clock)
        timeline.attach(network)
        for _ in over(timeline, [batch(1)]):
            clock.now = 25
            timeline.waited("gather", 10 * US, 25 * US)
            layer_done(network, clock, 40, "split")
        assert events(timeline) == [
            ("forward", "split", 0, 10),
            ("wait", "gather", 10, 25),
            ("forward", "split", 25, 40),
        ]

    def test_a_wait_inside_an_update_cuts_it_in_two(self, clock, network):
        timeline = Timeline(0, 1, clock)
        for _ in over(timeline, [batch(1)]):
            with timeline.doing("update", "all"):
                clock.now = 30
                timeline.waited("bucket 1", 20 * US, 30 * US)
                with timeline.doing("loss", "inner"):
                    clock.now = 32
                clock.now = 50
        assert events(timeline) == [
            ("update", "all", 0, 20),
            ("wait", "bucket 1", 20, 30),
            ("loss", "inner", 30, 32),
            ("update", "all", 32, 50),
        ]

    def test_who_watched_before_goes_on_and_is_seen_if_it_takes_long(self, clock, network):
        heard = []

        def before(layer, frame, phase):
            heard.append((frame.name, phase))
            clock.now += 100 if frame.name == "slow" else 5

        network.register_watch(before)
        timeline = Timeline(1, 1, clock)
        timeline.attach(network)
        for _ in over(timeline, [batch(1)] * 2):
            clock.now = 0
            timeline._since = 0
            layer_done(network, clock, 10, "quick")
            layer_done(network, clock, 20, "slow")
        assert heard == 2 * [("quick", "forward"), ("slow", "forward")]
        assert events(timeline) == [
            ("forward", "quick", 0, 10),
            ("forward", "slow", 15, 20),
            ("progress", "", 20, 120),
        ]

    def test_an_error_in_a_context_passes_through(self, clock):
        timeline = Timeline(0, 1, clock)
        with pytest.raises(KeyError):
            for _ in over(timeline, [batch(1)]):
                with timeline.doing("update"):
                    clock.now = 5
                    raise KeyError("x")
        assert timeline._open == []


class TestSteps:
    @pytest.mark.parametrize("first,count", [(0, 1), (0, 4), (2, 3), (9, 1), (8, 5)])
    def test_only_the_steps_asked_for_are_kept(self, clock, network, first, count):
        timeline = Timeline(first, count, clock)
        timeline.attach(network)
        done = 0
        for epoch in range(2):
            for i, _ in enumerate(over(timeline, [batch(i + 1) for i in range(5)])):
                layer_done(network, clock, clock.now + 10, f"{epoch} {i}")
                timeline.waited("x", clock() - US, clock())
                done += 1
                clock.now += 1
            clock.now += 1000  # the network is tested
        last = min(done, first + count)
        trace = timeline.finish(Communicator(), None, "test")
        steps = trace.ranks[0].steps
        assert [step.number for step in steps] == list(range(first, last))
        assert [step.images for step in steps] == [n % 5 + 1 for n in range(first, last)]
        assert all(step.end - step.begin == 11 * US for step in steps)
        names = {e.name for e in trace.ranks[0].events if e.kind == "forward"}
        assert names == {f"{n // 5} {n % 5}" for n in range(first, last)}
        assert timeline.complete == (first + count <= done)

    def test_a_run_that_is_too_short_is_told(self, clock):
        timeline = Timeline(5, 10, clock)
        for _ in over(timeline, [batch(1)] * 5):
            clock.now += 1
        with pytest.raises(ValueError, match=r"run of 5 steps, expected more than the 5 that"):
            timeline.finish(Communicator(), None, "test")

    @pytest.mark.parametrize("first,count", [(-1, 3), (0, 0)])
    def test_ranges(self, first, count):
        with pytest.raises(ValueError, match=r"(first|count): got -?\d, expected"):
            Timeline(first, count)

    def test_communication_counts_where_it_overlaps_with_the_steps(self, clock, monkeypatch):
        monkeypatch.setattr(Communicator, "ranks", 2)
        timeline = Timeline(1, 1, clock)
        clock.now = 100
        loop = over(timeline, [batch(1)] * 3)
        next(loop)
        timeline.task_finished(task("before", 50, 60, 120))
        clock.now = 200
        next(loop)
        timeline.task_finished(task("into", 110, 150, 220))
        timeline.task_finished(task("in", 205, 210, 230))
        clock.now = 300
        next(loop)
        timeline.task_finished(task("out of", 240, 250, 350))
        timeline.task_finished(task("after", 305, 310, 320))
        list(loop)
        trace = timeline.finish(Communicator(), None, "test")
        found = trace.ranks[0].transfers
        assert [sent.name for sent in found] == ["into", "in", "out of"]
        assert found[0] == Transfer("into", 8, 4, 110 * US, 150 * US, 220 * US)


class TestFile:
    def test_what_is_written_is_read(self, tmp_path):
        trace = made_up_trace(5)
        write(trace, tmp_path / "trace.json")
        again = read(tmp_path / "trace.json")
        zero = min(step.begin for rank in trace.ranks for step in rank.steps)
        assert again.about == trace.about
        for rank, found in zip(trace.ranks, again.ranks, strict=True):
            assert (found.rank, found.host) == (rank.rank, rank.host)
            assert found.uncertainty == rank.uncertainty
            assert found.steps == [
                s._replace(begin=s.begin - zero, end=s.end - zero) for s in rank.steps
            ]
            assert found.events == [
                e._replace(begin=e.begin - zero, end=e.end - zero) for e in rank.events
            ]
            times = [[at - zero for at in sent[3:]] for sent in rank.transfers]
            assert [list(sent[3:]) for sent in found.transfers] == times
            assert [sent[:3] for sent in found.transfers] == [s[:3] for s in rank.transfers]

    def test_perfetto_gets_a_process_for_each_rank_and_lanes_without_overlaps(self, tmp_path):
        write(made_up_trace(3), tmp_path / "trace.json")
        check_format(tmp_path / "trace.json", ranks=3)

    @pytest.mark.parametrize(
        "content,message",
        [
            (b"", "damaged or no JSON"),
            (b"\xff\xfe\x00", "damaged or no JSON"),
            (b"[" * 100_000, "damaged or no JSON"),
            (b"[]", "not written by this version's lowerconv train --timeline"),
            (b'{"traceEvents": []}', "not written by"),
            (b'{"otherData": {"format": "lowerconv timeline 1"}}', "damaged"),
        ],
    )
    def test_other_files_are_refused(self, tmp_path, content, message):
        path = tmp_path / "other.json"
        path.write_bytes(content)
        with pytest.raises(TraceError, match=message) as error:
            read(path)
        assert str(error.value).startswith(str(path))

    def test_damage_is_told(self, tmp_path):
        path = tmp_path / "trace.json"
        write(made_up_trace(2), path)
        content = json.loads(path.read_text())
        for damage in (
            lambda c: c["traceEvents"][-1].pop("ts"),
            lambda c: c["traceEvents"][-1].update(dur=-1),
            lambda c: c["traceEvents"][-1].update(cat="nonsense"),
            lambda c: c["traceEvents"][-1].update(pid=7),
            lambda c: c["traceEvents"][-1].update(ts=float("nan")),
            lambda c: c["otherData"].update(ranks=[]),
            lambda c: c["otherData"].update(ranks=3),
            lambda c: c.update(traceEvents=[]),
            lambda c: c.update(traceEvents={"a": 1}),
        ):
            broken = json.loads(json.dumps(content))
            damage(broken)
            path.write_text(json.dumps(broken))
            with pytest.raises(TraceError, match="damaged"):
                read(path)


def check_format(path, ranks):
    """Check what any reader of the Trace Event Format relies on."""
    content = json.loads(path.read_bytes())
    lines = content["traceEvents"]
    names = [e["args"]["name"] for e in lines if e["name"] == "process_name"]
    assert [name.split(" on ")[0] for name in names] == [f"rank {r}" for r in range(ranks)]
    by_lane = {}
    for line in lines:
        if line["ph"] == "X":
            assert line["dur"] >= 0
            assert line["cat"] in (*KINDS, STEP, TRANSFER)
            by_lane.setdefault((line["pid"], line["tid"]), []).append(line)
    titles = {(e["pid"], e["tid"]): e["args"]["name"] for e in lines if e["name"] == "thread_name"}
    assert set(by_lane) <= set(titles)
    assert len({tid for _, tid in titles}) == len(titles)
    for place, found in by_lane.items():
        found.sort(key=lambda line: line["ts"])
        for line, following in pairwise(found):
            assert round(1e3 * (line["ts"] + line["dur"])) <= round(1e3 * following["ts"])
        kinds = {line["cat"] for line in found}
        expected = {"steps": {STEP}, "compute": set(KINDS)}.get(titles[place], {TRANSFER})
        assert kinds <= expected
    for rank in range(ranks):
        of_rank = [titles[place] for place in by_lane if place[0] == rank + 1]
        assert {"steps", "compute"} <= set(of_rank)


spans = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=12)


@given(spans)
def test_lanes_are_as_few_as_can_be_and_nothing_overlaps(found):
    sent = [Transfer("", 0, 0, a, a, a + n) for a, n in found]
    where = lanes(sent)
    for lane in set(where):
        members = sorted((s for s, at in zip(sent, where, strict=True) if at == lane))
        members.sort(key=lambda s: s.started)
        assert all(a.finished <= b.started for a, b in pairwise(members))
    most = max((sum(s.started <= t < s.finished for s in sent) for t in range(80)), default=0)
    assert len(set(where)) == most


@given(spans, spans)
def test_overlaps_are_counted_once(first, second):
    a, b = ({t for x, n in found for t in range(x, x + n)} for found in (first, second))
    unions = [merged((x, x + n) for x, n in found) for found in (first, second)]
    assert overlap(*unions) == len(a & b)
    assert overlap(unions[0], unions[0]) == len(a)


def test_a_real_network_tells_how_much_of_its_convolutions_is_lowering(tmp_path):
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, algorithm="fused"),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, algorithm="pipelined"),
        nn.Conv2d(6, 4, 3, algorithm="winograd"),
        nn.Flatten(),
        nn.Linear(4 * 36, 5),
    )
    timeline = Timeline(1, 2)
    timeline.attach(network)
    images = np.random.default_rng(0).standard_normal((3, 2, 10, 10), np.float32)
    for made in over(timeline, [batch(3)] * 4):
        scores = network.run(images, NetworkStep(training=True))
        with timeline.doing("loss"):
            loss = nn.softmax_cross_entropy(scores, made.labels)
        network.backward(loss.gradient)
    trace = timeline.finish(Communicator(), None, "test")
    write(trace, tmp_path / "trace.json")
    check_format(tmp_path / "trace.json", 1)
    (rank,) = read(tmp_path / "trace.json").ranks
    assert [step.number for step in rank.steps] == [1, 2]
    found = {(e.name, e.kind): e.about for e in rank.events}
    for name, op, kind, known in (
        ("0 Conv2d", "forward", "forward", True),
        ("2 Conv2d", "forward", "forward", True),
        ("2 Conv2d", "weight_grad", "backward", True),
        ("2 Conv2d", "input_grad", "backward", True),
        ("0 Conv2d", "weight_grad", "backward", False),
        ("3 Conv2d", "forward", "forward", False),
        ("3 Conv2d", "input_grad", "backward", False),
    ):
        share = found[name, kind]["lowering_share"][op]
        assert (share is not None and 0 < share < 1) if known else share is None
    assert "input_grad" not in found["0 Conv2d", "backward"]["lowering_share"]
    assert found["3 Conv2d", "forward"]["algorithm"] == {"forward": "winograd"}
    assert "lowering_share" not in found["5 Linear", "forward"]


@pytest.mark.parametrize("ranks", long_but([3], [1, 2, 3, 5]))
@pytest.mark.parametrize("threaded", ["threaded", "between layers"])
def test_causes_come_before_effects_though_clocks_are_wrong(mpiexec, tmp_path, ranks, threaded):
    path = tmp_path / "trace.json"
    run = mpiexec(ranks, PROGRAMS / "traced.py", path, threaded)
    assert run.returncode == 0, run.stderr
    check_format(path, ranks)
    trace = read(path)
    assert [rank.rank for rank in trace.ranks] == list(range(ranks))
    names = ["2 Linear weight", "2 Linear bias", "0 Conv2d weight", "0 Conv2d bias"]
    for rank in trace.ranks:
        assert [step.number for step in rank.steps] == [2, 3, 4]
        assert {step.images for step in rank.steps} == {3 + rank.rank}
        assert all(a.end <= b.begin for a, b in pairwise(rank.steps))
        kinds = {event.kind for event in rank.events}
        assert {"forward", "backward", "loss", "update"} <= kinds
        assert (rank.uncertainty > 0) == (rank.rank > 0)
        assert rank.uncertainty < 1_000_000_000  # clocks are five seconds apart
        for sent in rank.transfers:
            assert sent.submitted <= sent.started <= sent.finished
        for step in rank.steps:
            if ranks == 1:
                assert not rank.transfers  # nobody to talk to
                continue
            inside = [t for t in rank.transfers if step.begin < t.finished <= step.end]
            assert sorted(t.name for t in inside) == sorted(names)
            least = 2 * 2160 * 4 * (ranks - 1) // ranks  # what a ring sends of the largest
            assert abs(next(t.sent for t in inside if t.name == names[0]) - least) <= 8 * ranks
    if ranks == 1:
        return
    # A sum cannot end anywhere before all ranks have begun it.
    off = 2 * max(rank.uncertainty for rank in trace.ranks)
    for name in names:
        for number in range(3):
            same = [[t for t in rank.transfers if t.name == name][number] for rank in trace.ranks]
            assert max(t.started for t in same) <= min(t.finished for t in same) + off
