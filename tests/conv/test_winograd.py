"""What only Winograd's convolution has: tiles, transforms, pieces, and problems it refuses."""

import pickle
import sys
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lowerconv as lc
from lowerconv.codegen.isa import host_isa
from lowerconv.codegen.transforms import matrices
from lowerconv.conv.winograd import schedule, schedule_weights
from lowerconv.machine.features import instruction_set

from ..long import LONG, long_but, long_rows_but
from . import reference
from .cases import (
    BLOCKS,
    EDGES,
    PASSES,
    Case,
    assert_close,
    by_case,
    by_pass,
    call_of,
    call_on,
    data_of,
    expected_of,
    make_plan,
    named,
    operands_of,
    run,
)
from .elsewhere import Job, elsewhere
from .guard_pages import PLACES
from .guard_pages import Job as Guarded
from .test_fused import ORDER
from .test_guard_pages import FUNCTIONS, child
from .test_properties import random_data, seeds, sweep

THREADS = (1, 2, 3, 5)
WINOGRAD = {"algorithm": "winograd"}


def takes(case: Case) -> bool:
    """Whether a case has 3x3 filters that are neither strided nor dilated."""
    return case.w[2:] == (3, 3) and case.geometry.stride == case.geometry.dilation == (1, 1)


TAKEN = [case for case in EDGES + BLOCKS if takes(case)]

TILED = [
    # Images smaller than a tile, and paddings that give them several
    Case("image-1x1", (3, 5, 1, 1), (4, 5, 3, 3), padding=1),
    Case("image-1x2-far-inside", (2, 3, 1, 2), (4, 3, 3, 3), padding=((7, 2), (0, 9))),
    Case("padding-beyond-filter", (2, 3, 5, 6), (4, 3, 3, 3), padding=5),
    Case("padding-four-sides", (2, 3, 7, 9), (4, 3, 3, 3), padding=((0, 4), (3, 1))),
    *(
        Case(f"pixels-{h}x{w}", (3, 4, h, w), (5, 4, 3, 3), padding=1)
        for h, w in ((3, 4), (4, 5), (5, 8), (8, 9), (9, 3), (2, 17))
    ),
    # Pieces: several images, bands of an image, parts of a row
    Case("pieces-of-images", (13, 17, 7, 7), (33, 17, 3, 3), padding=1),
    Case("pieces-of-rows", (2, 20, 61, 50), (40, 20, 3, 3), padding=1),
    Case("parts-of-a-row", (1, 3, 6, 701), (4, 3, 3, 3), padding=((0, 1), (5, 2))),
    Case("parts-of-a-row-cut", (1, 3, 5, 301), (4, 3, 3, 3), padding=((1, 1), (0, 5))),
    # Panels of every number of vectors
    *(Case(f"filters-{k}", (1, 5, 6, 9), (k, 5, 3, 3), padding=1) for k in (47, 48, 49, 80, 113)),
    Case("groups", (2, 51, 9, 10), (60, 17, 3, 3), padding=1, groups=3),
    Case("groups-of-one", (2, 7, 9, 10), (14, 1, 3, 3), padding=(0, 2), groups=7),
]
SHARED = [
    *named("partial-everywhere", "partial-everywhere-groups-3", "tiles-67x83"),
    *(case for case in TILED if case.name.startswith(("pieces", "parts", "groups"))),
]


