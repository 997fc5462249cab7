"""Arrays as they lie in memory: strides of every kind, for inputs and for results."""

import random
from collections.abc import Callable

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

from ..long import drawn
from .cases import (
    Case,
    assert_close,
    by_algorithm,
    by_case,
    by_dtype,
    by_pass,
    call_of,
    call_on,
    data_of,
    each,
    named,
    operands_of,
    run,
)
from .reference import Array, Shape

# With 1x1 kernels the image itself may serve as the matrix, so its layout matters most there.
CASES = named(
    "kernel-1x1",
    "groups-3-kernel-1x1",
    "batch-0",
    "batch-1",
    "kernel-is-image",
    "padding-four-sides",
    "groups-2-everything",
    "depthwise-stride-2",
)

# What lies between the elements, and must lie there still after a result was written.
GAP = -77.0


def contiguous(shape: Shape, dtype: str) -> Array:
    return np.full(shape, GAP, dtype)


def fortran(shape: Shape, dtype: str) -> Array:
    return np.full(shape, GAP, dtype, order="F")


def channels_last(shape: Shape, dtype: str) -> Array:
    """NHWC in memory, NCHW to the eye (and the second axis last, whatever its meaning)."""
    if len(shape) == 1:
        return contiguous(shape, dtype)
    return np.moveaxis(np.full((shape[0], *shape[2:], shape[1]), GAP, dtype), -1, 1)


def columns_apart(shape: Shape, dtype: str) -> Array:
    return np.full((*shape[:-1], shape[-1] * 2), GAP, dtype)[..., ::2]


def rows_apart(shape: Shape, dtype: str) -> Array:
    """The left part of wider rows: contiguous along each row only."""
    return np.full((*shape[:-1], shape[-1] + 3), GAP, dtype)[..., : shape[-1]]


def images_apart(shape: Shape, dtype: str) -> Array:
    return np.full((shape[0] * 3, *shape[1:]), GAP, dtype)[1::3]


def mirrored(shape: Shape, dtype: str) -> Array:
    """Negative strides along every axis."""
    return np.full(shape, GAP, dtype)[(slice(None, None, -1),) * len(shape)]


def mirrored_columns_apart(shape: Shape, dtype: str) -> Array:
    return np.full((*shape[:-1], shape[-1] * 3), GAP, dtype)[..., ::-3]


def unaligned(shape: Shape, dtype: str) -> Array:
    """One byte off, as in the middle of a file that was read."""
    count = int(np.prod(shape))
    memory = bytearray(count * np.dtype(dtype).itemsize + 1)
    a = np.frombuffer(memory, dtype, offset=1, count=count).reshape(shape)
    a[...] = GAP
    return a


def odd_strides_of_axes_of_one(shape: Shape, dtype: str) -> Array:
    """Strides of axes with one element mean nothing, and NumPy lets them be anything."""
    a = contiguous(shape, dtype)
    return as_strided(
        a,
        strides=[
            12345 if extent == 1 else stride
            for extent, stride in zip(shape, a.strides, strict=True)
        ],
    )


LAYOUTS: list[Callable[[Shape, str], Array]] = [
    contiguous,
    fortran,
    channels_last,
    columns_apart,
    rows_apart,
    images_apart,
    mirrored,
    mirrored_columns_apart,
    unaligned,
    odd_strides_of_axes_of_one,
]

by_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)


def laid_out(a: Array, layout: Callable[[Shape, str], Array]) -> Array:
    """A read-only copy of ``a`` in another layout."""
    copy = layout(a.shape, a.dtype.name)
    copy[...] = a
    copy.setflags(write=False)
    return copy


def memory_of(a: Array) -> Array:
    """The array that ``a`` is a view of."""
    return a.base if isinstance(a.base, np.ndarray) else a


@by_layout
@by_algorithm
@by_pass
def test_inputs_in_any_layout(
    op: str, algorithm: str, layout: Callable[[Shape, str], Array], rng: random.Random
) -> None:
    for case in each(drawn(rng, CASES, 3)):
        call = call_of(case, op, "float64")
        operands = [laid_out(a, layout) for a in call.operands]
        before = [memory_of(a).tobytes() for a in operands]
        assert_close(run(op, case, tuple(operands), algorithm=algorithm), call.expected)
        assert [memory_of(a).tobytes() for a in operands] == before


