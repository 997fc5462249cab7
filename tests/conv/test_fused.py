"""What only the fused engine has: register tiles, instruction sets, kept filters, planes, phases.

Its results on the cases that all algorithms have in common are tested with the others'.
"""

import random
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lowerconv as lc
from lowerconv.codegen.isa import host_isa
from lowerconv.machine.features import instruction_set

from ..long import LONG, drawn
from .cases import (
    DTYPES,
    PASSES,
    Case,
    assert_close,
    by_case,
    by_dtype,
    by_pass,
    call_of,
    call_on,
    data_of,
    make_plan,
    named,
    operands_of,
    run,
)
from .elsewhere import Done, Job, elsewhere
from .test_properties import random_data, seeds, sweep

THREADS = (1, 2, 5)

shorter_sweep = settings(sweep, max_examples=12 if LONG else 5)


@st.composite
def grouped_cases(draw: st.DrawFn) -> Case:
    """Groups of any size from depthwise on, with any geometry; extents around those of tiles."""
    groups = draw(st.sampled_from([1, 1, 2, 3, 5]))
    channels = draw(st.sampled_from([1, 1, 2, 3, 5, 7, 17, 33]))
    filters = draw(st.sampled_from([1, 2, 3, 5, 7, 15, 17, 33, 49]))
    taps = draw(st.tuples(*[st.sampled_from([1, 2, 3, 3, 5, 7])] * 2))
    stride = draw(st.tuples(*[st.integers(1, 5)] * 2))
    dilation = draw(st.tuples(*[st.integers(1, 3)] * 2))
    # As large as the filter and larger, different on each side.
    side = st.integers(0, 8)
    padding = draw(st.tuples(*[st.tuples(side, side)] * 2))
    least = [
        max(1, (r - 1) * d + 1 - sum(pads))
        for r, d, pads in zip(taps, dilation, padding, strict=True)
    ]
    image = (least[0] + draw(st.integers(0, 9)), least[1] + draw(st.integers(0, 40)))
    x = (draw(st.integers(1, 3)), groups * channels, *image)
    w = (groups * filters, channels, *taps)
    return Case("drawn-groups", x, w, stride, padding, dilation, groups)


@by_dtype
@by_pass
@shorter_sweep
@given(case=grouped_cases(), seed=seeds)
def test_random_groups(op: str, dtype: str, case: Case, seed: int) -> None:
    x, w, _, dy = random_data(case, seed, dtype)
    call = call_on(op, case, x, w, dy)
    assert_close(run(op, case, call.operands, algorithm="fused"), call.expected)


def filters_around_panels() -> list[Case]:
    """Every number of filters up to two panels and one: of vectors of filters, of pixels."""
    most = 4 * host_isa().lanes(np.dtype("float32")) + 1
    return [Case(f"filters-{k}", (2, 3, 5, 9), (k, 3, 3, 3), padding=1) for k in range(1, most + 1)]


def channels_around_tiles() -> list[Case]:
    """Every number of channels up to two tiles of the weight gradient's and one."""
    most = 4 * host_isa().rows + 1
    return [Case(f"channels-{c}", (2, c, 4, 6), (19, c, 1, 2)) for c in range(1, most + 1)]


def pixels_around_tiles() -> list[Case]:
    """Every width up to two tiles and one, of one row and of several, few filters and many."""
    most = 2 * host_isa().rows + 1
    return [
        Case(f"pixels-{q}-filters-{k}", (1, 3, 2, q), (k, 3, 2, 3), padding=((0, 1), (1, 1)))
        for q in range(1, most + 1)
        for k in ((5, 37)[q % 2],)
    ]


def rows_around_tiles() -> list[Case]:
    """Narrow images, of which a tile has several rows."""
    return [
        Case(f"rows-{p}-width-{q}", (2, 5, p, q), (18, 5, 3, 3), padding=1)
        for p in (1, 2, 3, 5, 7, 11)
        for q in (1, 3, 4, 7)
    ]


PARTIAL = [filters_around_panels, channels_around_tiles, pixels_around_tiles, rows_around_tiles]


@pytest.mark.parametrize("cases", PARTIAL)
@by_pass
def test_partial_tiles(op: str, cases: Any, rng: random.Random) -> None:
    for case in drawn(rng, cases(), 10):
        call = call_of(case, op, "float32")
        print(case)
        assert_close(run(op, case, call.operands, algorithm="fused"), call.expected)


