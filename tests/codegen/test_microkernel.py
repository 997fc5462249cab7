"""Register tiles against numpy: every shape, feed and store, between guard pages.

All numbers are small integers, so that sums are exact in any order and every bit must be right.
"""

from itertools import product

import numpy as np
import pytest

from lowerconv.codegen.microkernel import Microkernel
from lowerconv.codegen.signatures import ACTIVATE, ADD

from ..long import drawn
from .guarded_calls import DTYPES, PLACES, Job, by_isa
from .tiles import STORES, check, compare, expected, operands, random_kernel


@pytest.mark.parametrize("store", STORES)
@by_isa
def test_every_small_tile(isa, store, rng):
    """Everything else about the tiles is drawn."""
    most = isa.rows if isa.registers >= 32 else isa.rows + 1  # a few spill, and are right
    tiles = [(MR, NV) for MR in (1, 2, 3, 4, most) for NV in (1, 2, 3)]
    tiles += [(2 * isa.rows - 2, 1), (2, 5), (1, 8)]
    kernels = [
        random_kernel(rng, isa, dtype, *tile, store)
        for dtype in DTYPES
        for tile in drawn(rng, tiles, 7)
    ]
    check(rng, kernels, calls=5)


@by_isa
def test_every_feed(isa, rng):
    choices = product(DTYPES, STORES, (None, 5), (None, 3))
    kernels = [
        random_kernel(rng, isa, dtype, 3, 2, store, broadcast_step=broadcast, vector_step=vector)
        for dtype, store, broadcast, vector in choices
    ]
    check(rng, kernels, calls=5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@by_isa
def test_every_number_of_lanes_and_step_of_pixels(isa, dtype, rng):
    """Up to steps that are longer than a vector."""
    VL = isa.lanes(dtype)
    kernels = []
    for step in drawn(rng, sorted({1, 2, 3, 4, VL + 2}), 2):
        for count in sorted({VL // 2 + 1, VL}):
            lanes = (count, rng.randint(1, VL))
            kernels.append(
                random_kernel(rng, isa, dtype, 1, 2, "rows", pixel_step=step, lanes=lanes)
            )
        if isa.masks:
            kernels.append(random_kernel(rng, isa, dtype, 1, 2, "rows", pixel_step=step, tail=True))
        for MR in (VL // 2, VL + 1):
            kernels.append(random_kernel(rng, isa, dtype, MR, 1, "columns", pixel_step=step))
    check(rng, kernels, calls=4)


@by_isa
def test_every_number_of_valid_rows_or_filters(isa, rng):
    jobs, right = [], []
    for dtype, store in product(DTYPES, STORES):
        NR = 2 * isa.lanes(dtype)
        kernel = random_kernel(rng, isa, dtype, 5, 2, store)
        for valid in range((5 if store == "rows" else NR) + 2):  # more than there are: all
            for mode in range(4):
                arguments = operands(rng, kernel, 3, valid, mode)
                jobs.append(Job(f"{kernel} {valid=} {mode=}", kernel, arguments, 4, PLACES[-1]))
                right.append(expected(kernel, *arguments))
    compare(jobs, right)


SPECIAL = [np.nan, -np.inf, np.inf, -1.0, -0.0, 0.0, 1.0, -1e-30]


@by_isa
def test_values_that_are_not_ordinary(isa):
    jobs, right = [], []
    for dtype, store, mode in product(DTYPES, STORES, range(4)):
        VL = isa.lanes(dtype)
        NV = -(-len(SPECIAL) // VL)
        columns = tuple(v * VL for v in range(NV))
        kernel = Microkernel(isa, dtype, (0, 1), columns, 2, NV * VL, store)
        vectors = np.resize(np.array(SPECIAL, dtype), NV * VL)
        broadcasts = np.array([1, 2], dtype)
        before = np.broadcast_to(np.array([[3], [np.nan]], dtype), (2, NV * VL))
        want = broadcasts[:, None] * vectors
        if mode & ADD:
            want = want + before
        if mode & ACTIVATE:
            want = np.where(want < 0, 0, want)  # and so NaN stays what it is
        turn = np.transpose if store == "columns" else np.asarray
        out = np.array(turn(before), order="C").ravel()
        bias = np.full(2 if store == "rows" else NV * VL, -0.0, dtype)
        step, valid = (NV * VL, 2) if store == "rows" else (2, NV * VL)
        table = np.zeros(1, np.int32)
        arguments = [1, vectors, broadcasts, table, out, step, bias, valid, mode, 0, 0]
        jobs.append(Job(f"{kernel} {mode=}", kernel, arguments, 4, PLACES[0]))
        right.append(turn(want).ravel())
    compare(jobs, right)


@by_isa
def test_kernels_that_differ_in_a_word_do_not_share_code(isa):
    addresses = [
        Microkernel(isa, dtype, (0,), (0,), 1, 1, store).address()
        for dtype, store in product(DTYPES, STORES)
    ]
    assert len(set(addresses)) == len(addresses)
