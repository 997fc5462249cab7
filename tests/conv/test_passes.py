"""All three passes against the reference: each edge and block size, each algorithm, each dtype."""

import random

import numpy as np
import pytest

from ..long import drawn
from .cases import (
    BLOCKS,
    EDGES,
    Case,
    assert_close,
    by_algorithm,
    by_case,
    by_dtype,
    by_pass,
    call_of,
    data_of,
    each,
    expected_of,
    named,
    operands_of,
    run,
)


@by_dtype
@by_algorithm
@by_pass
def test_result_is_right(op: str, algorithm: str, dtype: str, rng: random.Random) -> None:
    """Of many cases: in each run nearly all are met, by one algorithm, pass or dtype or another."""
    for case in each(drawn(rng, EDGES + BLOCKS, 40)):
        call = call_of(case, op, dtype)
        result = run(op, case, call.operands, algorithm=algorithm)
        assert result.dtype == np.dtype(dtype)
        assert_close(result, call.expected)


@by_algorithm
@by_case(named("stride-leaves-rows-unread", "stride-leaves-columns-unread", "stride-beyond-image"))
def test_gradient_of_unread_pixels_is_zero(case: Case, algorithm: str) -> None:
    call = call_of(case, "input_grad", "float32")
    ones = [np.ones(shape) for shape in (case.x, case.w, case.y)]
    unread = expected_of("input_grad", case, *ones) == 0
    assert unread.any()
    # Memory that held something else: the zeros must have been written.
    out = np.full(case.x, np.nan, np.float32)
    run("input_grad", case, call.operands, algorithm=algorithm, out=out)
    assert (out[unread] == 0).all()


@by_algorithm
def test_weight_gradient_of_an_empty_batch_is_zero(algorithm: str) -> None:
    (case,) = named("batch-0")
    operands = call_of(case, "weight_grad", "float32").operands
    out = np.full(case.w, np.nan, np.float32)
    run("weight_grad", case, operands, algorithm=algorithm, out=out)
    assert (out == 0).all()


# Where one entry that is not finite would leak to its neighbours, were a tile, a panel, a group or
# a phase laid out wrongly.
LEAKY = named(
    "kernel-1x1",
    "kernel-is-image",
    "stride-leaves-rows-unread",
    "stride-2-kernel-1x1",
    "padding-four-sides-stride-2",
    "padding-beyond-kernel",
    "dilation-and-stride",
    "groups-2-everything",
    "depthwise-multiplier-3",
    "pixels-33",
    "tiles-65x63-batch-2",
    "partial-everywhere-groups-3",
    "small-maps-batch-17-stride-2",
)


@pytest.mark.parametrize("value", [np.nan, -np.inf], ids=["nan", "inf"])
@by_algorithm
@by_pass
def test_one_entry_not_finite_reaches_exactly_what_reads_it(
    op: str, algorithm: str, value: float, rng: random.Random
) -> None:
    for case in each(drawn(rng, LEAKY, 3)):
        check_one_entry(op, case, algorithm, value)


def check_one_entry(op: str, case: Case, algorithm: str, value: float) -> None:
    x, w, _, dy = data_of(case, "float64")
    # The entry sits in x or dy: a kernel's would meet the zeros of the padding, and whether
    # anybody multiplies by those is an implementation's own affair.
    name = "dy" if op == "input_grad" else "x"
    image = {"x": x, "dy": dy}[name]
    for entry in (0, image.size // 2, image.size - 1):
        bad, clean, mark = image.copy(), image.copy(), np.zeros_like(image)
        bad.flat[entry], clean.flat[entry], mark.flat[entry] = value, 0, 1
        arrays = {"x": x, "w": w, "dy": dy}
        # What each result has of the bad entry: nothing, or one product with a number of some sign.
        share = expected_of(op, case, **(arrays | {name: mark}))
        expected = expected_of(op, case, **(arrays | {name: clean}))

        result = run(op, case, operands_of(op, **(arrays | {name: bad})), algorithm=algorithm)

        assert np.array_equal(np.isfinite(result), share == 0)
        reached = result[share != 0]
        if np.isnan(value):
            assert np.isnan(reached).all()
        else:
            assert np.array_equal(reached, value * np.sign(share[share != 0]))
        assert_close(np.where(share == 0, result, 0), np.where(share == 0, expected, 0))