@by_case(TAKEN + TILED)
@by_pass
def test_result_is_right(op: str, case: Case) -> None:
    call = call_of(case, op, "float32")
    assert_close(run(op, case, call.operands, **WINOGRAD), call.expected)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """3x3 filters with any padding and groups; extents around those of tiles and vectors."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    channels = draw(st.sampled_from([1, 2, 3, 15, 16, 17, 33]))
    filters = draw(st.sampled_from([1, 2, 15, 16, 17, 31, 33, 49]))
    side = st.integers(0, 6)
    padding = draw(st.tuples(*[st.tuples(side, side)] * 2))
    least = [max(1, 3 - sum(pads)) for pads in padding]
    image = (least[0] + draw(st.integers(0, 13)), least[1] + draw(st.integers(0, 40)))
    x = (draw(st.integers(1, 5)), groups * channels, *image)
    return Case("drawn", x, (groups * filters, channels, 3, 3), 1, padding, 1, groups)


@by_pass
@settings(sweep, max_examples=40 if LONG else 8)
@given(case=cases(), seed=seeds)
def test_random_problems(op: str, case: Case, seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in (case.x, case.w, case.y)]
    call = call_on(op, case, *arrays)
    # Sums may cancel: the error is relative to what they are sums of.
    scale = np.abs(expected_of(op, case, *(np.abs(array) for array in arrays))).max()
    error = np.abs(run(op, case, call.operands, **WINOGRAD) - call.expected).max()
    assert error <= 1e-5 * scale


@by_pass
@settings(sweep, max_examples=20 if LONG else 5)
@given(case=cases(), seed=seeds)
def test_random_problems_of_positive_numbers(op: str, case: Case, seed: int) -> None:
    x, w, _, dy = random_data(case, seed, "float32")
    call = call_on(op, case, x, w, dy)
    assert_close(run(op, case, call.operands, **WINOGRAD), call.expected)


@pytest.fixture
def fresh_schedules() -> Iterator[None]:
    """No schedule is one that was made before, and none that is made now is used later."""
    schedule.make_tile_schedule.cache_clear()
    yield
    schedule.make_tile_schedule.cache_clear()


@pytest.mark.usefixtures("fresh_schedules")
@pytest.mark.parametrize("tiles", [4, 9, 40])
@by_pass
def test_every_way_to_cut(op: str, tiles: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters transformed for each piece, in blocks of channels; small pieces; many batches."""
    monkeypatch.setattr(schedule, "SHARED_BYTES", 0)
    monkeypatch.setattr(schedule, "BLOCK_SHARE", 0.0)
    monkeypatch.setattr(schedule, "TILES", tiles)
    monkeypatch.setattr(schedule_weights, "UNIT", tiles)
    monkeypatch.setattr(schedule_weights, "BATCH_MIN", 0)
    monkeypatch.setattr(schedule_weights, "BATCH_MAX", 0)
    for case in SHARED:
        print(case)
        call = call_of(case, op, "float32")
        plan = make_plan(op, case, **WINOGRAD)
        assert_close(plan(*call.operands), call.expected)


def test_thread_count_changes_no_bit() -> None:
    every, jobs = list(product(SHARED, PASSES)), []
    for case, op in every:
        plan = (case.x, case.w, *case.arguments)
        operands = call_of(case, op, "float32").operands
        options = {"op": op, **WINOGRAD}
        jobs += [Job(f"{case.name} {n}", n, plan, options, [operands]) for n in THREADS]
    done = elsewhere(jobs, NUMBA_NUM_THREADS=str(max(THREADS)))
    each = [done[i : i + len(THREADS)] for i in range(0, len(done), len(THREADS))]
    for (case, _), several in zip(every, each, strict=True):
        assert several[0].workers == 1
        alone, *others = (one.results[0] for one in several)
        for n, result in zip(THREADS[1:], others, strict=True):
            np.testing.assert_array_equal(result, alone, err_msg=f"{case.name}: {n} threads")
    assert sum(several[-1].workers > 1 for several in each) > 0.8 * len(each)


@by_pass
def test_called_twice(op: str) -> None:
    """Also after NaN has passed through the scratch memory, and with filters that are kept."""
    for case in SHARED:
        print(case)
        operands = call_of(case, op, "float32").operands
        for constant in (False, True):
            plan = make_plan(op, case, **WINOGRAD, constant_weights=constant)
            once = plan(*operands)
            assert np.isnan(plan(*(np.full_like(a, np.nan) for a in operands))).any()
            out = np.full_like(once, np.nan)
            plan(*operands, out=out)
            np.testing.assert_array_equal(out, once)


@pytest.mark.parametrize("op", ["forward", "input_grad"])
@by_case(SHARED)
def test_filters_that_are_kept(op: str, case: Case) -> None:
    """The same bits as without, again when other filters come, and when the first come back."""
    plan = make_plan(op, case, **WINOGRAD)
    kept = make_plan(op, case, **WINOGRAD, constant_weights=True)
    image, w = call_of(case, op, "float32").operands
    doubled = np.float32(2) * w
    for filters in (w, w, doubled, w.copy(), w):
        np.testing.assert_array_equal(kept(image, filters), plan(image, filters))