@by_dtype
@by_pass
def test_strides_longer_than_a_vector(op: str, dtype: str) -> None:
    """Neighbours among the pixels of a phase are further apart than a vector reaches."""
    lanes = host_isa().lanes(np.dtype(dtype))
    for stride, width in product((lanes + 1, lanes + 2, 2 * lanes + 1), (1, 9, 2 * lanes + 1)):
        x, w = (2, 4, 3, stride * width), (5, 4, 1, 2)
        case = Case(f"stride-{stride}-width-{width}", x, w, (1, stride))
        call = call_of(case, op, dtype)
        print(case)
        assert_close(run(op, case, call.operands, algorithm="fused"), call.expected)


# Each path of the engine, cut in enough pieces that workers share it in several ways.
SHARED = [
    *named("groups-2-everything", "sums-of-2304", "small-maps-batch-17-stride-2", "depthwise-65"),
    Case("many-small-groups", (2, 96, 9, 11), (64, 3, 3, 3), padding=1, groups=32),
    Case("many-small-groups-kernel-1x1", (2, 160, 5, 5), (256, 5, 1, 1), groups=32),
    Case("many-small-groups-stride-2", (1, 51, 9, 9), (85, 3, 3, 2), stride=2, groups=17),
    Case("multiplier-3", (3, 13, 10, 9), (39, 1, 3, 3), padding=1, groups=13),
    Case("wide-groups", (1, 105, 7, 30), (51, 35, 3, 3), padding=(2, 1), dilation=2, groups=3),
    Case("bands", (1, 40, 62, 50), (19, 40, 3, 3), padding=1),
    Case("one-pixel", (5, 130, 3, 3), (70, 130, 3, 3)),
]


@by_pass
def test_thread_count_changes_no_bit(op: str) -> None:
    """In a process that may have several threads, whatever this one may."""
    every, jobs = list(product(SHARED, DTYPES)), []
    for case, dtype in every:
        plan = (case.x, case.w, *case.arguments)
        options = {"op": op, "dtype": dtype, "algorithm": "fused"}
        operands = call_of(case, op, dtype).operands
        jobs += [Job(f"{case.name} {n}", n, plan, options, [operands]) for n in THREADS]
    done = elsewhere(jobs, NUMBA_NUM_THREADS=str(max(THREADS)))
    assert_shared(done)
    for (case, dtype), several in zip(every, batched(done), strict=True):
        (alone,), *others = (each.results for each in several)
        assert_close(alone, call_of(case, op, dtype).expected)
        for n, (result,) in zip(THREADS[1:], others, strict=True):
            np.testing.assert_array_equal(result, alone, err_msg=f"{case.name}: {n} threads")


def batched(done: list[Done]) -> list[list[Done]]:
    """Jobs on each number of threads, case by case."""
    return [done[i : i + len(THREADS)] for i in range(0, len(done), len(THREADS))]


def assert_shared(done: list[Done]) -> None:
    """Threads had something to do, or the comparison would tell nothing."""
    workers = [[each.workers for each in several] for several in batched(done)]
    assert all(alone == 1 for alone, *_ in workers)
    assert sum(most > 1 for *_, most in workers) > 0.8 * len(workers), workers


@pytest.mark.parametrize("op", ["forward", "input_grad"])
def test_filters_that_are_kept_packed(op: str) -> None:
    """The same bits as without, again when other filters come, and when the first come back."""
    jobs: list[Job] = []
    kept: list[Job] = []
    for case, dtype in product(SHARED, DTYPES):
        plan = (case.x, case.w, *case.arguments)
        (image, w), (other_image, other_w) = (
            operands_of(op, data.x, data.w, data.dy)
            for data in (data_of(case, dtype, seed) for seed in (0, 1))
        )
        calls = [(image, w), (other_image, w), (image, other_w), (image, w)]
        options = {"op": op, "dtype": dtype, "algorithm": "fused"}
        jobs.append(Job(case.name, 1, plan, options, calls))
        options = options | {"constant_weights": True}
        kept += [Job(f"{case.name} kept {n}", n, plan, options, calls) for n in THREADS]
    done = elsewhere(jobs + kept, NUMBA_NUM_THREADS=str(max(THREADS)))
    assert_shared(done[len(jobs) :])
    for job, want, several in zip(jobs, done, batched(done[len(jobs) :]), strict=False):
        for n, each in zip(THREADS, several, strict=True):
            for number, (right, result) in enumerate(zip(want.results, each.results, strict=True)):
                message = f"{job.name}, kept on {n} threads, call {number}"
                np.testing.assert_array_equal(result, right, err_msg=message)


