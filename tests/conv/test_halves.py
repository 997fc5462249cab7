"""Passes of bfloat16 and float16 arrays: sums of float32, rounded once."""

from dataclasses import replace

import numpy as np
import pytest

import lowerconv as lc
from lowerconv.codegen.activation import RELU
from lowerconv.conv.executable import Options
from lowerconv.conv.plan import ConvPlan
from lowerconv.conv.problem import OPS

from ..half_words import ISAS_OF_WORDS, multiplied
from .cases import Case, by_case, by_pass, call_on, data_of, make_plan, named, run

ml_dtypes = pytest.importorskip("ml_dtypes")

BF16, F16 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)
UNIT = {BF16: 2.0**-8, F16: 2.0**-11}  # of rounding to nearest
by_half = pytest.mark.parametrize("dtype", UNIT, ids=str)

CASES = named(
    "single-number",
    "kernel-1x1",
    "kernel-7x1",
    "kernel-is-padded-image",
    "all-odd",
    "batch-0",
    "batch-1",
    "batch-3",
    "stride-2x3",
    "stride-2-kernel-1x1",
    "padding-four-sides-stride-2",
    "dilation-and-stride",
    "groups-2-everything",
    "depthwise-multiplier-3",
    "pixels-33",
    "tiles-65x65-kernel-1x1",
    "sums-of-2304",
    "partial-everywhere-groups-3",
    "small-maps-batch-17-stride-2",
)


def halves_of(case: Case, dtype: np.dtype) -> list[np.ndarray]:
    """Return x, w, bias and dy."""
    return [array.astype(dtype) for array in data_of(case, "float32")]


def assert_rounded(actual, expected, sizes, terms):
    """Within the bound of float32 sums of so many terms, and of the last rounding.

    After N. J. Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1; Winograd's
    sums have a larger one.
    """
    assert actual.shape == expected.shape
    bound = UNIT[actual.dtype] * abs(expected) + (4 * terms + 64) * 2.0**-24 * sizes + 2.0**-25
    error = abs(actual.astype(float) - expected)
    assert (error <= bound).all(), (error - bound).max(initial=0)


@by_half
@by_pass
@by_case(CASES)
def test_passes(case, op, dtype):
    x, w, _, dy = halves_of(case, dtype)
    exact = [array.astype(float) for array in (x, w, dy)]
    operands, expected = call_on(op, case, *exact)
    _, sizes = call_on(op, case, *map(abs, exact))
    own = {"forward": (x, w), "input_grad": (dy, w), "weight_grad": (dy, x)}[op]
    terms = {"forward": w[0].size, "input_grad": w[:, 0].size, "weight_grad": dy[:, 0].size}[op]
    result = run(op, case, own)
    assert result.dtype == dtype
    assert_rounded(result, expected, sizes, terms)
    assert [array.shape for array in own] == [array.shape for array in operands]


@pytest.fixture(params=ISAS_OF_WORDS.values(), ids=ISAS_OF_WORDS)
def on_words(request):
    with multiplied(request.param):
        yield request.param


@by_pass
def test_passes_on_words(on_words, op):
    for case in CASES:
        x, w, bias, dy = halves_of(case, BF16)
        exact = [array.astype(float) for array in (x, w, dy)]
        _, expected = call_on(op, case, *exact)
        _, sizes = call_on(op, case, *map(abs, exact))
        plan = make_plan(op, case, dtype=BF16, algorithm="fused", bias=op == "forward")
        own = {"forward": (x, w, bias), "input_grad": (dy, w), "weight_grad": (dy, x)}[op]
        if op == "forward":
            expected = expected + bias.astype(float)[:, None, None]
            sizes = sizes + abs(bias.astype(float))[:, None, None]
        terms = {"forward": w[0].size, "input_grad": w[:, 0].size, "weight_grad": dy[:, 0].size}
        once = plan(*own)
        assert_rounded(once, expected, sizes, terms[op])
        if op != "weight_grad":
            constant = make_plan(op, case, dtype=BF16, algorithm="fused", constant_weights=True)
            constant.prepack(w)
            once = constant(own[0])
        plan = make_plan(op, case, dtype=BF16, algorithm="fused", accumulate=True)
        N, C, *pixels = once.shape
        large = np.ones((N, C + 2, *pixels), BF16)
        out = large[:, 1:-1] if op != "weight_grad" else np.ones_like(once)
        plan(*own[:2], out=out)
        assert (large[:, [0, -1]] == 1).all()
        bound = 2 * UNIT[BF16] * (abs(once.astype(float)) + 1)
        assert (abs(out.astype(float) - once.astype(float) - 1) <= bound).all()


@by_pass
def test_words_are_explained(on_words, op):
    explained = [make_plan(op, case, dtype=BF16, algorithm="fused").explain() for case in CASES]
    together = "images" if op == "weight_grad" else "channels"
    found = sum(f"words of two {together}, bfloat16" in text for text in explained)
    assert found > len(CASES) // 3


@by_pass
def test_any_number_of_threads_gives_the_same_on_words(on_words, op):
    test_any_number_of_threads_gives_the_same(BF16, (op,))