@pytest.mark.parametrize(
    ("biased", "accumulate", "activation"),
    long_rows_but([0, 3, 6], product([False, True], [False, True], [None, "relu"])),
)
def test_what_the_epilogue_adds(biased: bool, accumulate: bool, activation: str | None) -> None:
    for case in SHARED:
        print(case)
        x, w, bias, dy = data_of(case, "float32")
        scaled = bias * np.float32(np.sqrt(w[0].size)) if biased else None
        expected = reference.forward(x, w, scaled, case.geometry)
        before = dy * np.float32(np.sqrt(w[0].size))
        options: dict[str, Any] = {"bias": biased, "activation": activation}
        plan = make_plan("forward", case, **WINOGRAD, accumulate=accumulate, **options)
        out = before.copy() if accumulate else np.full_like(before, np.nan)
        expected = expected + before if accumulate else expected
        expected = np.maximum(expected, 0) if activation else expected
        assert_close(plan(x, w, *([] if scaled is None else [scaled]), out=out), expected)


@pytest.mark.parametrize("op", ["input_grad", "weight_grad"])
def test_gradients_that_are_added(op: str) -> None:
    for case in SHARED:
        print(case)
        call = call_of(case, op, "float32")
        before = np.random.default_rng(0).standard_normal(call.expected.shape, np.float32)
        out = before.copy()
        make_plan(op, case, **WINOGRAD, accumulate=True)(*call.operands, out=out)
        assert_close(out, call.expected + before)


@pytest.mark.skipif(sys.platform != "linux", reason="guard pages are made with mprotect")
@by_pass
def test_nothing_outside_the_arrays_is_touched(op: str) -> None:
    jobs = []
    for case, place in product(TILED + named("outputs-17", "inputs-15"), PLACES):
        x, w, bias, dy = data_of(case, "float32")
        operands = [*operands_of(op, x, w, dy)]
        expected = call_of(case, op, "float32").expected
        shape: list[Any] = [] if op == "forward" else [expected.shape]
        if op == "forward":
            operands.append(bias)
            expected = expected + bias[:, None, None]
        out = np.full(expected.shape, np.nan, np.float32)
        arguments = [*shape, *case.arguments]
        name = f"{case.name}-{place}"
        job = Guarded(name, FUNCTIONS[op], operands, arguments, "winograd", out, place)
        jobs.append((job, expected))
    done = child(stdin=pickle.dumps([tuple(job) for job, _ in jobs]))
    messages = done.stderr.decode()
    assert done.returncode == 0, f"return code {done.returncode} in {messages[-2000:]}"
    for (job, expected), result in zip(jobs, pickle.loads(done.stdout), strict=True):
        print(job.name)
        assert_close(result, expected)


@pytest.mark.parametrize("isa", long_but(["sse"], ORDER[1:]))
def test_narrower_instruction_sets(isa: str) -> None:
    widest = instruction_set()
    if widest not in ORDER or ORDER.index(isa) < ORDER.index(widest):
        pytest.skip(f"this CPU has {widest}, not {isa}")
    jobs, right = [], []
    for case, op in product(SHARED, PASSES):
        call = call_of(case, op, "float32")
        plan = (case.x, case.w, *case.arguments)
        jobs.append(Job(f"{case.name} {op}", 1, plan, {"op": op, **WINOGRAD}, [call.operands]))
        right.append(call.expected)
    for job, done, expected in zip(jobs, elsewhere(jobs, LOWERCONV_ISA=isa), right, strict=True):
        print(job.name)
        assert_close(done.results[0], expected)


# Root of the mean square error, and the largest, by that of the results: on normal data.
@pytest.mark.parametrize(
    ("channels", "mean", "most"), [(16, 1.5e-6, 1.5e-5), (64, 2e-6, 2e-5), (512, 5e-6, 1e-4)]
)
@pytest.mark.parametrize("op", ["forward", "input_grad"])
def test_rounding(op: str, channels: int, mean: float, most: float) -> None:
    seed = 1980
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    w_shape = (24, channels, 3, 3) if op == "forward" else (channels, 24, 3, 3)
    case = Case("rounding", (2, w_shape[1], 26, 22), w_shape, padding=1)
    x, w, dy = (rng.standard_normal(shape, np.float32) for shape in (case.x, case.w, case.y))
    function = {"forward": "conv2d", "input_grad": "conv2d_input_grad"}[op]
    shape = [] if op == "forward" else [case.x]
    double = [array.astype(np.float64) for array in operands_of(op, x, w, dy)]
    exact = getattr(lc, function)(*double, *shape, padding=1, algorithm="direct")
    error = run(op, case, operands_of(op, x, w, dy), **WINOGRAD) - exact
    rms = np.sqrt((exact**2).mean())
    assert np.sqrt((error**2).mean()) < mean * rms
    assert np.abs(error).max() < most * rms