@by_dtype
@by_case(named("groups-2-everything", "kernel-1x1", "outputs-65", "depthwise-multiplier-3"))
@by_pass
def test_kept_filters_of_any_memory(op: str, case: Case, dtype: str) -> None:
    """Read-only, of other layouts, in memory that was freed and taken again."""
    plan = make_plan(op, case, algorithm="fused", dtype=dtype, constant_weights=True)
    first, second = call_of(case, op, dtype).operands
    expected = run(op, case, (first, second), algorithm="fused")
    doubled = run(op, case, (first, 2 * second), algorithm="fused")
    for _ in range(5):
        # Each array is gone before the next is made: they may well have the same address.
        np.testing.assert_array_equal(plan(first, second.copy()), expected)
        np.testing.assert_array_equal(plan(first, 2 * second), doubled)
    apart = np.repeat(second, 2, axis=-1)[..., ::2]
    for layout in (second, second.copy("F"), apart, second):
        np.testing.assert_array_equal(plan(first, layout), expected)


@by_dtype
@by_pass
def test_called_twice(op: str, dtype: str) -> None:
    """Also after NaN has passed through the scratch memory."""
    for case in SHARED:
        print(case)
        operands = call_of(case, op, dtype).operands
        plan = make_plan(op, case, algorithm="fused", dtype=dtype)
        once = plan(*operands)
        assert np.isnan(plan(*(np.full_like(a, np.nan) for a in operands))).any()
        out = np.full_like(once, np.nan)
        plan(*operands, out=out)
        np.testing.assert_array_equal(out, once)


TELLING = [
    *named("kernel-1x1", "stride-2x3", "padding-beyond-kernel", "dilation-and-stride"),
    *named("groups-2-everything", "depthwise-multiplier-3", "outputs-33", "tiles-67x83"),
    Case("stride-1x7", (1, 3, 4, 90), (6, 3, 2, 3), (1, 7), padding=1),
    Case("few-filters", (2, 7, 9, 21), (3, 7, 3, 3), padding=1),
    Case("many-pixels-of-many-filters", (2, 19, 14, 14), (45, 19, 3, 3), padding=1),
]
ORDER = ("avx512", "avx2", "sse")


@pytest.mark.parametrize("isa", ORDER[1:])
def test_narrower_instruction_sets(isa: str, rng: random.Random) -> None:
    widest = instruction_set()
    if widest not in ORDER or ORDER.index(isa) < ORDER.index(widest):
        pytest.skip(f"this CPU has {widest}, not {isa}")
    jobs, right = [], []
    for case, op, dtype in drawn(rng, product(TELLING, PASSES, DTYPES), 30):
        call = call_of(case, op, dtype)
        options = {"op": op, "dtype": dtype, "algorithm": "fused"}
        plan = (case.x, case.w, *case.arguments)
        jobs.append(Job(f"{case.name} {op} {dtype}", 1, plan, options, [call.operands]))
        right.append(call.expected)
    for job, done, expected in zip(jobs, elsewhere(jobs, LOWERCONV_ISA=isa), right, strict=True):
        print(job.name)
        assert_close(done.results[0], expected)


def test_the_explanation_names_the_instructions() -> None:
    for op in PASSES:
        text = lc.plan_conv2d((2, 40, 9, 9), (40, 40, 3, 3), op=op, algorithm="fused").explain()
        assert host_isa().name in text


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_phases_of_different_heights_in_bands(threads: int, dtype: str) -> None:
    """Seven rows of the image in one phase and six in the other: tiles of four and of six fit."""
    rng = np.random.default_rng(5)
    before = lc.get_num_threads()
    lc.set_num_threads(threads)
    try:
        for H, W, taps, stride, dilation in (
            (13, 5, (3, 4), (2, 1), (3, 1)),
            (13, 5, (3, 4), (2, 2), (1, 1)),
            (27, 9, (5, 3), (2, 2), (1, 1)),
            (29, 7, (3, 3), (3, 2), (2, 1)),
        ):
            options = {"stride": stride, "dilation": dilation, "groups": 3}
            w = rng.standard_normal((12, 4, *taps)).astype(dtype)
            x_shape = (3, 12, H, W)
            y = lc.conv2d(np.zeros(x_shape, dtype), w, **options)
            dy = rng.standard_normal(y.shape).astype(dtype)
            expected = lc.conv2d_input_grad(dy, w, x_shape, algorithm="direct", **options)
            out = np.full(x_shape, np.nan, dtype)
            lc.conv2d_input_grad(dy, w, x_shape, algorithm="fused", out=out, **options)
            tolerance = 1e-4 if dtype == "float32" else 1e-12
            np.testing.assert_allclose(out, expected, rtol=tolerance, atol=tolerance)
    finally:
        lc.set_num_threads(before)
