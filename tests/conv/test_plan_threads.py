"""Plans that several Python threads call, and filters that are promised not to change."""

import gc
import sys
import threading
from weakref import WeakValueDictionary

import numpy as np
import pytest

import lowerconv as lc
from lowerconv.conv import plan as plans
from lowerconv.conv.algorithms import ALGORITHMS
from lowerconv.conv.executable import Options
from lowerconv.conv.problem import conv_problem
from tests.nn.servers import CALLS, THREADS, WATCHED, Trainers, at_once

from ..long import drawn, long_but

pytestmark = WATCHED
X, W, Y = (2, 4, 6, 7), (5, 4, 3, 3), (2, 5, 6, 7)
SHAPES = {"forward": (X, W), "input_grad": (Y, W), "weight_grad": (Y, X)}


@pytest.fixture(autouse=True)
def often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize(
    "trainers",
    [pytest.param(0, marks=pytest.mark.long, id="alone"), pytest.param(2, id="beside training")],
)
@pytest.mark.parametrize("algorithm", lc.algorithms())
def test_every_result_is_the_callers_own(algorithm, trainers):
    """All passes, filters kept or not, 600 calls on each of 8 threads or LOWERCONV_CALLS."""
    rng = np.random.default_rng(0)
    jobs = []
    for number in range(6):
        op, constant = list(SHAPES)[number % 3], number >= 3
        options = {"op": op, "algorithm": algorithm, "constant_weights": constant}
        plan = lc.plan_conv2d(X, W, padding=1, **options)
        pairs = [
            [rng.standard_normal(shape, np.float32) for shape in SHAPES[op]] for _ in range(THREADS)
        ]
        if constant and op != "weight_grad":  # in turns: what is kept is made again and again
            for i, pair in enumerate(pairs):
                pair[1] = pairs[i % 2][1]
        jobs.append((plan, pairs, [plan(*pair) for pair in pairs]))
    wrong = []

    def work(i):
        for call in range(CALLS):
            plan, pairs, expected = jobs[call % len(jobs)]
            if not np.array_equal(plan(*pairs[i]), expected[i]):
                wrong.append(repr(plan))

    with Trainers(trainers):
        assert not at_once(lambda i=i: work(i) for i in range(THREADS))
    assert not wrong


def test_functions_of_threads_share_the_plans_that_are_kept():
    rng = np.random.default_rng(0)
    shapes = [((1, 2, 6, n), (3, 2, 3, 3)) for n in range(40, 60)]  # that no other test has
    arrays = [[rng.standard_normal(s, np.float32) for s in pair] for pair in shapes]
    found = [[None] * len(arrays) for _ in range(4)]

    def work(i):
        for n in range(len(arrays)):
            found[i][n] = lc.conv2d(*arrays[n])

    assert not at_once(lambda i=i: work(i) for i in range(4))
    for n, pair in enumerate(arrays):
        right = lc.conv2d(*pair)
        assert all(np.array_equal(mine[n], right) for mine in found)


def test_two_threads_do_not_measure_each_other(own_wisdom, monkeypatch):
    measure, inside, times = plans.measure, threading.Lock(), []

    def alone(*arguments):
        times.append(inside.acquire(blocking=False))
        try:
            return measure(*arguments)
        finally:
            inside.release()

    monkeypatch.setattr(plans, "measure", alone)
    choices = []

    def tune():
        choices.append(lc.plan_conv2d((1, 3, 9, 8), (4, 3, 3, 3), tune=True).choice)

    assert not at_once([tune] * 3)
    assert times == [True]  # the others found what the first has measured
    assert len(set(choices)) == 1


# --- filters that do not change ---


@pytest.mark.parametrize("op", ["forward", "input_grad"])
@pytest.mark.parametrize("algorithm", ["fused", "winograd"])
def test_filters_that_have_changed_are_refused(algorithm, op):
    x_shape, w_shape = (2, 64, 12, 12), (64, 64, 3, 3)
    options = {"op": op, "algorithm": algorithm, "padding": 1}
    plan = lc.plan_conv2d(x_shape, w_shape, **options, constant_weights=True)
    plain = lc.plan_conv2d(x_shape, w_shape, **options)
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(x_shape, np.float32), rng.standard_normal(w_shape, np.float32)
    first = plan(x, w)
    kept = w.copy()
    flat = np.concatenate([w.reshape(-1), w.reshape(-1)])  # as an optimizer has them
    for target in (w, flat[w.size :].reshape(w_shape)):
        assert np.array_equal(plan(x, target), first)
        target += 1e-3
        for _ in range(2):
            with pytest.raises(ValueError, match=r"^w: got an array whose numbers have changed"):
                plan(x, target)
        assert np.array_equal(plan(x, target.copy()), plain(x, target))  # another array
        assert np.array_equal(plan(x, kept), first)
        assert np.array_equal(plan(x, target), plain(x, target))  # made anew
    with pytest.raises(ValueError, match=r"^w: "):
        plan(x, target.view())
        target[...] = np.nan
        plan(x, target)