def test_rounding_of_the_weight_gradient() -> None:
    """With 12,544 pixels: sums run over the tiles, some of them after the others."""
    seed = 1980
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    case = Case("rounding", (16, 20, 28, 28), (24, 20, 3, 3), padding=1)
    x, w, dy = (rng.standard_normal(shape, np.float32) for shape in (case.x, case.w, case.y))
    double = dy.astype(np.float64), x.astype(np.float64)
    exact = lc.conv2d_weight_grad(*double, w.shape, padding=1, algorithm="direct")
    error = run("weight_grad", case, (dy, x), **WINOGRAD) - exact
    rms = np.sqrt((exact**2).mean())
    assert np.sqrt((error**2).mean()) < 5e-6 * rms
    assert np.abs(error).max() < 5e-5 * rms


@pytest.mark.parametrize("m", [3, 4])
def test_the_matrices_are_exact(m: int) -> None:
    """Sliding r taps over 6 numbers, in fractions."""
    AT, G, BT = (np.array(matrix) for matrix in matrices(m))
    rng = np.random.default_rng(m)
    d, g = rng.integers(-9, 10, 6), rng.integers(-9, 10, 7 - m)
    right = [sum(d[i + j] * g[j] for j in range(len(g))) for i in range(m)]
    assert (AT @ ((G @ g) * (BT @ d)) == right).all()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "stride": ({"stride": (1, 2)}, r"stride is \(1, 2\), expected \(1, 1\)"),
    "dilation": ({"dilation": 2}, r"dilation is \(2, 2\), expected \(1, 1\)"),
    "dtype": ({"dtype": "float64"}, "dtype is float64, expected float32"),
    "taps": ({"w_shape": (4, 3, 5, 3)}, r"filters of R x S is \(5, 3\), expected \(3, 3\)"),
    "empty-batch": ({"x_shape": (0, 3, 9, 9), "stride": 2}, "stride is"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
@by_pass
def test_what_it_does_not_take(op: str, options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"x_shape": (2, 3, 9, 9), "w_shape": (4, 3, 3, 3), "op": op}
    with pytest.raises(ValueError, match=rf"^algorithm: got 'winograd' where .*{message}"):
        lc.plan_conv2d(**(arguments | options), **WINOGRAD)
    problem = lc.plan_conv2d(**(arguments | options)).problem
    assert "winograd" not in lc.algorithms(problem)


def test_who_takes_a_problem() -> None:
    problem = lc.plan_conv2d((2, 3, 9, 9), (4, 3, 3, 3), padding=7).problem
    assert lc.algorithms(problem) == lc.algorithms()
    assert "winograd" in lc.algorithms()


@by_pass
def test_auto_takes_it_where_it_pays(op: str) -> None:
    before = lc.get_num_threads()
    shapes = ((8, 128, 28, 28), (128, 128, 3, 3))
    try:
        for threads in (1, 2, 7):
            lc.set_num_threads(threads)
            plan = lc.plan_conv2d(*shapes, padding=1, op=op)
            assert plan.algorithm == "winograd", plan.explain()
    finally:
        lc.set_num_threads(before)
    assert lc.plan_conv2d(*shapes, padding=1, op=op, dtype="float64").algorithm == "fused"
    for few in (((1, 512, 7, 7), (512, 512, 3, 3)), ((8, 3, 64, 64), (16, 3, 3, 3))):
        assert lc.plan_conv2d(*few, padding=1, op=op).algorithm == "fused"


@by_pass
def test_the_explanation_names_what_was_decided(op: str) -> None:
    plan = lc.plan_conv2d((2, 40, 9, 9), (40, 40, 3, 3), op=op, **WINOGRAD)
    text = plan.explain()
    assert host_isa().name in text and "36 products" in text
    assert "fma" in plan.assembly() or not host_isa().fma
