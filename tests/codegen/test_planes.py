"""Kernels over planes against numpy: depthwise convolution, pooling, planes and vectors.

All numbers are small integers, so that every bit must be right; operands lie between guard pages.
"""

from itertools import product

import numpy as np
import pytest

from lowerconv.codegen.depthwise import PlaneKernel
from lowerconv.codegen.depthwise_in_place import GradientInPlace, ResultsInPlace
from lowerconv.codegen.depthwise_small import SmallPlaneKernel
from lowerconv.codegen.pooling import PoolKernel
from lowerconv.codegen.signatures import ACTIVATE, ADD

from ..long import drawn
from .guarded_calls import DTYPES, HOST_ISAS, PLACES, Job, by_dtype, by_isa
from .tiles import compare, integers, untouched

MASKED = [isa for isa in HOST_ISAS if isa.masks]
by_masked = pytest.mark.parametrize("isa", MASKED, ids=[isa.name for isa in MASKED])
ONE = np.zeros(1, np.int64)


def reads(taps, H, W, P, Q, strides):
    """Return for each tap the items of the plane that pixels read, -1 outside it."""
    items = np.full((len(taps), P, Q), -1)
    for number, (_, row, column) in enumerate(taps):
        y = np.arange(P)[:, None] * strides[0] + row
        x = np.arange(Q) * strides[1] + column
        inside = (y >= 0) & (y < H) & (x >= 0) & (x < W)
        items[number] = np.where(inside, y * W + x, -1)
    return items


def window(size, strides, above, before):
    """Return taps of a window, as (number, row, column)."""
    places = product(range(size), repeat=2)
    return tuple((i, y - above, x - before) for i, (y, x) in enumerate(places))


def call_of(rng, kernel, taps, shape, strides, mode, *, gradient):
    """Return the arguments of a call on a whole plane, and what it must leave."""
    (H, W, P, Q), dtype = shape, kernel.dtype
    source, filters = integers(rng, H * W, dtype), integers(rng, len(taps), dtype)
    bias = integers(rng, 1, dtype)
    read = np.append(source, 0)[reads(taps, H, W, P, Q, strides)]
    geometry = np.array([Q, Q, W, H, Q, P], np.int64)
    if gradient:
        dy, VL = integers(rng, P * Q, dtype), kernel.isa.lanes(dtype)
        sums = (
            integers(rng, len(taps) * VL, dtype) if mode & ADD else untouched(len(taps) * VL, dtype)
        )
        total = (read * dy.reshape(P, Q)).sum(axis=(1, 2))
        if mode & ADD:
            total = total + sums.reshape(-1, VL).sum(axis=1)
        return [source, sums, bias, dy, 0, P, mode, geometry, ONE], total
    right = bias[0] + np.tensordot(filters, read, 1).ravel()
    out = integers(rng, P * Q, dtype) if mode & ADD else untouched(P * Q, dtype)
    right = right + out if mode & ADD else right
    right = np.maximum(right, 0) if mode & ACTIVATE else right
    return [source, filters, bias, out, 0, P, mode, geometry, ONE], right.astype(dtype)


