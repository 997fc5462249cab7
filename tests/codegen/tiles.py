"""Random register tiles, their operands, and what they must compute, by the definition."""

import numpy as np

from lowerconv.codegen.microkernel import Microkernel
from lowerconv.codegen.signatures import ACTIVATE, ADD

from .guarded_calls import PLACES, Job, call

STORES = ("rows", "columns")
BYTES = {"s8": np.int8, "u8": np.uint8}


def words_of(values, holds):
    """Return words of bf16 or f16, two of the values in each; bf16 is rounded to nearest even."""
    if holds == "f16":
        return np.asarray(values, np.float16).view(np.uint32)
    values = np.asarray(values, np.float32)
    bits = values.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16
    codes = np.where(np.isnan(values), bits >> 16 | 0x40, rounded)
    return codes.astype(np.uint16).view(np.uint32)


def numbers(words, holds):
    """Return the numbers of each word as float64: a row for each; `holds` None: an item is one."""
    if holds is None:
        return words.astype(float)[:, None]
    if holds == "bf16":
        items = (words.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        items = words.view(BYTES.get(holds, np.float16))
    with np.errstate(invalid="ignore"):  # signalling NaN
        return items.astype(float).reshape(words.size, -1)


def lanes_of(kernel, tail):
    """Return how many lanes of each vector exist, `tail` of the last one of a row of pixels."""
    VL = kernel.isa.lanes(kernel.dtype)
    lanes = kernel.lanes or (VL,) * kernel.NV
    return [tail if last else count for count, last in zip(lanes, kernel.tails, strict=True)]


def places_of(kernel, row, out_row):
    """Return where vectors are read and, in a row of the result, stored."""
    VL = kernel.isa.lanes(kernel.dtype)
    rows = np.array(kernel.pixel_rows or (0,) * kernel.NV)
    spots = kernel.vector_places or range(
        0, kernel.NV * VL * kernel.pixel_step, VL * kernel.pixel_step
    )
    return np.array(kernel.columns) + rows * row, np.array(spots) + rows * out_row


def expected(kernel, k, vectors, broadcasts, table, out, out_step, bias, valid, mode, own, _):
    """What `out` must hold after the call, by the definition."""
    VL = kernel.isa.lanes(kernel.dtype)
    lanes = lanes_of(kernel, own[0])
    columns, spots = places_of(kernel, *own[1:3])
    holds = kernel.words or (None, None)
    vectors, broadcasts = numbers(vectors, holds[0]), numbers(broadcasts, holds[1])
    sums = np.zeros((kernel.MR, kernel.NV * VL))
    sums += bias[:, None] if kernel.store == "rows" else bias
    entries = table.reshape(-1, max(1, kernel.table_columns))
    for step in range(k):
        at = entries[step, 0] if kernel.vector_step is None else step * kernel.vector_step
        row = np.zeros((kernel.NV * VL, vectors.shape[1]))
        for v, (column, count) in enumerate(zip(columns, lanes, strict=True)):
            row[v * VL : v * VL + count] = vectors[at + column : at + column + count]
        at = entries[step, -1] if kernel.broadcast_step is None else step * kernel.broadcast_step
        sums += broadcasts[at + np.array(kernel.rows)] @ row.T
    result = out.astype(float)

    def put(place, value):
        value = value + result[place] if mode & ADD else value
        result[place] = 0 if mode & ACTIVATE and value < 0 else value

    if kernel.store == "rows":
        for i in range(min(kernel.MR, valid)):
            row = (kernel.result_rows[i] if kernel.result_rows else i) * out_step
            for v, count in enumerate(lanes):
                for j in range(count):
                    put(row + spots[v] + j * kernel.pixel_step, sums[i, v * VL + j])
    else:
        for lane in range(min(kernel.NV * VL, valid)):
            for i in range(kernel.MR):
                put(lane * out_step + i * kernel.pixel_step, sums[i, lane])
    return result.astype(kernel.dtype)


def random_kernel(rng, isa, dtype, MR, NV, store, words=None, **chosen):
    """A specification with everything drawn that is not chosen."""
    VL = isa.lanes(dtype)
    pixel_step = chosen.get("pixel_step", rng.choice([1, 1, 2, 3]))
    lanes = result_rows = vector_places = pixel_rows = ()
    tail = store == "rows" and isa.masks and "lanes" not in chosen and rng.random() < 0.5
    tail = chosen.get("tail", tail)
    if store == "rows":
        lanes = rng.choice([(), tuple(rng.randint(1, VL) for _ in range(NV))]) if not tail else ()
        pixel_rows = rng.choice([(), tuple(v // 2 for v in range(NV))])
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
        prefetch_pixels=rng.choice([0, 64]), result_rows=result_rows, vector_places=vector_places,
        words=words, tail=tail, pixel_rows=pixel_rows,
    )  # fmt: skip


def integers(rng, size, holds, most=4):
    """Numbers of a dtype, or words of what they hold: bytes of any value, the others small."""
    if holds in BYTES:
        codes = np.array([rng.randrange(256) for _ in range(4 * size)], np.uint8)
        extremes = (0, 1, 127, 128, 255)
        codes[:] = [rng.choice(extremes) if rng.random() < 0.2 else code for code in codes]
        return codes.view(np.uint32)
    if isinstance(holds, np.dtype):
        return np.array([rng.randint(-most, most) for _ in range(size)], holds)
    return words_of([rng.randint(-most, most) for _ in range(2 * size)], holds)


def untouched(size, dtype):
    """What memory holds that is only written."""
    return np.full(size, 0x7FC0DEAD if dtype.kind == "i" else np.nan, dtype)


def operands(rng, kernel, k, valid, mode):
    """Arguments of a call; each array ends where the last read or write must end."""
    VL, dtype = kernel.isa.lanes(kernel.dtype), kernel.dtype
    offsets = [rng.randint(0, 40) for _ in range(k * kernel.table_columns)]
    entries = np.array(offsets, np.int32).reshape(k, kernel.table_columns)
    row = rng.randint(0, 60)
    out_row = (max(kernel.vector_places, default=0) + kernel.NV * VL * kernel.pixel_step) * 2
    own = np.array([rng.randint(1, VL), row, out_row], np.int64)
    lanes, (columns, spots) = lanes_of(kernel, own[0]), places_of(kernel, row, out_row)

    def reach(step, column):
        last = entries[:, column].max(initial=0) if step is None else max(0, k - 1) * step
        return int(last) + 1

    wide = int(max(column + count for column, count in zip(columns, lanes, strict=True)))
    holds = kernel.words or (dtype, dtype)
    vectors = integers(rng, wide + reach(kernel.vector_step, 0) - 1, holds[0])
    broadcasts = integers(rng, max(kernel.rows) + reach(kernel.broadcast_step, -1), holds[1])
    table = entries.ravel() if kernel.table_columns and k else np.zeros(2, np.int32)
    step = kernel.pixel_step
    if kernel.store == "rows":
        both = zip(spots, lanes, strict=True)
        ends = [int(spot + (count - 1) * step + 1) for spot, count in both]
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
    out = integers(rng, size, dtype, 20) if mode & ADD else untouched(size, dtype)
    return [k, vectors, broadcasts, table, out, out_step, bias, valid, mode, own, 0]


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


def compare(jobs, right, change=None):
    """Run jobs and compare; `change` makes of a result what is compared."""
    for job, result, want in zip(jobs, call(jobs), right, strict=True):
        result = change(result, want) if change else result
        np.testing.assert_array_equal(result, want, err_msg=job.name)
