"""Convolutions of bytes against plain NumPy: equal to the last bit, on every instruction set."""

import random
import sys

import numpy as np
import pytest

import lowerconv as lc
from lowerconv.conv.problem import conv_problem
from lowerconv.conv.words import integer
from lowerconv.conv.words.integer import IntegerConv

from ..long import LONG
from .words import (
    TILES,
    Problem,
    by_isa,
    from_words,
    guarded,
    random_bytes,
    random_problem,
    tiled,
    to_words,
)


@pytest.fixture
def rng():
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.fixture
def use_tiles(monkeypatch):
    """Have a tiling of AMX taken by its number, whatever instruction set is asked for."""

    def use(kind):
        if not TILES:
            pytest.skip("this CPU, or this system, has no AMX")
        (isa,) = TILES.values()
        monkeypatch.setattr(integer, "host_isa_extended", lambda: isa)
        monkeypatch.setattr(integer, "tilings", tiled(kind))

    return use


def check(problem):
    plan = problem.plan()
    np.testing.assert_array_equal(plan(*problem.operands()), problem.expected())
    return plan


def ones(C=8, K=8, size=6, taps=3, out="u8", **options):
    """A small problem, its bytes drawn."""
    rng = random.Random(0)
    options |= {"scale": np.full(K, 1e-3, np.float32), "shift": np.full(K, 3, np.float32)}
    x, w = random_bytes(rng, (2, C, size, size), "u8"), random_bytes(rng, (K, C, taps, taps), "s8")
    return Problem(x, w, out=out, padding=((1, 1), (1, 1)), **options)


@by_isa
def test_random_problems(isa, rng, monkeypatch):
    monkeypatch.setattr(integer, "host_isa_extended", lambda: isa)
    for _ in range(12 if LONG else 6):
        check(random_problem(rng))


@pytest.mark.long
@by_isa
def test_more_random_problems(isa, rng, monkeypatch):
    monkeypatch.setattr(integer, "host_isa_extended", lambda: isa)
    for _ in range(200):
        check(random_problem(rng))


@pytest.mark.parametrize("kind", range(5))
def test_random_problems_in_tiles(kind, rng, use_tiles):
    use_tiles(kind)
    plans = [check(random_problem(rng)) for _ in range(12)]
    assert sum(plan._executable.schedule.tiling.uses_amx for plan in plans) > 3


@by_isa
@pytest.mark.parametrize("kind", ["u8", "s8"])
def test_extremes_do_not_saturate(isa, kind, monkeypatch):
    """The largest products there are, alone and in all places: sums of thousands of them."""
    monkeypatch.setattr(integer, "host_isa_extended", lambda: isa)
    most, type_ = {"u8": (255, np.uint8), "s8": (-128, np.int8)}[kind]
    for width in (5, 24):  # with filters in vectors, and with pixels
        x = np.full((1, 130, 5, width), most, type_)
        x[:, ::3, 2] = 0 if kind == "u8" else 127
        w = np.full((18, 130, 3, 3), -128, np.int8)
        w[::2] = 127
        problem = Problem(x, w, padding=((1, 1), (1, 1)), x_zero=most)
        check(problem)
        monkeypatch.setattr(integer, "tilings", tiled(0))
        check(problem)


SHAPES = {
    "1x1": ((2, 70, 9, 10), (40, 70, 1, 1)),
    "7x7-maps": ((1, 64, 7, 7), (72, 64, 3, 3)),
    "wide": ((1, 3, 20, 70), (17, 3, 7, 7)),
    "one-pixel": ((3, 40, 1, 1), (10, 40, 1, 1)),
    "one-filter": ((1, 33, 30, 31), (1, 33, 3, 3)),
}