def plane_jobs(rng, isa, dtype):
    """Return calls of every kernel, and what they must leave: sums of lanes, of gradients."""
    VL = isa.lanes(dtype)
    found = []
    for size, stride, gradient in product((1, 3, 5), (1, 2), (False, True)):
        for wide in (VL // 2 + 1, VL, 3 * VL + 1):
            H, W, before = rng.randint(size, 8), max(wide, size), size // 2
            P, Q = ((extent + 2 * before - size) // stride + 1 for extent in (H, W))
            taps = window(size, (stride, stride), before, before)
            shape, strides = (H, W, P, Q), (stride, stride)
            if isa.masks:
                kind = GradientInPlace if gradient else ResultsInPlace
                kernel = kind(isa, dtype, ((0, 0, taps),), *strides, 1, 1, rng.randint(1, 3))
                found.append((kernel, taps, shape, strides, gradient))
            if W <= VL and Q <= VL:
                widths = (None, None) if isa.masks else (W, Q)
                kernel = SmallPlaneKernel(
                    isa, dtype, taps, H, P, *widths, *strides, 1, rng.randint(1, 3), gradient
                )
                found.append((kernel, taps, shape, strides, gradient))
            if stride == 1:  # without padding: that is copied before
                shape = H, W, H - size + 1, W - size + 1
                taps = window(size, strides, 0, 0)
                places = tuple((tap, row * W + column) for tap, row, column in taps)
                rest, together = shape[-1] % VL, rng.randint(1, 3)
                kernel = PlaneKernel(isa, dtype, places, W, 1, rest, together, gradient)
                found.append((kernel, taps, shape, strides, gradient))
    return found


@by_dtype
@by_isa
def test_depthwise_planes(isa, dtype, rng):
    jobs, right, gradients = [], [], []
    for kernel, taps, shape, strides, gradient in drawn(rng, plane_jobs(rng, isa, dtype), 20):
        mode = rng.choice([0, ADD] if gradient else range(4))
        arguments, want = call_of(rng, kernel, taps, shape, strides, mode, gradient=gradient)
        for place in PLACES:
            name = f"{kernel} {shape} {mode=} {place}"
            job = Job(name, kernel, arguments, 1 if gradient else 3, place)
            (gradients if gradient else jobs).append(job)
            right.append((gradient, want))
    compare(jobs, [want for gradient, want in right if not gradient])
    compare(
        gradients,
        [want for gradient, want in right if gradient],
        change=lambda sums, want: sums.reshape(len(want), -1).sum(axis=1),
    )


@pytest.mark.skipif(not MASKED, reason="no instruction set here has masks")
@pytest.mark.parametrize("mean", [False, True], ids=["largest", "mean"])
@by_masked
def test_pooled_planes(isa, mean, rng):
    jobs, right = [], []
    for dtype, across, width in product(DTYPES, (1, 2), (1, 2, 3, 4)):
        kernel = PoolKernel(isa, dtype, width, across, mean)
        for wide in (isa.lanes(dtype) + 1, 4 * isa.lanes(dtype) + 3):
            height, down = rng.randint(1, 4), rng.randint(1, 3)
            above, before = rng.randint(0, height - 1), rng.randint(0, width - 1)
            H, W = rng.randint(height, 9), wide
            P, Q = (H + above - height) // down + 1, (W + before - width) // across + 1
            source = integers(rng, H * W, dtype)
            taps = [(0, y - above, x - before) for y in range(height) for x in range(width)]
            outside = 0 if mean else -np.inf
            read = np.append(source, outside)[reads(taps, H, W, P, Q, (down, across))]
            want = read.max(axis=0)
            if mean:
                scale = dtype.type(1) / dtype.type(height * width)
                want = read.sum(axis=0).astype(dtype) * scale
            out = untouched(P * Q, dtype)
            arguments = [source, H, W, above, before, height, down, out, P, Q]
            for place in PLACES:
                jobs.append(Job(f"{kernel} {H=} {W=} {place}", kernel, arguments, 7, place))
                right.append(want.astype(dtype).ravel())
    compare(jobs, right)


@by_dtype
@by_isa
def test_planes_become_vectors_and_these_planes(isa, dtype, rng):
    VL = isa.lanes(dtype)
    jobs, right = [], []
    for pixels, rows in product((1, VL - 1, VL, 2 * VL + 1), sorted({1, VL - 1, VL})):
        step = pixels + rng.choice([0, 3])
        planes = integers(rng, (rows - 1) * step + pixels, dtype)
        values = np.array([planes[i * step : i * step + pixels] for i in range(rows)])
        places = np.array(rng.sample(range(pixels), pixels), np.int32) * VL
        vectors = np.zeros((pixels, VL), dtype)
        vectors[places // VL, :rows] = values.T
        arguments = [planes, step, rows, pixels, places, untouched(pixels * VL, dtype)]
        kernel = ("planes_to_vectors_address", isa, dtype)
        back = ("vectors_to_planes_address", isa, dtype)
        bias, mode = integers(rng, VL, dtype), rng.randrange(4)
        lines = vectors.T[:rows] + bias[:rows, None]
        out = untouched((rows - 1) * step + pixels, dtype)
        before = integers(rng, out.size, dtype)
        if mode & ADD:
            out = before
        right_out = out.copy()
        for i, line in enumerate(lines):
            here = slice(i * step, i * step + pixels)
            line = line + before[here] if mode & ADD else line
            right_out[here] = np.maximum(line, 0) if mode & ACTIVATE else line
        turned = [vectors.ravel(), pixels, rows, out, step, bias, mode, ONE]
        for place in PLACES:
            name = f"{isa.name} {dtype} {pixels=} {rows=} {step=} {place}"
            jobs += [Job(name, kernel, arguments, 5, place), Job(name, back, turned, 3, place)]
            right += [vectors.ravel(), right_out]
    compare(jobs, right)
