"""Random problems: against the reference, and the laws that convolutions obey.

A failure prints the problem and a ``@reproduce_failure`` line that repeats it.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lowerconv as lc

from ..long import LONG
from .cases import (
    ALGORITHMS,
    TOLERANCE,
    Case,
    Data,
    assert_close,
    by_algorithm,
    by_case,
    by_dtype,
    by_pass,
    call_of,
    call_on,
    named,
    operands_of,
    run,
)
from .reference import Array, Shape

# Compilation on a first call takes longer than any deadline that is good for the others.
sweep = settings(
    max_examples=400 if LONG else 25, deadline=None, derandomize=False, print_blob=True
)
shorter_sweep = settings(sweep, max_examples=100 if LONG else 8)

small = st.integers(1, 4)
sides = st.tuples(*[st.integers(0, 4)] * 2)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A convolution with any geometry, on images of up to some 30 x 30."""
    groups = draw(st.integers(1, 3))
    taps = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    stride, dilation = draw(st.tuples(small, small)), draw(st.tuples(small, small))
    padding = draw(st.tuples(sides, sides))
    image = []
    for r, d, pads in zip(taps, dilation, padding, strict=True):
        # As small as the kernel allows, and some more.
        least = max(1, (r - 1) * d + 1 - sum(pads))
        image.append(least + draw(st.integers(0, 12)))
    x = (draw(st.integers(0, 3)), groups * draw(st.integers(1, 5)), *image)
    w = (groups * draw(st.integers(1, 9)), x[1] // groups, *taps)
    return Case("drawn", x, w, stride, padding, dilation, groups)


@st.composite
def lengthy_cases(draw: st.DrawFn) -> Case:
    """A convolution with one or two large extents, of little work all the same."""
    extents = [draw(st.integers(1, 3)) for _ in range(5)]
    for axis in draw(st.sets(st.sampled_from(range(5)), min_size=1, max_size=2)):
        extents[axis] = draw(st.integers(1, 70))
    n, c, h, width, k = extents
    taps = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    stride = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    return Case("drawn-lengthy", (n, c, h, width), (k, c, *taps), stride, padding=1)


seeds = st.integers(0, 2**32 - 1)


def random_data(case: Case, seed: int, dtype: str) -> Data:
    """Arrays of positive numbers.

    No sum of theirs cancels, so the largest entry of a result tells how large the terms were that
    it is the sum of, and the tolerance that is relative to it holds for results of any size.
    """
    rng = np.random.default_rng(seed)

    def positive(shape: Shape) -> Array:
        return rng.uniform(0.1, 1, shape).astype(dtype)

    return Data(positive(case.x), positive(case.w), positive(case.w[:1]), positive(case.y))


@by_dtype
@by_pass
@sweep
@given(case=cases() | lengthy_cases(), seed=seeds)
def test_random_problems(op: str, dtype: str, case: Case, seed: int) -> None:
    x, w, _, dy = random_data(case, seed, dtype)
    call = call_on(op, case, x, w, dy)
    for algorithm in ALGORITHMS:
        assert_close(run(op, case, call.operands, algorithm=algorithm), call.expected)


@by_dtype
@by_algorithm
@shorter_sweep
@given(case=cases() | lengthy_cases(), seed=seeds)
def test_gradients_are_adjoint_to_forward(
    algorithm: str, dtype: str, case: Case, seed: int
) -> None:
    """<dy, conv(x, w)> = <input_grad(dy, w), x> = <weight_grad(dy, x), w>."""
    x, w, _, dy = random_data(case, seed, dtype)
    results = {
        op: run(op, case, operands_of(op, x, w, dy), algorithm=algorithm).astype(np.float64)
        for op in ("forward", "input_grad", "weight_grad")
    }
    with_y = np.vdot(dy, results["forward"])
    assert np.vdot(results["input_grad"], x) == pytest.approx(with_y, rel=TOLERANCE[dtype])
    assert np.vdot(results["weight_grad"], w) == pytest.approx(with_y, rel=TOLERANCE[dtype])


@by_algorithm
@by_pass
@shorter_sweep
@given(case=cases() | lengthy_cases(), seed=seeds)
def test_linear_in_each_operand(op: str, algorithm: str, case: Case, seed: int) -> None:
    one, other = (random_data(case, seed ^ flip, "float64") for flip in (0, 1))
    first, second = operands_of(op, one.x, one.w, one.dy)
    first_2, second_2 = operands_of(op, other.x, other.w, other.dy)

    def apply(a: Array, b: Array) -> Array:
        return run(op, case, (a, b), algorithm=algorithm)

    result = apply(first, second)
    assert_close(apply(first + first_2, second), result + apply(first_2, second))
    assert_close(apply(first, second + second_2), result + apply(first, second_2))
    # Factors of two round nowhere.
    np.testing.assert_array_equal(apply(4 * first, second / 2), 2 * result)


def on_threads(n: int, op: str, case: Case, operands: tuple[Array, Array], algorithm: str) -> Array:
    before = lc.get_num_threads()
    lc.set_num_threads(n)
    try:
        return run(op, case, operands, algorithm=algorithm)
    finally:
        lc.set_num_threads(before)


def thread_counts() -> list[int]:
    """One, two, three and all, as far as there are so many."""
    most = lc.get_num_threads()
    return sorted({1, min(2, most), min(3, most), most})


def assert_same_on_any_threads(
    op: str, case: Case, operands: tuple[Array, Array], algorithm: str
) -> None:
    alone, *others = (on_threads(n, op, case, operands, algorithm) for n in thread_counts())
    for n, result in zip(thread_counts()[1:], others, strict=True):
        np.testing.assert_array_equal(result, alone, err_msg=f"{n} threads against 1")


@by_dtype
@by_algorithm
@by_case(
    named(
        "groups-2-everything",
        "tiles-64x64",
        "tiles-65x65-kernel-1x1",
        "sums-of-3000",
        "outputs-257",
        "partial-everywhere",
        "small-maps-batch-33",
        "depthwise-65",
    )
)
@by_pass
def test_thread_count_changes_no_bit(op: str, case: Case, algorithm: str, dtype: str) -> None:
    assert_same_on_any_threads(op, case, call_of(case, op, dtype).operands, algorithm)


@by_algorithm
@by_pass
@shorter_sweep
@given(case=cases() | lengthy_cases(), seed=seeds)
def test_thread_count_changes_no_bit_of_random_problems(
    op: str, algorithm: str, case: Case, seed: int
) -> None:
    x, w, _, dy = random_data(case, seed, "float32")
    assert_same_on_any_threads(op, case, operands_of(op, x, w, dy), algorithm)


@by_dtype
@by_algorithm
@by_case(named("groups-2-everything", "tiles-65x65-kernel-1x1", "partial-everywhere"))
@by_pass
def test_repeated_runs_agree_bit_for_bit(op: str, case: Case, algorithm: str, dtype: str) -> None:
    operands = call_of(case, op, dtype).operands
    first = run(op, case, operands, algorithm=algorithm)
    for _ in range(5):
        again = run(op, case, operands, algorithm=algorithm)
        np.testing.assert_array_equal(again, first)