@by_layout
@by_algorithm
@by_pass
def test_results_in_any_layout(
    op: str, algorithm: str, layout: Callable[[Shape, str], Array]
) -> None:
    for case in each(CASES):
        call = call_of(case, op, "float32")
        out = layout(call.expected.shape, "float32")
        # A NaN that is multiplied by zero, or never written over, shows.
        out[...] = np.nan
        assert run(op, case, call.operands, algorithm=algorithm, out=out) is out
        assert_close(out, call.expected)
        out[...] = GAP
        assert (memory_of(out) == GAP).all()


@by_layout
@by_algorithm
def test_bias_in_any_layout(algorithm: str, layout: Callable[[Shape, str], Array]) -> None:
    (case,) = named("groups-2-everything")
    x, w, bias, _ = data_of(case, "float32")
    y = run("forward", case, (x, w, laid_out(bias, layout)), algorithm=algorithm)
    np.testing.assert_array_equal(y, run("forward", case, (x, w, bias), algorithm=algorithm))


@pytest.mark.parametrize("axes", [(0,), (1,), (2, 3), (0, 1, 2, 3)], ids=str)
@by_algorithm
@by_pass
def test_broadcast_inputs(op: str, algorithm: str, axes: tuple[int, ...]) -> None:
    """Strides of zero: one image for a batch, one tap for a kernel."""
    for case in each(CASES):
        arrays = {}
        for name, a in data_of(case, "float32")._asdict().items():
            first = a[tuple(slice(1) if axis in axes else slice(None) for axis in range(a.ndim))]
            arrays[name] = np.broadcast_to(first, a.shape)
        call = call_on(op, case, arrays["x"], arrays["w"], arrays["dy"])
        assert_close(run(op, case, call.operands, algorithm=algorithm), call.expected)


@by_dtype
@by_algorithm
@pytest.mark.parametrize("given", [False, True], ids=["new", "out"])
@by_case(named("kernel-1x1", "batch-1", "groups-2-everything"))
@by_pass
def test_three_dimensions_are_a_batch_of_one(
    op: str, case: Case, given: bool, algorithm: str, dtype: str
) -> None:
    image = Case(case.name, (1, *case.x[1:]), case.w, *case.arguments)
    x, w, _, dy = data_of(image, dtype)
    call = call_on(op, image, x, w, dy)
    bare = Case(case.name, case.x[1:], case.w, *case.arguments)
    operands = operands_of(op, x[0], w, dy[0])
    expected = call.expected if op == "weight_grad" else call.expected[0]
    out = np.full(expected.shape, np.nan, dtype) if given else None
    result = run(op, bare, operands, algorithm=algorithm, out=out)
    assert_close(result, expected)
    assert out is None or result is out


@by_algorithm
@by_pass
def test_out_may_lie_between_the_elements_of_an_input(op: str, algorithm: str) -> None:
    # The same stretch of memory, no byte in common; with these extents all arrays have one shape.
    case = Case("interleaved", (4, 4, 1, 1), (4, 4, 1, 1))
    call = call_of(case, op, "float32")
    for lender in range(2):
        operands = list(call.operands)
        memory = np.full((4, 4, 1, 2), GAP, np.float32)
        memory[..., :1] = operands[lender]
        operands[lender], out = memory[..., :1], memory[..., 1:]
        assert run(op, case, tuple(operands), algorithm=algorithm, out=out) is out
        assert_close(out, call.expected)
        np.testing.assert_array_equal(memory[..., :1], call.operands[lender])


@by_pass
def test_result_is_a_new_array_each_time(op: str) -> None:
    (case,) = named("batch-1")
    call = call_of(case, op, "float32")
    first, second = (run(op, case, call.operands) for _ in range(2))
    assert not np.shares_memory(first, second)
    assert first.flags.writeable
