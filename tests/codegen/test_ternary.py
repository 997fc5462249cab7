"""Sums of pixels that masks of weights select, and how pixels are widened, between guard pages."""

import numpy as np
import pytest

from lowerconv.codegen.ternary import BITS, PIXEL, WORD, WORDS_MOST, TernaryKernel, WideningKernel

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
            words = number % WORDS_MOST + 1
            weights = draw.choice([-1, 0, 1], words * BITS, p=[share, 1 - 2 * share, share])
            pixels = draw.integers(-128, 128, size + 40).astype(PIXEL)
            places = draw.integers(0, 41, words * BITS)
            places[:2] = 0, 40
            begin = draw.integers(-(2**30), 2**30, size).astype(np.int32)
            selected = pixels[places[:, None] + np.arange(size)].astype(np.int64)
            start, add = rng.randint(-(2**20), 2**20), number % 2
            offsets = (places * PIXEL.itemsize).astype(np.int32)
            for place in PLACES:
                arguments = [pixels, offsets, masks_of(weights), words, begin, add, start]
                name = f"{isa.name} {NV=} {words=} {share=} {add=} {place}"
                jobs.append(Job(name, TernaryKernel(isa, NV), arguments, 4, place))
                right.append(weights @ selected + (begin if add else start))
    for job, result, want in zip(jobs, call(jobs), right, strict=True):
        np.testing.assert_array_equal(result, want, err_msg=job.name)


@by_isa
@pytest.mark.parametrize("value", [-128, 127])
@pytest.mark.parametrize("weight", [-1, 1])
def test_sums_of_16_bits_do_not_overflow(isa, value, weight):
    size, count = isa.lanes(PIXEL), WORDS_MOST * BITS
    pixels, sums = np.full(size, value, PIXEL), np.zeros(size, np.int32)
    masks = masks_of(np.full(count, weight))
    arguments = [pixels, np.zeros(count, np.int32), masks, WORDS_MOST, sums, 1, 0]
    (result,) = call([Job(f"{isa.name}", TernaryKernel(isa, 1), arguments, 4, PLACES[-1])])
    assert (result == value * weight * count).all()


@by_isa
@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_bytes_are_widened(isa, stride, rng):
    """Nothing behind the last pixel is read; what is written there does not count."""
    draw = np.random.default_rng(rng.randrange(2**32))
    jobs, right, VL = [], [], isa.lanes(WORD)
    for pixels in (1, 2, VL - 1, VL, VL + 1, 3 * VL, 5 * VL + 2):
        for flip in (0, 128):
            words = draw.integers(0, 2**32, (pixels - 1) * stride + 1, np.uint32)
            step = pixels + VL + rng.randint(0, 3)
            target = np.full(4 * step, 7777, PIXEL)
            bytes_ = (
                np.ascontiguousarray(words[::stride]).view(np.uint8).reshape(-1, 4).T.astype(int)
                ^ flip
            )
            for place in PLACES:
                arguments = [words, pixels, target, step * PIXEL.itemsize, flip]
                name = f"{isa.name} {stride=} {pixels=} {flip=} {place}"
                jobs.append(Job(name, WideningKernel(isa, stride), arguments, 2, place))
                right.append(bytes_ - 128)
    for job, result, want in zip(jobs, call(jobs), right, strict=True):
        rows = result.reshape(4, -1)
        np.testing.assert_array_equal(rows[:, : want.shape[1]], want, err_msg=job.name)
