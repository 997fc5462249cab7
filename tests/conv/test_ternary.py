"""Convolutions with ternary filters, whose zeros are skipped: equal to the last bit."""

import random
import sys
from dataclasses import replace

import numpy as np
import pytest

import lowerconv as lc
from lowerconv.codegen.isa import ISAS
from lowerconv.conv.problem import conv_problem
from lowerconv.conv.words import integer
from lowerconv.conv.words.integer import IntegerConv
from lowerconv.ops.ternary_codes import TernaryCodes

from ..long import LONG
from .words import Problem, by_isa, guarded, random_bytes, random_problem, to_words

SIGNS = np.array([-1, 0, 1], np.int8)
SHARES = [[0.3, 0.4, 0.3], [0.05, 0.9, 0.05], [0, 1, 0], [0, 0, 1], [1, 0, 0]]


@pytest.fixture
def rng():
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


def signs(rng, shape, shares=None):
    """Return weights of -1, 0 and 1, drawn with some shares of them."""
    draw = np.random.default_rng(rng.randrange(2**32))
    return draw.choice(SIGNS, shape, p=shares or SHARES[0])


def ternary(rng, problem, shares=None):
    """Return a problem with ternary filters, and nothing multiplied."""
    w = signs(rng, problem.w.shape, shares or rng.choice(SHARES))
    return replace(problem, w=w, algorithm="ternary")


def check(problem):
    plan = problem.plan()
    assert plan.algorithm == "ternary"
    np.testing.assert_array_equal(plan(*problem.operands()), problem.expected())
    return plan


@by_isa
def test_random_problems(isa, rng, monkeypatch):
    monkeypatch.setattr(integer, "host_isa_extended", lambda: isa)
    for _ in range(20 if LONG else 6):
        check(ternary(rng, random_problem(rng)))


@by_isa
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("kind", ["u8", "s8"])
def test_sums_of_16_bits_do_not_overflow(isa, kind, sign, rng, monkeypatch):
    """The largest sums there are: all weights alike, all pixels at either end."""
    monkeypatch.setattr(integer, "host_isa_extended", lambda: isa)
    for value in {"u8": (0, 255), "s8": (-128, 127)}[kind]:
        x = np.full((1, 70, 4, 5), value, {"u8": np.uint8, "s8": np.int8}[kind])
        w = np.full((5, 70, 3, 3), sign, np.int8)
        w[1] = 0
        check(Problem(x, w, padding=((1, 1), (1, 1)), x_zero=value, algorithm="ternary"))