@pytest.mark.parametrize("kind", [None, 0, 1])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_any_number_of_threads_gives_the_same(shapes, kind, rng, use_tiles):
    if kind is not None:
        use_tiles(kind)
    x, w = random_bytes(rng, shapes[0], "u8"), random_bytes(rng, shapes[1], "s8")
    K, threads = w.shape[0], lc.get_num_threads()
    numbers = {"scale": np.full(K, 1e-3, np.float32), "shift": np.full(K, 100, np.float32)}
    pad = ((w.shape[2] // 2,) * 2,) * 2
    problem = Problem(x, w, padding=pad, x_zero=7, out="u8", **numbers)
    want = problem.expected()
    try:
        for count in (1, 2, 3, 5):
            lc.set_num_threads(count)
            np.testing.assert_array_equal(problem.plan()(*problem.operands()), want)
    finally:
        lc.set_num_threads(threads)


@pytest.mark.parametrize("residual", [False, True])
def test_operands_and_results_may_be_channels_of_larger_images(residual, rng):
    problem = ones(residual=random_bytes(rng, (2, 8, 6, 6), "s8") if residual else None)
    large = [np.full((2, 7, 6, 6), 0xDEADBEEF, np.uint32) for _ in range(3)]
    operands = problem.operands()
    for array, words in zip(large, operands, strict=False):
        array[:, 3:5] = words
    plan, out = problem.plan(), large[2]
    parts = [array[:, 3:5] for array in large]
    assert plan(*parts[: len(operands)], out=parts[2]) is parts[2]
    np.testing.assert_array_equal(parts[2], problem.expected())
    assert (out[:, :3] == 0xDEADBEEF).all() and (out[:, 5:] == 0xDEADBEEF).all()


def test_the_residual_may_be_the_result(rng):
    problem = ones(residual=random_bytes(rng, (2, 8, 6, 6), "u8"), residual_scale=0.5)
    x, residual = problem.operands()
    want = problem.expected()
    np.testing.assert_array_equal(problem.plan()(x, residual, out=residual), want)


def test_arrays_in_any_order_are_taken():
    problem = ones()
    (x,) = problem.operands()
    turned = np.ascontiguousarray(x.transpose(3, 2, 1, 0)).transpose(3, 2, 1, 0)
    np.testing.assert_array_equal(problem.plan()(turned), problem.expected())


def test_bytes_of_no_channel_may_hold_anything():
    problem = ones(C=5, K=6)
    (x,) = problem.operands()
    x[:, 1] |= 0x7F80FF00
    result = problem.plan()(x)
    np.testing.assert_array_equal(result, problem.expected())
    assert (from_words(result, "u8")[:, 6:] == 0).all()


def test_other_filters_may_be_held_later(rng):
    first, second = ones(), ones(K=8)
    plan = first.plan()
    w = random_bytes(rng, first.w.shape, "s8")
    scale, shift = np.full(8, 2e-3, np.float32), np.full(8, 9, np.float32)
    plan.prepack(w, scale, shift)
    w_before, scale_before = w.copy(), scale.copy()
    w[...], scale[...] = 0, 0  # a copy is held
    want = Problem(
        first.x, w_before, padding=first.padding, out="u8", scale=scale_before, shift=shift
    )
    np.testing.assert_array_equal(plan(*second.operands()), want.expected())


def test_a_linear_layer_is_a_convolution_of_one_pixel(rng):
    x, w = random_bytes(rng, (5, 300, 1, 1), "s8"), random_bytes(rng, (10, 300, 1, 1), "s8")
    want = x[:, :, 0, 0].astype(np.int32) @ w[:, :, 0, 0].astype(np.int32).T
    np.testing.assert_array_equal(Problem(x, w).plan()(to_words(x))[:, :, 0, 0], want)


@pytest.mark.skipif(sys.platform != "linux", reason="guard pages are made with mprotect")
def test_nothing_outside_the_arrays_is_touched(rng):
    problems = [problem for problem in (random_problem(rng) for _ in range(40)) if problem.x.size]
    tiles = [n // 2 if TILES and n % 4 > 1 else None for n in range(len(problems))]
    for problem, result in zip(problems, guarded(problems, tiles), strict=True):
        np.testing.assert_array_equal(
            result, problem.expected(), err_msg=str(problem.arguments()[:2])
        )


X, W = (1, 4, 6, 6), (4, 4, 3, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x_kind": "u4"}, "x_kind: got 'u4'"),
        ({"x_zero": 256}, "x_zero: got 256, expected at most 255 for u8"),
        ({"x_zero": -1}, "x_zero: got -1"),
        ({"x_kind": "s8", "x_zero": 128}, "x_zero: got 128, expected at most 127 for s8"),
        ({"out": "bf16"}, "out: got 'bf16'"),
        ({"out": "int32", "low": 0}, "low, high: got 0, None with out 'int32'"),
        ({"low": -1}, "low, high: got -1, 255"),
        ({"low": 9, "high": 8}, "low, high: got 9, 8"),
        ({"low": 0.5}, "low, high: got 0.5, 255, expected integers"),
        ({"residual": "u4"}, "residual: got 'u4'"),
        ({"out": "float32", "residual": "u8"}, "residual: got 'u8' with out 'float32'"),
    ],
)
def test_plans_that_there_are_none_of(options, message):
    with pytest.raises(ValueError, match=message):
        IntegerConv(conv_problem(X, W), **options)


def test_calls_that_do_not_fit():
    plan = IntegerConv(conv_problem(X, W), residual="u8")
    x, r, w = (
        np.zeros((1, 1, 6, 6), np.uint32),
        np.zeros((1, 1, 4, 4), np.uint32),
        np.zeros(W, np.int8),
    )
    numbers = np.ones(4, np.float32)
    with pytest.raises(ValueError, match="w: got no filters"):
        plan(x, r)
    with pytest.raises(TypeError, match="w: got dtype float32, expected int8"):
        plan.prepack(w.astype(np.float32), numbers, numbers)
    with pytest.raises(TypeError, match="shift: got NoneType"):
        plan.prepack(w, numbers)
    with pytest.raises(ValueError, match=r"scale: got shape \(3,\)"):
        plan.prepack(w, numbers[:3], numbers)
    with pytest.raises(ValueError, match="scale: got numbers that are not finite"):
        plan.prepack(w, numbers * np.nan, numbers)
    with pytest.raises(ValueError, match="scale: got results that reach"):
        plan.prepack(np.full_like(w, 127), numbers * 1e4, numbers)
    with pytest.raises(ValueError, match="residual_zero: got 256"):
        plan.prepack(w, numbers, numbers, residual_zero=256)
    plan.prepack(w, numbers, numbers)
    with pytest.raises(ValueError, match="residual: got no array, expected as planned: 'u8'"):
        plan(x)
    with pytest.raises(TypeError, match="x: got dtype int32"):
        plan(x.view(np.int32), r)
    with pytest.raises(ValueError, match=r"x: got shape \(1, 2, 6, 6\)"):
        plan(np.zeros((1, 2, 6, 6), np.uint32), r)
    with pytest.raises(ValueError, match=r"out: got shape"):
        plan(x, r, out=x)
    whole = np.zeros((1, 1, 6, 12), np.uint32)
    with pytest.raises(ValueError, match="out: got images that are not contiguous"):
        plan(x, r, out=whole[:, :, :4, ::3])
    with pytest.raises(ValueError, match="out: got memory of an operand"):
        plan(x, r, out=x.reshape(-1)[:16].reshape(1, 1, 4, 4))
