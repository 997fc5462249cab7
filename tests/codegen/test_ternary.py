"""Sums of pixels that masks of weights select, and how pixels are widened, between guard pages."""

from itertools import product

import numpy as np

from lowerconv.codegen.ternary import BITS, PAIRS_MAX, PIXEL, WORD, TernaryKernel, WideningKernel

from .guarded_calls import PLACES, Job, by_isa, call


def masks_of(weights):
    """Return pairs of masks, a row for each 64 weights."""
    planes = [np.packbits(weights == sign, bitorder="little").view("<u8") for sign in (1, -1)]
    return np.stack(planes, axis=-1).astype(np.uint64).view(np.int64)


@by_isa
def test_sums(isa, rng):
    draw = np.random.default_rng(rng.randrange(2**32))
    jobs, right = [], []
    for NV in (1, 2, 3, 8):
        size = NV * isa.lanes(PIXEL)
        for number, share in enumerate((0.27, 0.27, 0.02, 0.5, 0)):
            pairs = number % PAIRS_MAX + 1
            weights = draw.choice([-1, 0, 1], pairs * BITS, p=[share, 1 - 2 * share, share])
            pixels = draw.integers(-128, 128, size + 40).astype(PIXEL)
            places = draw.integers(0, 41, pairs * BITS)
            places[:2] = 0, 40
            begin = draw.integers(-(2**30), 2**30, size).astype(np.int32)
            selected = pixels[places[:, None] + np.arange(size)].astype(np.int64)
            start, add = rng.randint(-(2**20), 2**20), number % 2
            offsets = (places * PIXEL.itemsize).astype(np.int32)
            for place in PLACES:
                arguments = [pixels, offsets, masks_of(weights), pairs, begin, add, start]
                name = f"{isa.name} {NV=} {pairs=} {share=} {add=} {place}"
                jobs.append(Job(name, TernaryKernel(isa, NV), arguments, 4, place))
                right.append(weights @ selected + (begin if add else start))
    for job, result, want in zip(jobs, call(jobs), right, strict=True):
        np.testing.assert_array_equal(result, want, err_msg=job.name)


@by_isa
def test_sums_of_16_bits_do_not_overflow(isa):
    size, count = isa.lanes(PIXEL), PAIRS_MAX * BITS
    offsets, ends = np.zeros(count, np.int32), list(product((-128, 127), (-1, 1)))
    jobs = []
    for value, weight in ends:
        pixels, sums = np.full(size, value, PIXEL), np.zeros(size, np.int32)
        arguments = [pixels, offsets, masks_of(np.full(count, weight)), PAIRS_MAX, sums, 1, 0]
        kernel, name = TernaryKernel(isa, 1), f"{isa.name} {value=} {weight=}"
        jobs.append(Job(name, kernel, arguments, 4, PLACES[-1]))
    for result, (value, weight) in zip(call(jobs), ends, strict=True):
        assert (result == value * weight * count).all()


@by_isa
def test_bytes_are_widened(isa, rng):
    """Nothing behind the last pixel is read; what is written there does not count."""
    draw = np.random.default_rng(rng.randrange(2**32))
    jobs, right, VL = [], [], isa.lanes(WORD)
    counts = 1, 2, VL - 1, VL, VL + 1, 3 * VL, 5 * VL + 2
    for stride, pixels, flip, place in product((1, 2, 3, 5), counts, (0, 128), PLACES):
        words = draw.integers(0, 2**32, (pixels - 1) * stride + 1, np.uint32)
        step = pixels + VL + rng.randint(0, 3)
        target = np.full(4 * step, 7777, PIXEL)
        read = np.ascontiguousarray(words[::stride])
        arguments = [words, pixels, target, step * PIXEL.itemsize, flip]
        name = f"{isa.name} {stride=} {pixels=} {flip=} {place}"
        jobs.append(Job(name, WideningKernel(isa, stride), arguments, 2, place))
        right.append((read.view(np.uint8).reshape(-1, 4).T.astype(int) ^ flip) - 128)
    for job, result, want in zip(jobs, call(jobs), right, strict=True):
        rows = result.reshape(4, -1)
        np.testing.assert_array_equal(rows[:, : want.shape[1]], want, err_msg=job.name)