SHAPES = {
    "wide rows are blocks side by side": ((1, 150, 1, 1500), (5, 150, 1, 3), (1, 1)),
    "bands": ((2, 130, 21, 30), (9, 130, 3, 3), (1, 1)),
    "bands and a stride": ((1, 130, 40, 43), (6, 130, 3, 3), (2, 2)),
    "one long row of a product": ((1, 260, 30, 31), (70, 260, 1, 1), (1, 1)),
    "a large stride": ((2, 40, 50, 61), (16, 40, 3, 3), (5, 7)),
    "many filters": ((1, 20, 31, 33), (130, 20, 3, 3), (1, 1)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_any_number_of_threads_gives_the_same(name, rng):
    x_shape, w_shape, stride = SHAPES[name]
    K, threads = w_shape[0], lc.get_num_threads()
    numbers = {"scale": np.full(K, 3e-3, np.float32), "shift": np.full(K, 100, np.float32)}
    pad = ((w_shape[2] // 2,) * 2, (w_shape[3] // 2,) * 2)
    x, w = random_bytes(rng, x_shape, "u8"), signs(rng, w_shape)
    problem = Problem(x, w, stride, pad, x_zero=7, out="u8", algorithm="ternary", **numbers)
    want = problem.expected()
    several = False
    try:
        for count in (1, 2, 3, 5):
            lc.set_num_threads(count)
            plan = problem.plan()
            np.testing.assert_array_equal(plan(*problem.operands()), want)
            several |= plan._executable.schedule.workers > 1
    finally:
        lc.set_num_threads(threads)
    assert several


@pytest.mark.skipif(sys.platform != "linux", reason="guard pages are made with mprotect")
def test_nothing_outside_the_arrays_is_touched(rng):
    drawn = [random_problem(rng) for _ in range(30)]
    problems = [ternary(rng, problem) for problem in drawn if problem.x.size]
    results = guarded(problems, [None] * len(problems))
    for problem, result in zip(problems, results, strict=True):
        np.testing.assert_array_equal(result, problem.expected())


def test_codes_of_2_bits_are_taken_as_they_are(rng):
    problem = ternary(
        rng, Problem(random_bytes(rng, (1, 9, 6, 7), "s8"), np.ones((5, 9, 3, 3), np.int8))
    )
    conv, options, filters = problem.arguments()
    codes = TernaryCodes.of(problem.w)
    for algorithm in ("fused", "ternary"):
        plan = IntegerConv(conv, **options | {"algorithm": algorithm})
        plan.prepack(**filters | {"w": codes})
        np.testing.assert_array_equal(plan(*problem.operands()), problem.expected())


def test_plans_share_masks(rng):
    problem = ternary(
        rng, Problem(random_bytes(rng, (3, 9, 6, 7), "u8"), np.ones((5, 9, 3, 3), np.int8))
    )
    kept, packed = {}, []
    for count in (1, 3):
        part = replace(problem, x=problem.x[:count])
        conv, options, filters = part.arguments()
        plan = IntegerConv(conv, **options)
        plan.prepack(**filters, shared=kept, origin="layer")
        np.testing.assert_array_equal(plan(*part.operands()), part.expected())
        packed.append(plan._packed)
    assert packed[0] is packed[1]
    pairs = 5 * 2  # of masks: 9 channels are 3 words, 12 by 9 taps are 2 masks
    assert packed[0].nbytes == 16 * pairs + 8 * 5


PROBLEM = conv_problem((1, 64, 28, 28), (64, 64, 3, 3), padding=1)


@pytest.mark.parametrize(
    ("name", "share", "cheaper"),
    [
        ("sse", 0.55, True),
        ("avx2", 0.55, True),
        ("neon", 0.55, True),
        ("avx512+avx512vnni", 0.55, False),
        ("avx512+avx512vnni", 0.02, True),
        ("neon+dotprod", 0.55, False),
    ],
)
def test_the_cheapest_is_taken(name, share, cheaper):
    base, *extensions = name.split("+")
    nonzero = int(share * 64 * 64 * 9)
    conv = IntegerConv(PROBLEM)._executable.schedule.conv
    isa = ISAS[base].extended(*extensions)
    found = integer.is_ternary_cheaper(conv, isa, integer.tilings(conv, isa, True)[0], nonzero)
    assert found == cheaper


def test_a_plan_is_explained(rng):
    plan = IntegerConv(PROBLEM, algorithm="ternary")
    text = plan.explain()
    for part in ("ternary: masks of weights that are not zero", "u8 by -1, 0, 1, zeros skipped"):
        assert part in text
    fused = IntegerConv(PROBLEM, algorithm="fused").explain()
    assert [line.split("  ")[0] for line in text.splitlines()] == [
        line.split("  ")[0] for line in fused.splitlines()
    ]


def test_filters_that_are_not_ternary_are_refused():
    w = np.ones((4, 4, 3, 3), np.int8)
    w[2, 1] = -2
    for options in ({"algorithm": "ternary"}, {"nonzero": 9}):
        plan = IntegerConv(conv_problem((1, 4, 6, 6), w.shape), out="int32", **options)
        with pytest.raises(ValueError, match="w: got -2 to 1, expected -1, 0 and 1 alone"):
            plan.prepack(w)
    with pytest.raises(ValueError, match="algorithm: got 'direct'"):
        IntegerConv(conv_problem((1, 4, 6, 6), w.shape), algorithm="direct")
    with pytest.raises(ValueError, match="nonzero: got -1"):
        IntegerConv(conv_problem((1, 4, 6, 6), w.shape), nonzero=-1)


def test_an_empty_batch(rng):
    plan = IntegerConv(conv_problem((0, 8, 6, 6), (5, 8, 3, 3)), algorithm="ternary")
    numbers = np.ones(5, np.float32)
    plan.prepack(signs(rng, (5, 8, 3, 3)), numbers, numbers)
    assert plan(to_words(np.zeros((0, 8, 6, 6), np.uint8))).shape == (0, 2, 4, 4)
