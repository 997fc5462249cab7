"""Kernels of codes in words against plain NumPy: all are exact, on any number of threads."""

import numpy as np
import pytest

from lowerconv.nn.pooling import AvgPool2d, GlobalAvgPool2d, MaxPool2d
from lowerconv.ops.codes import (
    add_codes,
    avg_pool_codes,
    look_up_codes,
    max_pool_codes,
    set_channels,
)
from lowerconv.ops.images import Images
from lowerconv.ops.quantize import bytes_of, pack_words, unpack_words
from lowerconv.ops.response_norm import Window
from lowerconv.ops.response_norm_codes import response_norm_codes
from lowerconv.quant.params import QuantParams
from lowerconv.quant.qdq import dequantized, quantized
from lowerconv.runtime.threads import parallel_region
from tests.quant.integers import codes_of, rounded, words_of

SEED = 16
SHAPES = [(1, 3, 5, 7), (2, 8, 1, 1), (3, 5, 4, 9), (1, 1, 70, 67)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
kinds = pytest.mark.parametrize("dtype", [np.uint8, np.int8], ids=["u8", "s8"])
threads = pytest.mark.parametrize("workers", [1, 3])
GAP = 5  # words between images


def run(kernel, workers, *arguments):
    with parallel_region(workers) as team:
        kernel(team, *arguments)


def images(array):
    """Return an array as images with something else between them, and the memory of all."""
    N, *rest = array.shape
    C, H, W = (*rest, 1, 1)[:3]
    step = C * H * W + GAP
    memory = np.full(N * step, 77, array.dtype)
    for n in range(N):
        memory[n * step : n * step + C * H * W] = array[n].reshape(-1)
    return Images(memory, step, N, C, H, W), memory


def result(given, shape):
    """Return the images of a result; what is between them must be as it was."""
    flat, step, N, C, H, W = given
    rows = flat[: N * step].reshape(N, step)
    assert np.all(rows[:, C * H * W :] == 77)
    return rows[:, : C * H * W].reshape(shape)


def codes(rng, shape, dtype):
    return rng.integers(0, 256, shape).astype(np.uint8).view(dtype)


def params(rng, dtype):
    signed = dtype == np.int8
    zero = int(rng.integers(-128, 128) if signed else rng.integers(0, 256))
    return QuantParams.of(float(rng.uniform(0.01, 0.2)), zero, signed)


@threads
@kinds
@shapes
def test_numbers_become_codes_and_codes_numbers(shape, dtype, workers):
    rng = np.random.default_rng(SEED)
    p = params(rng, dtype)
    x = (30 * rng.standard_normal(shape)).astype(np.float32)
    x.reshape(-1)[:5] = [np.inf, -np.inf, np.nan, -0.0, 1e-42][: x.size]
    halves = (np.arange(min(20, x.size)) - 10.5) * np.float32(p.scale)  # ties, up to rounding
    x.reshape(-1)[-halves.size :] = halves[: x.size]
    N, C, H, W = shape
    given, _ = images(x)
    target, _ = images(np.zeros((N, -(-C // 4), H, W), np.uint32))
    run(pack_words, workers, tuple(given), tuple(target), p.numbers(x.dtype))
    words = result(target, (N, -(-C // 4), H, W))
    expected = quantized(x, p)
    assert np.array_equal(codes_of(words, C, dtype), expected)

    back, _ = images(np.zeros(shape, np.float32))
    scale, zero, *_ = p.numbers(x.dtype)
    run(unpack_words, workers, tuple(target), tuple(back), (scale, zero, p.signed))
    assert np.array_equal(result(back, shape), dequantized(expected, p))


@threads
@kinds
@shapes
def test_bytes_are_packed_and_unpacked(shape, dtype, workers):
    q = codes(np.random.default_rng(SEED), shape, dtype)
    N, C, H, W = shape
    given, _ = images(q)
    target, _ = images(np.zeros((N, -(-C // 4), H, W), np.uint32))
    run(pack_words, workers, tuple(given), tuple(target), None)
    assert np.array_equal(codes_of(result(target, (N, -(-C // 4), H, W)), C, dtype), q)
    back, _ = images(np.zeros(shape, dtype))
    run(unpack_words, workers, tuple(target), tuple(back), None)
    assert np.array_equal(result(back, shape), q)


def words(rng, q):
    given, _ = images(words_of(q, rng))
    return given


@threads
@shapes
def test_sums_of_codes(shape, workers):
    rng = np.random.default_rng(SEED)
    a, b = codes(rng, shape, np.int8), codes(rng, shape, np.uint8)
    scales = (np.float32(-7), np.float32(0.37)), (np.float32(9), np.float32(1.3))
    rounding = np.float32(100), np.float32(90), np.float32(250)
    y, _ = images(words_of(np.zeros(shape, np.uint8)))
    operands = bytes_of(words(rng, a), True), bytes_of(words(rng, b), False)
    run(add_codes, workers, *operands, bytes_of(y, False), scales, rounding)
    parts = [
        (q.astype(np.float32) - zero) * scale
        for q, (zero, scale) in zip((a, b), scales, strict=True)
    ]
    expected = rounded(parts[0] + parts[1], *map(int, rounding), np.uint8)
    N, C, H, W = shape
    assert np.array_equal(codes_of(result(y, (N, -(-C // 4), H, W)), C, np.uint8), expected)


@threads
@shapes
def test_functions_of_codes(shape, workers):
    rng = np.random.default_rng(SEED)
    q, table = codes(rng, shape, np.uint8), codes(rng, 256, np.uint8)
    given = words(rng, q)
    both = bytes_of(given, False)
    run(look_up_codes, workers, both, both, table)  # in place
    N, C, H, W = shape
    assert np.array_equal(codes_of(result(given, (N, -(-C // 4), H, W)), C, np.uint8), table[q])


POOLS = [
    (3, 2, 1, False),
    (2, 2, 0, False),
    (3, 1, 1, False),
    ((2, 3), (3, 2), (1, 0), True),
    (3, 3, 0, True),
    ((1, 4), (1, 3), (0, 2), False),
]
pools = pytest.mark.parametrize("geometry", POOLS, ids=str)


def padded_windows(q, pool, outside):
    """Yield the codes of each window as (p, q, codes), those outside of the image left out."""
    _, _, H, W = q.shape
    (R, S), (down, right), (top, left) = pool.size, pool.stride, pool.padding
    _, _, P, Q = pool.result_shape(q.shape)
    for p in range(P):
        for c in range(Q):
            h, w = p * down - top, c * right - left
            inside = q[:, :, max(0, h) : min(H, h + R), max(0, w) : min(W, w + S)]
            area = (min(h + R, H + top) - h) * (min(w + S, W + left) - w)
            yield p, c, inside, area


@threads
@kinds
@pools
def test_largest_codes_of_windows(geometry, dtype, workers):
    rng = np.random.default_rng(SEED)
    pool = MaxPool2d(*geometry)
    for shape in [(2, 5, 7, 9), (1, 4, 8, 6)]:
        q = codes(rng, shape, dtype)
        N, C, P, Q = pool.result_shape(shape)
        expected = np.zeros((N, C, P, Q), dtype)
        for p, c, inside, _ in padded_windows(q, pool, None):
            expected[:, :, p, c] = inside.max(axis=(2, 3))
        y, _ = images(words_of(expected * 0))
        signed = dtype == np.int8
        windows = tuple(pool._windows(shape))
        run(max_pool_codes, workers, bytes_of(words(rng, q), signed), bytes_of(y, signed), windows)
        found = codes_of(result(y, (N, -(-C // 4), P, Q)), C, dtype)
        assert np.array_equal(found, expected)


@threads
@pytest.mark.parametrize("include", [True, False])
@pools
def test_means_of_codes_of_windows(geometry, include, workers):
    rng = np.random.default_rng(SEED)
    pool = AvgPool2d(*geometry, count_include_pad=include)
    means(rng, pool, (2, 5, 7, 9), workers)


def means(rng, pool, shape, workers):
    q = codes(rng, shape, np.int8)
    zero, scale = np.float32(-11), np.float32(1.7)
    rounding = np.float32(120), np.float32(3), np.float32(255)
    N, C, P, Q = pool.result_shape(shape)
    sums = np.zeros((N, C, P, Q), np.float32)
    if isinstance(pool, GlobalAvgPool2d):
        total = (q.astype(np.int64) - int(zero)).sum(axis=(2, 3), keepdims=True)
        sums[:] = total.astype(np.float32) * (scale / np.float32(shape[2] * shape[3]))
    else:
        for p, c, inside, area in padded_windows(q, pool, None):
            count = area if pool.count_include_pad else inside[0, 0].size
            total = (inside.astype(np.int64) - int(zero)).sum(axis=(2, 3))
            sums[:, :, p, c] = total.astype(np.float32) * (scale / np.float32(count))
    expected = rounded(sums, *map(int, rounding), np.uint8)
    y, _ = images(words_of(expected * 0))
    x, windows = bytes_of(words(rng, q), True), tuple(pool._windows(shape))
    more = windows, pool.count_include_pad, (zero, scale), rounding
    run(avg_pool_codes, workers, x, bytes_of(y, False), *more)
    assert np.array_equal(codes_of(result(y, (N, -(-C // 4), P, Q)), C, np.uint8), expected)


@threads
def test_means_of_whole_images(workers):
    means(np.random.default_rng(SEED), GlobalAvgPool2d(), (3, 6, 5, 11), workers)


@threads
@kinds
@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_response_norm_of_codes(size, dtype, workers):
    """Within a code's half and what rounding of float32 adds to it."""
    rng = np.random.default_rng(SEED + size)
    for shape in [(2, 5, 7, 9), (1, 4, 8, 6), (3, 11, 1, 1), (1, 3, 30, 41)]:
        q, x = codes(rng, shape, dtype), params(rng, dtype)
        window = Window(size, rng.uniform(0.1, 2), rng.choice([0.5, 0.75, 1, 1.3]), 1.5)
        values = x.scale * (q.astype(np.float64) - x.zero_point)
        N, C, H, W = shape
        around = np.zeros((N, C + size - 1, H, W))
        around[:, size // 2 : size // 2 + C] = values**2
        total = sum(around[:, i : i + C] for i in range(size))
        exact = values / (window.k + window.alpha / size * total) ** window.beta
        steps, rounding = np.float32(100 / abs(exact).max()), (120.0, 3.0, 250.0)
        exact = np.clip(exact * steps + 120, 3, 250)
        y, _ = images(words_of(np.zeros(shape, np.uint8)))
        given = bytes_of(words(rng, q), dtype == np.int8), bytes_of(y, False)
        numbers = np.float32(x.zero_point), np.float32(x.scale)
        more = tuple(window), C, numbers, steps, tuple(map(np.float32, rounding))
        run(response_norm_codes, workers, *given, *more)
        found = codes_of(result(y, (N, -(-C // 4), H, W)), C, np.uint8)
        assert abs(found - exact).max() <= 0.501


@threads
def test_channels_are_set_wherever_they_are_in_a_word(workers):
    rng = np.random.default_rng(SEED)
    parts = [codes(rng, (2, C, 3, 5), np.uint8) for C in (3, 6, 1, 4)]
    y, _ = images(words_of(np.zeros((2, 14, 3, 5), np.uint8)))
    begin = 0
    for part in parts:
        pair = bytes_of(words(rng, part), False), bytes_of(y, False)
        run(set_channels, workers, *pair, part.shape[1], begin)
        begin += part.shape[1]
    found = codes_of(result(y, (2, 4, 3, 5)), 14, np.uint8)
    assert np.array_equal(found, np.concatenate(parts, axis=1))
