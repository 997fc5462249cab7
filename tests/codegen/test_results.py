"""Register tiles whose sums become bytes, floats of them, or bf16: exactly, between guard pages."""

from dataclasses import fields, replace
from itertools import product

import numpy as np
import pytest

from lowerconv.codegen.dots import S8_S8, S8_U8, U8_S8, dot_of
from lowerconv.codegen.microkernel_bf16 import Bf16Microkernel
from lowerconv.codegen.microkernel_requantize import CONSTANTS, RequantizingMicrokernel
from lowerconv.codegen.signatures import ADD

from ..long import drawn
from .guarded_calls import EXTENDED, HOST_ISAS, PLACES, Job
from .tiles import STORES, compare, expected, operands, random_kernel, untouched, words_of

FLOAT = np.dtype(np.float32)
RANGES = {"u8": (0, 255), "s8": (-128, 127)}
STORED = ("u8", "s8", "float32")
# Of the extensions only those change anything here that multiply bytes.
BYTES = {
    isa.name: isa
    for isa in EXTENDED.values()
    if not isa.extensions or dot_of(isa, S8_U8) != dot_of(isa.extended(), S8_U8)
}
# Those of others store bf16 as these do; of fewer than 512 bits on x86-64 none are made for it.
BF16_ISAS = [isa for isa in HOST_ISAS if isa.masks or isa.triple == "aarch64"]


def as_stored(kernel, kind, **more):
    """Return a kernel whose results are stored beside each other, as one of another kind."""
    plain = replace(kernel, result_rows=(), pixel_step=1)
    own = {field.name: getattr(plain, field.name) for field in fields(plain)}
    return plain, kind(**own, **more)


def stored_places(kernel, arguments):
    """Return the sums of every filter, and where they would be stored, -1 where none is."""
    everything = kernel.MR if kernel.store == "rows" else kernel.NV * kernel.isa.lanes(FLOAT)
    k, vectors, broadcasts, table, _, out_step, bias, _, _, own, _ = arguments
    marked = untouched(everything * out_step, kernel.dtype)
    call = [k, vectors, broadcasts, table, marked, out_step, bias, everything, 0, own, 0]
    return expected(kernel, *call).reshape(everything, out_step)


def scaled(sums, scales, shifts):
    return sums.astype(np.float32) * scales[:, None] + shifts[:, None]


