"""Register tiles against numpy: every shape, feed and store, between guard pages.

All numbers are small integers, so that sums are exact in any order and every bit must be right.
"""

import random
from itertools import product

import numpy as np
import pytest

from lowerconv.codegen.microkernel import Microkernel
from lowerconv.codegen.signatures import ACTIVATE, ADD

from .guarded_calls import DTYPES, PLACES, Job, by_isa, call

STORES = ("rows", "columns")


def expected(kernel, k, vectors, broadcasts, table, out, out_step, bias, valid, mode):
    """What `out` must hold after the call, by the definition."""
    VL = kernel.isa.lanes(kernel.dtype)
    lanes = kernel.lanes or (VL,) * kernel.NV
    sums = np.zeros((kernel.MR, kernel.NV * VL))
    sums += bias[:, None] if kernel.store == "rows" else bias
    entries = table.reshape(-1, max(1, kernel.table_columns))
    for step in range(k):
        at = entries[step, 0] if kernel.vector_step is None else step * kernel.vector_step
        row = np.zeros(kernel.NV * VL)
        for v, (column, count) in enumerate(zip(kernel.columns, lanes, strict=True)):
            row[v * VL : v * VL + count] = vectors[at + column : at + column + count]
        at = entries[step, -1] if kernel.broadcast_step is None else step * kernel.broadcast_step
        sums += broadcasts[at + np.array(kernel.rows)][:, None] * row
    result = out.astype(float)

    def put(place, value):
        value = value + result[place] if mode & ADD else value
        result[place] = 0 if mode & ACTIVATE and value < 0 else value

    if kernel.store == "rows":
        for i in range(min(kernel.MR, valid)):
            row = (kernel.result_rows[i] if kernel.result_rows else i) * out_step
            for v, count in enumerate(lanes):
                places = kernel.vector_places
                begin = places[v] if places else v * VL * kernel.pixel_step
                for j in range(count):
                    put(row + begin + j * kernel.pixel_step, sums[i, v * VL + j])
    else:
        for lane in range(min(kernel.NV * VL, valid)):
            for i in range(kernel.MR):
                put(lane * out_step + i * kernel.pixel_step, sums[i, lane])
    return result.astype(kernel.dtype)


def random_kernel(rng, isa, dtype, MR, NV, store, **chosen):
    """A specification with everything drawn that is not chosen."""
    VL = isa.lanes(dtype)
    pixel_step = chosen.get("pixel_step", rng.choice([1, 1, 2, 3]))
    lanes = result_rows = vector_places = ()
    if store == "rows":
        lanes = rng.choice([(), tuple(rng.randint(1, VL) for _ in range(NV))])
        if rng.random() < 0.5:
            result_rows = tuple(rng.sample(range(2 * MR), MR))
        if rng.random() < 0.5:  # in another order, with gaps
            apart = VL * pixel_step + rng.choice([0, 3])
            vector_places = tuple(i * apart for i in rng.sample(range(NV), NV))
    panel = tuple(v * VL for v in range(NV))
    spread = tuple(rng.randint(0, 60) for _ in range(NV))
    return Microkernel(
        isa, dtype,
        rows=rng.choice([tuple(range(MR)), tuple(rng.randint(0, 60) for _ in range(MR))]),
        columns=rng.choice([panel, spread]),
        broadcast_step=chosen.get("broadcast_step", rng.choice([None, 0, 1, 7, MR])),
        vector_step=chosen.get("vector_step", rng.choice([None, 0, 1, NV * VL])),
        store=store, lanes=chosen.get("lanes", lanes), pixel_step=pixel_step,
        ahead=rng.choice([0, 64]), result_rows=result_rows, vector_places=vector_places,
    )  # fmt: skip


def integers(rng, size, dtype, most=4):
    return np.array([rng.randint(-most, most) for _ in range(size)], dtype)


