"""Plans: made once, used many times, from any thread; and what they tell about themselves."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import lowerconv as lc
from lowerconv.conv.plan_cache import plan_cache_info

from .cases import (
    ALGORITHMS,
    Case,
    assert_close,
    by_algorithm,
    by_case,
    by_dtype,
    by_pass,
    call_of,
    data_of,
    expected_of,
    make_plan,
    named,
    operands_of,
    run,
)
from .reference import Array, Shape

CASES = named(
    "batch-0",
    "kernel-1x1",
    "groups-2-everything",
    "depthwise-stride-2",
    "stride-leaves-rows-unread",
    "tiles-67x83",
    "partial-everywhere-groups-3",
)


@by_dtype
@by_algorithm
@by_case(CASES)
@by_pass
def test_plan_agrees_with_function_bit_for_bit(
    op: str, case: Case, algorithm: str, dtype: str
) -> None:
    plan = make_plan(op, case, algorithm=algorithm, dtype=dtype)
    for seed in range(3):  # new data each time: nothing of the last call may remain
        call = call_of(case, op, dtype, seed)
        result = plan(*call.operands)
        assert_close(result, call.expected)
        np.testing.assert_array_equal(
            result, run(op, case, call.operands, algorithm=algorithm), strict=True
        )


@by_algorithm
@by_case(named("kernel-1x1", "groups-2-everything", "partial-everywhere-groups-3"))
def test_plan_with_bias_and_activation(case: Case, algorithm: str) -> None:
    x, w, bias, _ = data_of(case, "float32")
    plan = make_plan("forward", case, algorithm=algorithm, bias=True, activation="relu")
    expected = run("forward", case, (x, w, bias), algorithm=algorithm, activation="relu")
    np.testing.assert_array_equal(plan(x, w, bias), expected, strict=True)


@by_algorithm
@by_case(CASES)
@by_pass
def test_nothing_of_one_call_reaches_the_next(op: str, case: Case, algorithm: str) -> None:
    # Workspace is used again, the zeros of the padding with it.
    call = call_of(case, op, "float32")
    plan = make_plan(op, case, algorithm=algorithm)
    clean = plan(*call.operands)
    plan(*(np.full_like(a, np.nan) for a in call.operands))
    np.testing.assert_array_equal(plan(*call.operands), clean)


@by_algorithm
@by_pass
def test_plans_with_one_workspace_take_turns(op: str, algorithm: str) -> None:
    # The larger plan leaves its data where the smaller one then pads its own.
    cases = named("small-maps-batch-33", "padding-beyond-kernel", "image-1x1-padded", "tiles-67x83")
    plans = [make_plan(op, case, algorithm=algorithm) for case in cases]
    for _ in range(2):
        for case, plan in zip(cases, plans, strict=True):
            call = call_of(case, op, "float32")
            assert_close(plan(*call.operands), call.expected)


@by_algorithm
@by_pass
def test_plan_writes_into_out(op: str, algorithm: str) -> None:
    (case,) = named("groups-2-everything")
    call = call_of(case, op, "float32")
    plan = make_plan(op, case, algorithm=algorithm)
    out = np.full((*call.expected.shape[:-1], call.expected.shape[-1] * 2), np.nan, np.float32)
    columns = out[..., ::2]
    assert plan(*call.operands, out=columns) is columns
    assert_close(columns, call.expected)
    assert np.isnan(out[..., 1::2]).all()


def test_plan_of_three_dimensions() -> None:
    x, w = np.ones((3, 6, 5), np.float32), np.ones((4, 3, 3, 3), np.float32)
    dy = np.ones((4, 4, 3), np.float32)
    assert lc.plan_conv2d(x.shape, w.shape)(x, w).shape == dy.shape
    assert lc.plan_conv2d(x.shape, w.shape, op="input_grad")(dy, w).shape == x.shape
    assert lc.plan_conv2d(x.shape, w.shape, op="weight_grad")(dy, x).shape == w.shape


@pytest.mark.parametrize("dtype", ["float32", np.float32, np.dtype("float64"), float])
def test_dtypes_as_numpy_takes_them(dtype: Any) -> None:
    plan = lc.plan_conv2d((1, 2, 4, 4), (3, 2, 3, 3), dtype=dtype)
    x, w = np.ones((1, 2, 4, 4), dtype), np.ones((3, 2, 3, 3), dtype)
    assert plan(x, w).dtype == np.dtype(dtype)


@by_dtype
@by_algorithm
@by_pass
def test_explanation(op: str, algorithm: str, dtype: str) -> None:
    (case,) = named("tiles-67x83")
    text = make_plan(op, case, algorithm=algorithm, dtype=dtype).explain()
    if algorithm == "auto":  # which it is must be told
        assert any(name in text for name in ALGORITHMS if name != "auto")
    else:
        assert algorithm in text
    assert "workspace" in text
    assert "threads" in text


WRONG_CALLS: dict[str, tuple[dict[str, Shape], str]] = {
    "first-other-batch": ({"first": (3, 4, 6, 5)}, "x"),
    "first-other-width": ({"first": (2, 4, 6, 6)}, "x"),
    "first-3d": ({"first": (4, 6, 5)}, "x"),
    "second-other-kernel": ({"second": (6, 2, 3, 3)}, "w"),
    "second-other-outputs": ({"second": (4, 2, 3, 2)}, "w"),
    "out-other-width": ({"out": (2, 6, 4, 5)}, "out"),
    "out-3d": ({"out": (6, 4, 4)}, "out"),
}


@pytest.mark.parametrize(("shapes", "name"), WRONG_CALLS.values(), ids=WRONG_CALLS.keys())
def test_wrong_shapes(shapes: dict[str, Shape], name: str) -> None:
    plan = lc.plan_conv2d((2, 4, 6, 5), (6, 2, 3, 2), groups=2)
    x = np.ones(shapes.get("first", (2, 4, 6, 5)), np.float32)
    w = np.ones(shapes.get("second", (6, 2, 3, 2)), np.float32)
    out = np.full(shapes.get("out", (2, 6, 4, 4)), 7, np.float32)
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        plan(x, w, out=out)
    assert (out == 7).all()


@pytest.mark.parametrize("op", ["input_grad", "weight_grad"])
def test_wrong_shapes_of_gradients(op: str) -> None:
    (case,) = named("batch-3")
    first, second = call_of(case, op, "float32").operands
    plan = make_plan(op, case)
    with pytest.raises(ValueError, match=r"\bdy\b"):
        plan(first[..., 1:], second)
    with pytest.raises(ValueError, match=r"\bw\b" if op == "input_grad" else r"\bx\b"):
        plan(first, second[..., 1:])


def test_wrong_arguments() -> None:
    (case,) = named("batch-3")
    x, w, bias, _ = data_of(case, "float32")
    plan = make_plan("forward", case)
    biased = make_plan("forward", case, bias=True)
    with pytest.raises(TypeError, match=r"\bx\b"):
        plan(x.astype(np.float64), w)
    with pytest.raises(TypeError, match=r"\bx\b"):
        plan(x.tolist(), w)
    with pytest.raises(TypeError, match=r"\bout\b"):
        plan(x, w, out=np.empty(case.y))
    with pytest.raises(TypeError, match=r"\b3\b.*expected 2: x, w$"):
        plan(x, w, bias)
    with pytest.raises(TypeError, match=r"\b2\b.*expected 3: x, w, bias$"):
        biased(x, w)
    with pytest.raises(ValueError, match=r"\bbias\b"):
        biased(x, w, bias[1:])
    with pytest.raises(ValueError, match=r"\bout\b.*\bx\b"):
        squares = lc.plan_conv2d((4, 4, 1, 1), (4, 4, 1, 1))
        square = np.ones((4, 4, 1, 1), np.float32)
        squares(square, square.copy(), out=square)


def test_shapes_as_lists_and_of_numpy_integers() -> None:
    x, w = np.ones((2, 3, 6, 5), np.float32), np.ones((4, 3, 3, 3), np.float32)
    y = lc.conv2d(x, w)
    kinds: list[Any] = [list, lambda shape: tuple(map(np.int64, shape))]
    for kind in kinds:
        assert lc.plan_conv2d(kind(x.shape), kind(w.shape))(x, w).shape == y.shape
        assert lc.conv2d_input_grad(y, w, kind(x.shape)).shape == x.shape
        assert lc.conv2d_weight_grad(y, x, kind(w.shape)).shape == w.shape


def test_functions_plan_once_and_forget_what_is_old() -> None:
    size = plan_cache_info().maxsize
    assert size is not None
    w = np.ones((1, 1, 1, 1), np.float32)
    for width in range(1, size + 9):
        lc.conv2d(np.ones((1, 1, 1, width), np.float32), w)
    full = plan_cache_info()
    assert full.currsize == size
    lc.conv2d(np.ones((1, 1, 1, width), np.float32), w)
    assert plan_cache_info().hits == full.hits + 1
    assert plan_cache_info().currsize == size


def in_threads(calls: list[Any], threads: int = 4) -> list[Array]:
    """Run the calls on threads that all start at once."""
    start = threading.Barrier(threads)

    def run_share(share: list[Any]) -> list[Array]:
        start.wait()
        return [call() for call in share]

    with ThreadPoolExecutor(threads) as pool:
        shares = pool.map(run_share, [calls[i::threads] for i in range(threads)])
        results = [iter(share) for share in shares]
    return [next(results[i % threads]) for i in range(len(calls))]


@by_algorithm
@by_pass
def test_functions_called_from_four_threads_at_once(op: str, algorithm: str) -> None:
    # Different shapes and different data side by side, twelve calls to a thread.
    cases = named("groups-2-everything", "small-maps-batch-33", "tiles-67x83", "kernel-1x1")
    jobs = [(case, call_of(case, op, "float32", seed)) for seed in range(3) for case in cases] * 4

    def job(case: Case, operands: tuple[Array, Array]) -> Any:
        return lambda: run(op, case, operands, algorithm=algorithm)

    results = in_threads([job(case, call.operands) for case, call in jobs])
    for (_, call), result in zip(jobs, results, strict=True):
        assert_close(result, call.expected)


@by_algorithm
@by_pass
def test_one_plan_called_from_four_threads_at_once(op: str, algorithm: str) -> None:
    (case,) = named("padding-four-sides")
    plan = make_plan(op, case, algorithm=algorithm)
    calls = [call_of(case, op, "float32", seed) for seed in range(8)] * 6

    def job(operands: tuple[Array, Array]) -> Any:
        return lambda: plan(*operands)

    for call, result in zip(calls, in_threads([job(c.operands) for c in calls]), strict=True):
        assert_close(result, call.expected)


def test_plans_made_in_four_threads_at_once() -> None:
    # Shapes nobody has planned before: the cache of plans is filled from all threads.
    fresh = [Case(f"fresh-{width}", (1, 2, 3, width), (3, 2, 2, 2)) for width in range(40, 56)]
    cases = [case for case in fresh for _ in range(2)]  # each by two threads at the same time

    def job(case: Case) -> Any:
        x, w, _, dy = data_of(case, "float32")
        return lambda: run("forward", case, operands_of("forward", x, w, dy))

    for case, y in zip(cases, in_threads([job(case) for case in cases]), strict=True):
        x, w, _, dy = data_of(case, "float32")
        assert_close(y, expected_of("forward", case, x, w, dy))


def test_images_beyond_the_integers_of_blas_never_reach_it(monkeypatch):
    # No such image is made: planning alone decides, and memory is taken to be endless.
    monkeypatch.setattr("lowerconv.runtime.workspace.memory_limit", lambda: 2**60)
    shape, filters = (1, 16, 2**16, 2**15), (16, 16, 1, 1)
    for op in ("forward", "input_grad", "weight_grad"):
        assert lc.plan_conv2d(shape, filters, op=op).algorithm == "direct"
        with pytest.raises(MemoryError, match="BLAS takes extents up to"):
            lc.plan_conv2d(shape, filters, op=op, algorithm="pipelined")
    with pytest.raises(MemoryError, match="offsets count to"):
        lc.plan_conv2d(shape, filters, algorithm="fused")


@pytest.mark.parametrize("op", ["forward", "input_grad", "weight_grad"])
@pytest.mark.parametrize("algorithm", lc.algorithms())
@pytest.mark.parametrize("groups", [1, 6])
def test_accumulating_plans_add_to_out(op, algorithm, groups):
    rng = np.random.default_rng(5)
    x_shape, w_shape = (2, 6, 9, 11), (12, 6 // groups, 3, 3)
    relu = {"activation": "relu", "bias": True} if op == "forward" else {}
    stride = 1 if algorithm == "winograd" else 2
    options = {"padding": 1, "stride": stride, "groups": groups, "op": op, "algorithm": algorithm}
    plan = lc.plan_conv2d(x_shape, w_shape, **options, **relu, accumulate=True)
    plain = lc.plan_conv2d(x_shape, w_shape, **options, bias="bias" in relu)
    x, w = rng.standard_normal(x_shape, np.float32), rng.standard_normal(w_shape, np.float32)
    dy = rng.standard_normal(plan.problem.y_shape, np.float32)
    bias = rng.standard_normal(12, np.float32)
    operands = {"forward": (x, w, bias), "input_grad": (dy, w), "weight_grad": (dy, x)}[op]
    before = rng.standard_normal(plan.result_shape, np.float32)
    expected = before + plain(*operands)
    if relu:
        expected = np.maximum(expected, 0)
    for layout in (before.copy(), np.asfortranarray(before)):
        assert plan(*operands, out=layout) is layout
        np.testing.assert_allclose(layout, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(TypeError, match="out: got None"):
        plan(*operands)
