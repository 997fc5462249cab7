"""The copies of the fused engine against numpy, between guard pages."""

from itertools import product

import numpy as np
import pytest

from lowerconv.codegen.isa import ISAS
from lowerconv.codegen.packing import slack

from ..long import LONG
from .guarded_calls import DTYPES, PLACES, Job, by_isa, call
from .tiles import untouched


def numbers(rng, size, dtype):
    """Arrays without zeros, so that those of the padding are told apart."""
    return np.array([rng.choice([-1, 1]) * rng.randint(1, 9999) for _ in range(size)], dtype)


def compare(jobs, right):
    """Run the jobs; where `right` is infinite anything may stand."""
    for job, result, want in zip(jobs, call(jobs), right, strict=True):
        checked = ~np.isinf(want)
        np.testing.assert_array_equal(result[checked], want[checked], err_msg=job.name)


def padded(source, source_pitch, H, W, first, rows, left, pitch, step, value=0):
    """Rows of a plane with `value` around; columns of equal remainder by `step` together."""
    plane = np.full((rows, pitch), value, float)
    for i in range(rows):
        if 0 <= first + i < H:
            begin = (first + i) * source_pitch
            plane[i, left : left + W] = source[begin : begin + W]
    return plane.reshape(rows, pitch // step, step).transpose(0, 2, 1).ravel()


@pytest.mark.parametrize("step", [1, 2, 3, 4])
@by_isa
def test_pad(isa, step, rng):
    jobs, right = [], []
    for dtype in (*DTYPES, np.dtype("int32")):
        VL = isa.lanes(dtype)
        around = [1, 2, VL - 1, VL, VL + 1, 2 * VL, 3 * VL + 1, step * VL, step * VL + 1]
        for number in range(80 if LONG else 30):
            W = rng.choice(around) if number % 2 else rng.randint(1, 5 * VL)
            H, source_pitch = rng.randint(1, 4), W + rng.choice([0, 0, 1, 5])
            left = step * rng.choice([0, 1, 2, VL, VL + 1])
            room = W if step == 1 else -(-W // (step * VL)) * step * VL  # segments of whole vectors
            pitch = left + room + step * rng.choice([0, 0, 1, 2, VL, 2 * VL + 1])
            # All rows, some of them, and some that only the padding has.
            first, rows = rng.randint(-3, H + 1), rng.randint(0, H + 4)
            source = numbers(rng, (H - 1) * source_pitch + W, dtype)
            value = np.array(rng.choice([0, 0, -7]), dtype)
            target = untouched(rows * pitch + slack(isa, dtype), dtype)
            want = np.full(len(target), np.inf)  # the slack may be written, what follows may not
            want[: rows * pitch] = padded(
                source, source_pitch, H, W, first, rows, left, pitch, step, value
            )
            bits = int(value.view(f"i{dtype.itemsize}"))
            sizes = [source_pitch, H, W, first, rows, left]
            for place in PLACES:
                kernel = ("pad_address", isa, dtype, step)
                arguments = [source, *sizes, target, pitch, bits]
                name = f"pad {isa.name} {dtype} {step=} {sizes} {pitch=} {place}"
                jobs.append(Job(name, kernel, arguments, 7, place))
                right.append(want)
    compare(jobs, right)


@by_isa
def test_pad_packs_filters_narrower_than_a_vector(isa, rng):
    """As panels of 1x1 filters are packed: rows one after the other, each as short as a panel."""
    jobs, right = [], []
    for dtype in DTYPES:
        for width in range(1, 2 * isa.lanes(dtype) + 2):
            valid, channels = rng.randint(1, width), rng.randint(1, 5)
            results = valid + rng.choice([0, 3])
            source = numbers(rng, (channels - 1) * results + valid, dtype)
            target = np.full(channels * width + slack(isa, dtype), np.nan, dtype)
            want = np.full(len(target), np.inf)
            want[: channels * width] = padded(
                source, results, channels, valid, 0, channels, 0, width, 1
            )
            arguments = [source, results, channels, valid, 0, channels, 0, target, width, 0]
            name = f"pad {isa.name} {dtype} {width=} {valid=} {channels=} {results=}"
            jobs.append(Job(name, ("pad_address", isa, dtype, 1), arguments, 7, PLACES[-1]))
            right.append(want)
    compare(jobs, right)


@by_isa
def test_transpose(isa, rng):
    """Nothing beside the lanes asked for is written, not even slack."""
    jobs, right = [], []
    for dtype in DTYPES:
        VL = isa.lanes(dtype)
        for number in range(120 if LONG else 40):
            lanes = VL if number % 2 else rng.randint(1, VL)
            rows = lanes if number % 3 else rng.randint(1, lanes)
            columns = rng.choice([1, VL - 1 or 1, VL, VL + 1, 2 * VL, rng.randint(1, 70)])
            source_step = columns + rng.choice([0, 0, 1, 7])
            target_step = lanes + rng.choice([0, 0, 1, VL])
            source = numbers(rng, (rows - 1) * source_step + columns, dtype)
            target = np.full((columns - 1) * target_step + lanes, np.nan, dtype)
            want = target.copy()
            for j in range(columns):
                column = source[j : j + (rows - 1) * source_step + 1 : source_step]
                want[j * target_step : j * target_step + lanes] = 0
                want[j * target_step : j * target_step + rows] = column
            sizes = [source_step, rows, columns]
            for place in PLACES:
                arguments = [source, *sizes, target, target_step, lanes]
                name = f"transpose {isa.name} {dtype} {sizes} {target_step=} {lanes=} {place}"
                jobs.append(Job(name, ("transpose_address", isa, dtype), arguments, 4, place))
                right.append(want)
    compare(jobs, right)


@by_isa
def test_transpose_taps(isa, rng):
    jobs, right = [], []
    for dtype, taps in product(DTYPES, (1, 2, 9, 16, 17, 25)):
        VL = isa.lanes(dtype)
        for number in range(12):
            lanes = VL if number % 2 else rng.randint(1, VL)
            rows = lanes if number % 3 else rng.randint(1, lanes)
            channels, width = rng.randint(0, 5), lanes + rng.choice([0, 0, 3, VL])
            # Filters of one channel are neighbours, those beyond the rows another panel's.
            source_step = rows * taps + rng.choice([0, 0, taps, 4])
            target_step = taps * width + rng.choice([0, 0, 2])
            source = numbers(rng, max(0, channels - 1) * source_step + rows * taps, dtype)
            size = max(0, channels - 1) * target_step + (taps - 1) * width + lanes
            target = np.full(size, np.nan, dtype)
            want = target.copy()
            for channel in range(channels):
                for tap in range(taps):
                    begin = channel * target_step + tap * width
                    filters = source[channel * source_step + tap :][: (rows - 1) * taps + 1]
                    want[begin : begin + lanes] = 0
                    want[begin : begin + rows] = filters[::taps]
            for place in PLACES:
                sizes = [source_step, rows, channels]
                arguments = [source, *sizes, target, target_step, width, lanes]
                name = (
                    f"transpose_taps {isa.name} {dtype} {taps=} {sizes} {width=} {lanes=} {place}"
                )
                jobs.append(
                    Job(name, ("transpose_taps_address", isa, dtype, taps), arguments, 4, place)
                )
                right.append(want)
    compare(jobs, right)


@by_isa
def test_sum_lanes(isa, rng):
    jobs, right = [], []
    for dtype in DTYPES:
        VL = isa.lanes(dtype)
        for count in (0, 1, 2, VL - 1, VL, VL + 1, 5 * VL, 41):
            vectors = numbers(rng, max(1, count) * VL, dtype)
            want = np.full(max(1, count), np.nan)
            want[:count] = vectors.reshape(-1, VL).sum(axis=1)[:count]
            for place in PLACES:
                arguments = [vectors, count, np.full(len(want), np.nan, dtype)]
                name = f"sum_lanes {isa.name} {dtype} {count=} {place}"
                jobs.append(Job(name, ("sum_lanes_address", isa, dtype), arguments, 2, place))
                right.append(want)
    compare(jobs, right)


@by_isa
def test_prefetch_reads_nothing(isa):
    """Not even where there is no memory: it is only asked for."""
    there = np.ones(16, np.float32)
    arguments = [there, 3, 2**40 + 8, 5]
    job = Job("prefetch", ("prefetch_address", isa, there.dtype), arguments, 0, PLACES[-1])
    np.testing.assert_array_equal(call([job])[0], there)


def test_slack_covers_a_vector():
    for isa in ISAS.values():
        for dtype in DTYPES:
            assert slack(isa, dtype) >= isa.lanes(dtype) - 1