@pytest.mark.parametrize("algorithm", ["fused", "winograd"])
def test_memory_of_somebody_else_that_is_used_again(algorithm):
    """The same address, of other arrays: NumPy cannot keep what is not its own."""
    x, shape = np.ones((2, 32, 12, 12), np.float32), (64, 32, 3, 3)  # filters that are packed
    plan = lc.plan_conv2d(x.shape, shape, algorithm=algorithm, constant_weights=True)
    memory = bytearray(4 * int(np.prod(shape)))
    filters = np.frombuffer(memory, np.float32).reshape(shape)
    filters[...] = 1
    plan(x, filters)
    del filters
    other = np.frombuffer(memory, np.float32).reshape(shape)
    other[...] = 2
    with pytest.raises(ValueError, match=r"^w: "):
        plan(x, other)


@pytest.mark.parametrize("op", ["forward", "input_grad"])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("algorithm", lc.algorithms())
def test_a_plan_holds_filters(algorithm, constant, op):
    rng = np.random.default_rng(0)
    for single in (False, True):
        options = {"padding": 1, "op": op, "algorithm": algorithm, "constant_weights": constant}
        if op == "forward":
            options |= {"bias": True, "activation": "relu"}
        x_shape = X[1:] if single else X
        made = lc.plan_conv2d(x_shape, W, **options), lc.plan_conv2d(x_shape, W, **options)
        first = X if op == "forward" else Y
        x = rng.standard_normal(first[1:] if single else first, np.float32)
        w, bias = rng.standard_normal(W, np.float32), rng.standard_normal(5, np.float32)
        more = (bias,) if op == "forward" else ()
        expected = made[1](x, w, *more)
        made[0].prepack(w)
        w[...] = np.nan
        del w
        for given in (x, np.repeat(x, 2, -1)[..., ::2]):
            assert np.array_equal(made[0](given, *more), expected)
        with pytest.raises(TypeError, match=r"plan: got [34] arrays"):
            made[0](x, np.ones(W, np.float32), *more, bias)


@pytest.mark.parametrize("op", ["forward", "input_grad"])
@pytest.mark.parametrize("algorithm", lc.algorithms())
@pytest.mark.parametrize("groups", long_but([2], [1, 2]))
def test_plans_hold_the_same_filters_once(groups, algorithm, op, rng):
    variants_rng, rng = rng, np.random.default_rng(0)
    w, other = rng.standard_normal((2, 46, 24, 3, 3), np.float32)  # 23 are no whole panels
    bias = (rng.standard_normal(len(w), np.float32),) if op == "forward" else ()
    shapes = [(1, 24 * groups, rows, 48) for rows in (6, 6, 7)]
    problems = [conv_problem(shape, w.shape, 1, 1, 1, groups) for shape in shapes]
    known = ALGORITHMS[algorithm]
    every = [set(known.variants(problem, op, True)) for problem in problems]
    for variant in drawn(variants_rng, sorted(set.intersection(*every), key=str), 3):
        options = Options(algorithm, variant, constant=True, bias=bool(bias))
        shared, made = WeakValueDictionary(), []
        for problem in problems:
            shape = problem.x_shape if op == "forward" else problem.y_shape
            x = rng.standard_normal(shape, np.float32)
            made.append(lc.ConvPlan(problem, op, options))
            made[-1].prepack(w, shared, "w")
            assert np.array_equal(
                made[-1](x, *bias), lc.ConvPlan(problem, op, options)(x, w, *bias)
            )
        assert made[0]._prepacked[0] is made[1]._prepacked[0]
        twin = lc.ConvPlan(problem, op, options)
        twin.prepack(other, shared, "other")
        assert np.array_equal(twin(x, *bias), lc.ConvPlan(problem, op, options)(x, other, *bias))
        del made, twin
        gc.collect()
        assert not shared


def test_what_a_plan_cannot_hold_is_refused():
    plan = lc.plan_conv2d(X, W, padding=1)
    with pytest.raises(ValueError, match=r"^w: got shape"):
        plan.prepack(np.ones((5, 4, 3, 2), np.float32))
    with pytest.raises(TypeError, match=r"^w: got dtype float64"):
        plan.prepack(np.ones(W))
    with pytest.raises(ValueError, match=r"^op: got 'weight_grad'"):
        lc.plan_conv2d(X, W, padding=1, op="weight_grad").prepack(np.ones(W, np.float32))
    empty = lc.plan_conv2d((0, *X[1:]), W, padding=1)
    empty.prepack(np.ones(W, np.float32))
    assert empty(np.ones((0, *X[1:]), np.float32)).shape == (0, *Y[1:])