@by_pass
def test_codes_are_as_arrays_of_bfloat16(on_words, op):
    """Filters and bias of float32 are rounded; gradients of filters are not."""
    for case in CASES:
        x, w, bias, dy = halves_of(case, BF16)
        wide, codes = w.astype(np.float32), {BF16: np.dtype(np.uint16)}
        problem = make_plan(op, case, dtype=BF16).problem
        own = {"forward": (x, w, bias), "input_grad": (dy, w), "weight_grad": (dy, x)}[op]
        given = [
            (array.astype(np.float32) if array is w or array is bias else array.view(codes[BF16]))
            for array in own
        ]
        options = Options(
            "fused", bias=op == "forward", activation=RELU if op == "forward" else None
        )
        want = ConvPlan(problem, op, options)(*own)
        coded = replace(problem, dtype=codes[BF16])
        result = ConvPlan(coded, op, options)(*given)
        if op == "weight_grad":
            assert result.dtype == np.float32
            np.testing.assert_array_equal(result.astype(BF16), want)
            continue
        np.testing.assert_array_equal(result.view(BF16), want)
        kept = ConvPlan(coded, op, options._replace(constant=True))
        for _ in range(2):  # again is other filters
            kept.prepack(wide)
            result = kept(given[0], *given[2:])
            size = np.maximum(
                abs(want.astype(float)), UNIT[BF16] * abs(want.astype(float)).max(initial=0)
            )
            assert (
                abs(result.view(BF16).astype(float) - want.astype(float)) <= 4 * UNIT[BF16] * size
            ).all()


@by_half
@pytest.mark.parametrize("algorithm", [name for name in lc.algorithms() if name != "fused"])
def test_other_algorithms_are_those_of_float32_rounded(dtype, algorithm):
    (case,) = named("batch-3")
    x, w, bias, _ = halves_of(case, dtype)
    options = {"algorithm": algorithm, "activation": "relu"}
    wide = [array.astype(np.float32) for array in (x, w, bias)]
    want = run("forward", case, tuple(wide), **options).astype(dtype)
    np.testing.assert_array_equal(run("forward", case, (x, w, bias), **options), want)


@by_half
@by_pass
def test_out_slices_and_accumulation(op, dtype):
    (case,) = named("batch-3")
    x, w, _, dy = halves_of(case, dtype)
    operands = {"forward": (x, w), "input_grad": (dy, w), "weight_grad": (dy, x)}[op]
    once = run(op, case, operands)
    plan = make_plan(op, case, dtype=dtype, accumulate=True)
    large = np.ones((once.shape[0], once.shape[1] + 2, *once.shape[2:]), dtype)
    target = large[:, 1:-1] if op != "weight_grad" else np.ones_like(once)
    assert plan(*operands, out=target) is target
    scale = abs(once.astype(float)).max() + 1
    assert (abs(target.astype(float) - (once.astype(float) + 1)) <= 2 * UNIT[dtype] * scale).all()
    assert (large[:, [0, -1]] == 1).all()


@by_half
def test_filters_that_are_held(dtype):
    (case,) = named("batch-3")
    x, w, _, _ = halves_of(case, dtype)
    want = run("forward", case, (x, w))
    for constant in (False, True):
        plan = make_plan("forward", case, dtype=dtype, constant_weights=constant)
        for filters in (w, (w * 2).astype(dtype), w):
            expected = want if filters is w else run("forward", case, (x, filters))
            np.testing.assert_array_equal(plan(x, filters), expected)
        plan.prepack(w)
        np.testing.assert_array_equal(plan(x), want)


@by_half
def test_any_number_of_threads_gives_the_same(dtype, ops=OPS):
    (case,) = named("partial-everywhere-groups-3")
    x, w, _, dy = halves_of(case, dtype)
    threads = lc.get_num_threads()
    operands = {"forward": (x, w), "input_grad": (dy, w), "weight_grad": (dy, x)}
    try:
        for op in ops:
            results, own = [], operands[op]
            for count in (1, 2, 3):
                lc.set_num_threads(count)
                results.append(run(op, case, own))
            for result in results[1:]:
                np.testing.assert_array_equal(result, results[0])
    finally:
        lc.set_num_threads(threads)


@by_half
def test_what_is_not_finite_stays_so(dtype):
    x = np.array([1, np.nan, np.inf, -np.inf, 3e38 if dtype == BF16 else 65504, 0], dtype)
    x = x.reshape(1, 1, 1, 6)
    y = lc.conv2d(x, np.array([2], dtype).reshape(1, 1, 1, 1))
    want = [2, np.nan, np.inf, -np.inf, np.inf, 0]
    np.testing.assert_array_equal(y.astype(float).ravel(), want)


def test_arrays_that_do_not_fit():
    x, w = np.ones((1, 2, 5, 5), F16), np.ones((3, 2, 3, 3), F16)
    with pytest.raises(TypeError, match="w: got dtype bfloat16, expected float16"):
        lc.conv2d(x, w.astype(BF16))
    with pytest.raises(TypeError, match="x: got dtype float8_e5m2, expected float32"):
        lc.conv2d(x.astype(ml_dtypes.float8_e5m2), w.astype(ml_dtypes.float8_e5m2))
    with pytest.raises(TypeError, match="x: got dtype >f2, expected float32"):
        lc.conv2d(x.astype(">f2"), w.astype(">f2"))
    plan = lc.plan_conv2d(x.shape, w.shape, dtype="bfloat16")
    with pytest.raises(TypeError, match="x: got dtype float16, expected bfloat16"):
        plan(x, w)


def test_the_plan_says_that_it_converts():
    plan = lc.plan_conv2d((1, 2, 5, 5), (3, 2, 3, 3), dtype=np.float16)
    assert "float16, converted to float32 and back" in plan.explain()
