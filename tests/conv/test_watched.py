"""Watched convolutions compute the same, and tell what every worker did."""

import ctypes
import json
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest

import lowerconv as lc
from lowerconv.bench.chrome_trace import perfetto
from lowerconv.codegen.tracing import GAP, new_log, watched
from lowerconv.conv.watched import BACK, KINDS, LOWER, MULTIPLY, PACK, Watched, shares

SEED = 5


class Pair(NamedTuple):
    """The arguments of a function of these tests."""

    a: int
    b: int


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = lc.get_num_threads()
    lc.set_num_threads(request.param)
    yield request.param
    lc.set_num_threads(before)


def watch(algorithm, op, stride=1):
    rng = np.random.default_rng(SEED)
    x, w = rng.standard_normal((5, 24, 30, 30)), rng.standard_normal((40, 24, 3, 3))
    x, w = x.astype(np.float32), w.astype(np.float32)
    y = lc.conv2d(x, w, None, stride, 1)
    operands = {"forward": (x, w), "input_grad": (y, w), "weight_grad": (y, x)}[op]

    def plan():
        return lc.plan_conv2d(x.shape, w.shape, stride, 1, op=op, algorithm=algorithm)

    expected = plan()(*operands)
    seen = Watched(plan())
    out = np.empty_like(expected)
    span, events = seen(*operands, out=out)
    span, events = seen(*operands, out=out)  # a log begins anew
    assert np.array_equal(out, expected)
    return span, events


@pytest.mark.parametrize(
    ("algorithm", "op", "kinds"),
    [
        ("pipelined", "forward", {LOWER, MULTIPLY}),
        ("pipelined", "input_grad", {MULTIPLY, BACK}),
        ("pipelined", "weight_grad", {LOWER, MULTIPLY}),
        ("paired", "forward", {LOWER, MULTIPLY}),
        ("paired", "input_grad", {MULTIPLY, BACK}),
        ("paired", "weight_grad", {LOWER, MULTIPLY}),
        ("fused", "forward", {LOWER, MULTIPLY}),  # filters are multiplied where they are
        ("fused", "input_grad", {LOWER, MULTIPLY, PACK}),
    ],
)
def test_events_are_within_the_call_and_follow_each_other(threads, algorithm, op, kinds):
    span, events = watch(algorithm, op)
    assert {what for _, what, _, _ in events} == kinds
    assert all(0 <= begin <= end <= span for *_, begin, end in events)
    for worker in range(threads):
        mine = [(begin, end) for who, _, begin, end in events if who == worker]
        assert mine == sorted(mine)
        assert all(one[1] <= other[0] for one, other in pairwise(mine))
    assert 0 < sum(shares(events, span, threads).values()) <= 1


def test_a_pair_divides_the_work(threads):
    _, events = watch("paired", "forward")
    did = {
        worker: {what for who, what, _, _ in events if who == worker} for worker in range(threads)
    }
    if threads == 1:
        assert did == {0: {LOWER, MULTIPLY}}
    else:
        assert did[0] == {LOWER}
        assert did[1] == {MULTIPLY}
    assert threads < 3 or did[2] == {LOWER, MULTIPLY}  # it has no other


def test_a_strided_gradient_has_its_phases_watched(threads):
    _, events = watch("fused", "input_grad", stride=2)
    assert MULTIPLY in {what for _, what, _, _ in events}


def test_other_algorithms_are_refused():
    with pytest.raises(ValueError, match="'direct'"):
        Watched(lc.plan_conv2d((1, 1, 4, 4), (1, 1, 3, 3), algorithm="direct"))


class TestWatched:
    def calls(self, lines, gaps):
        """Call a watched function that notes its arguments, with pauses of these nanoseconds."""
        import time

        seen = []
        kind = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)
        inner = kind(lambda a, b: seen.append((a, b)))
        log = new_log(lines)
        address = watched(ctypes.cast(inner, ctypes.c_void_p).value, Pair, 3, log)
        for number, gap in enumerate(gaps):
            kind(address)(number, -number)
            until = time.monotonic_ns() + gap
            while time.monotonic_ns() < until:
                pass
        assert seen == [(i, -i) for i in range(len(gaps))]
        return log

    def test_calls_far_apart_are_lines_of_their_own(self):
        log = self.calls(10, [5 * GAP] * 4)
        assert log[0, 0] == 4
        assert (log[1:5, 0] == 3).all()
        assert (log[1:5, 1] <= log[1:5, 2]).all()

    def test_a_full_log_ends_and_nothing_else_is_written(self):
        log = self.calls(2, [5 * GAP] * 6)
        assert log[0].tolist() == [2, 2, 0]


def test_the_trace_is_what_perfetto_opens():
    content = json.loads(perfetto({"paired": [(0, LOWER, 0, 1500), (1, MULTIPLY, 1500, 4000)]}))
    events = [event for event in content["traceEvents"] if event["ph"] == "X"]
    assert [(event["name"], event["tid"], event["ts"], event["dur"]) for event in events] == [
        (LOWER, 0, 0.0, 1.5),
        (MULTIPLY, 1, 1.5, 2.5),
    ]
    names = {e["args"]["name"] for e in content["traceEvents"] if e["ph"] == "M"}
    assert names == {"paired", "thread 0", "thread 1"}
    assert set(KINDS) >= {event["name"] for event in events}