def operands(rng, kernel, k, valid, mode):
    """Arguments of a call; each array ends where the last read or write must end."""
    VL, dtype = kernel.isa.lanes(kernel.dtype), kernel.dtype
    offsets = [rng.randint(0, 40) for _ in range(k * kernel.table_columns)]
    entries = np.array(offsets, np.int32).reshape(k, kernel.table_columns)
    lanes = kernel.lanes or (VL,) * kernel.NV

    def reach(step, column):
        last = entries[:, column].max(initial=0) if step is None else max(0, k - 1) * step
        return int(last) + 1

    wide = max(column + count for column, count in zip(kernel.columns, lanes, strict=True))
    vectors = integers(rng, wide + reach(kernel.vector_step, 0) - 1, dtype)
    broadcasts = integers(rng, max(kernel.rows) + reach(kernel.broadcast_step, -1), dtype)
    table = entries.ravel() if kernel.table_columns and k else np.zeros(2, np.int32)
    step = kernel.pixel_step
    if kernel.store == "rows":
        spots = kernel.vector_places or tuple(v * VL * step for v in range(kernel.NV))
        ends = [spot + (count - 1) * step + 1 for spot, count in zip(spots, lanes, strict=True)]
        out_step = max(ends) + rng.choice([0, 5])
        places = kernel.result_rows or tuple(range(kernel.MR))
        size = max(places[:valid], default=0) * out_step + max(ends)
        bias = integers(rng, kernel.MR, dtype, 20)
    else:
        width = (kernel.MR - 1) * step + 1
        out_step = width + rng.choice([0, 5])
        size = (min(kernel.NV * VL, max(1, valid)) - 1) * out_step + width
        bias = integers(rng, kernel.NV * VL, dtype, 20)
    # Memory that is only written must not be read, nor may its gaps be written.
    out = integers(rng, size, dtype, 20) if mode & ADD else np.full(size, np.nan, dtype)
    return [k, vectors, broadcasts, table, out, out_step, bias, valid, mode]


def check(rng, kernels, calls):
    """Call each kernel several times, with k, `valid` and the mode drawn, in every place."""
    jobs, right = [], []
    for kernel in kernels:
        everything = (
            kernel.MR if kernel.store == "rows" else kernel.NV * kernel.isa.lanes(kernel.dtype)
        )
        first = rng.randrange(4)
        for number in range(calls):
            k = (0, 1, 2, 37)[number] if number < 4 else rng.choice([3, 8, 100])
            mode = (first + number) % 4
            valid = everything if rng.random() < 0.5 else rng.randint(0, everything)
            arguments = operands(rng, kernel, k, valid, mode)
            result = expected(kernel, *arguments)
            for place in PLACES:
                jobs.append(
                    Job(f"{kernel} {k=} {valid=} {mode=} {place}", kernel, arguments, 4, place)
                )
                right.append(result)
    compare(jobs, right)


def compare(jobs, right):
    for job, result, want in zip(jobs, call(jobs), right, strict=True):
        np.testing.assert_array_equal(result, want, err_msg=job.name)


@pytest.fixture
def rng():
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.mark.parametrize("store", STORES)
@by_isa
def test_every_small_tile(isa, store, rng):
    """Everything else about the tiles is drawn."""
    most = isa.rows if isa.registers >= 32 else isa.rows + 1  # a few spill, and are right
    tiles = [(MR, NV) for MR in (1, 2, 3, 4, most) for NV in (1, 2, 3)]
    tiles += [(2 * isa.rows - 2, 1), (2, 5), (1, 8)]
    kernels = [random_kernel(rng, isa, dtype, *tile, store) for dtype in DTYPES for tile in tiles]
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
    for step in sorted({1, 2, 3, 4, VL + 2}):
        for count in sorted({VL // 2 + 1, VL}):
            lanes = (count, rng.randint(1, VL))
            kernels.append(
                random_kernel(rng, isa, dtype, 1, 2, "rows", pixel_step=step, lanes=lanes)
            )
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
        arguments = [1, vectors, broadcasts, table, out, step, bias, valid, mode]
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