def requantized(rng, kernel, number):
    """Return the arguments of a call, and what it must store."""
    plain, own = kernel
    valid = rng.randint(1, 8) if plain.store == "columns" else plain.MR
    k = (0, 1, 2, 37)[number % 4]
    arguments = operands(rng, plain, k, valid, 0)
    sums = stored_places(plain, arguments)
    there = (sums != untouched(1, plain.dtype)[0])[0]
    filters, step = sums.shape
    spread = max(1.0, float(abs(sums[:, there]).max(initial=0)) / 200)
    draw = np.random.default_rng(rng.randrange(2**32))
    # Halves of integers, ties among them, or anything.
    scales = np.full(filters, 0.5) if number % 2 else draw.uniform(0.2, 2, filters) / spread
    shifts = draw.integers(-60, 60, filters) / 2
    scales, shifts = scales.astype(np.float32), shifts.astype(np.float32)
    y = scaled(sums, scales, shifts)
    record = np.zeros(1, CONSTANTS)
    words = -(-min(valid, filters) // 4)
    residual = draw.integers(0, 256, (words, step, 4)).astype(np.uint8)
    if own.result == "float32":
        low, high = np.sort(draw.uniform(-100, 100, 2)).astype(np.float32)
        record["low"], record["high"] = (x.view(np.uint32) for x in (low, high))
        y = np.where(y > low, y, low)
        right = np.where(there, np.where(y < high, y, high), np.nan).astype(np.float32)[:valid]
        last = there.nonzero()[0].max() + 1
    else:
        signed = own.result == "s8"
        low, high = RANGES[own.result]
        low, high = sorted((rng.randint(low, high), rng.randint(low, high)))
        zero, factor = rng.randint(0, 255), np.float32(rng.uniform(0.1, 1))
        record["low"], record["high"] = ((x & 255) * 0x01010101 for x in (low, high))
        record["scale"], record["zero"] = factor, zero
        record["signs"] = 0x80808080 if signed else 0
        right = np.full((words, step, 4), 0, np.uint8)
        for f in range(min(4 * words, filters, valid)):
            total = y[f]
            if own.residual:
                byte = residual[f // 4, :, f % 4] ^ (0x80 if signed else 0)
                total = total + (byte.astype(np.int32) - zero).astype(np.float32) * factor
            right[f // 4, :, f % 4] = np.clip(np.rint(total), low, high).astype(np.int64) & 255
        right = right.view(np.int32).reshape(words, step)
        right = np.where(there, right, untouched(1, np.dtype(np.int32))[0])
        last = there.nonzero()[0].max() + 1
    size = (len(right) - 1) * step + int(last)
    kind = FLOAT if own.result == "float32" else np.dtype(np.int32)
    out = untouched(size, kind)
    residual = residual.view(np.int32).ravel()[:size].astype(np.int32)
    k, vectors, broadcasts, table, _, step, bias, _, _, geometry, _ = arguments
    call = [k, vectors, broadcasts, table, out, step, bias, valid, scales, shifts]
    numbers = record.view(np.int32)
    return [*call, residual, geometry, numbers], right.ravel()[:size]


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("isa", BYTES.values(), ids=BYTES)
def test_sums_become_bytes_or_floats(isa, store, rng):
    jobs, right = [], []
    choices = list(product(STORED, (False, True), ((1, 1), (4, 2), (5, 1), (rng.randint(6, 9), 2))))
    for result, residual, tile in drawn(rng, choices, 9):
        if residual and result == "float32":
            continue
        words = rng.choice([S8_U8, U8_S8, S8_S8])
        lanes = {"pixel_step": 1}
        plain = random_kernel(rng, isa, words.sums, *tile, store, words, **lanes)
        kernel = as_stored(plain, RequantizingMicrokernel, result=result, residual=residual)
        for number in range(4):
            arguments, want = requantized(rng, kernel, number)
            for place in PLACES:
                name = f"{kernel[1]} {number=} {place}"
                jobs.append(Job(name, kernel[1], arguments, 4, place))
                right.append(want)
    compare(jobs, right)


@pytest.mark.parametrize("isa", BF16_ISAS, ids=[isa.name for isa in BF16_ISAS])
def test_sums_become_bf16(isa, rng):
    jobs, right = [], []
    for store, tile, number in product(STORES, ((1, 1), (3, 2), (5, 1)), range(4)):
        plain = random_kernel(rng, isa, FLOAT, *tile, store, pixel_step=1)
        plain, kernel = as_stored(plain, Bf16Microkernel)
        mode = number
        everything = plain.MR if store == "rows" else plain.NV * isa.lanes(FLOAT)
        valid = rng.randint(1, everything)
        arguments = operands(rng, plain, (0, 1, 2, 100)[number], valid, mode)
        before = arguments[4] * (17 if mode & ADD else 1)
        codes = words_of(np.resize(before, 2 * before.size), "bf16").view(np.uint16)[: before.size]
        arguments[4] = (codes.astype(np.uint32) << 16).view(np.float32)
        want = expected(plain, *arguments)
        want = words_of(np.resize(want, 2 * want.size), "bf16").view(np.uint16)[: want.size]
        arguments[4] = codes.view(np.float16)
        for place in PLACES:
            jobs.append(Job(f"{kernel} {mode=} {place}", kernel, arguments, 4, place))
            right.append(want.view(np.float16))
    compare(jobs, right)
