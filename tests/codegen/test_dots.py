"""Register tiles of words: integers bit for bit, floating point exactly or within bounds.

As in ``test_microkernel.py``, and with the same helpers, between guard pages: bytes are of any
value, and numbers of bf16 and f16 are small integers, so that every bit must be right, unless a
test says otherwise.
"""

from itertools import product

import numpy as np
import pytest

from lowerconv.codegen.activation import RELU, Activation
from lowerconv.codegen.dots import BF16, F16, S8_S8, S8_U8, U8_S8, WORDS, Words, dot_of
from lowerconv.codegen.isa import ISAS
from lowerconv.codegen.microkernel import Microkernel, rows_max
from lowerconv.codegen.signatures import ADD

from ..long import drawn
from .bfdot import bfdot, has_bfdot
from .guarded_calls import EXTENDED, PLACES, Job, call
from .tiles import STORES, check, compare, expected, numbers, operands, random_kernel, words_of

HALVES = (BF16, F16)
INTEGERS = (S8_U8, U8_S8, S8_S8)

by_isa = pytest.mark.parametrize("isa", EXTENDED.values(), ids=EXTENDED)
by_isa_and_words = pytest.mark.parametrize(  # without those that extensions change nothing for
    ("isa", "words"),
    [
        pytest.param(isa, words, id=f"{isa.name}-{'-'.join(words)}")
        for isa, words in product(EXTENDED.values(), WORDS)
        if not isa.extensions or dot_of(isa, words) != dot_of(isa.extended(), words)
    ],
)


def flushes(isa, words):
    """Whether an instruction takes denormal numbers as zeros."""
    return words == BF16 and any("bf16" in name for name in isa.extensions)


@by_isa_and_words
def test_small_tiles_and_the_largest(isa, words, rng):
    """Everything else about the tiles is drawn."""
    most = [(rows, NV) for NV in (1, 2, 3) if (rows := rows_max(isa, NV, words))]
    tiles = [(tile, store) for tile in ((1, 1), most[-1]) for store in STORES]
    tiles += [((rng.randint(2, 5), rng.randint(1, 3)), store) for store in STORES]
    tiles += [(tile, rng.choice(STORES)) for tile in most[:-1]]
    tiles += [((most[-1][0] + 2, most[-1][1]), rng.choice(STORES))]  # may spill, and is right
    kernels = [
        random_kernel(rng, isa, words.sums, *tile, store, words)
        for tile, store in drawn(rng, tiles, 3)
    ]
    check(rng, kernels, calls=5)


@pytest.mark.long
@by_isa_and_words
def test_every_tile(isa, words, rng):
    tiles = [(MR, NV) for NV in (1, 2, 3, 4, 6) for MR in range(1, rows_max(isa, NV, words) + 1)]
    for store in STORES:
        kernels = [random_kernel(rng, isa, words.sums, *tile, store, words) for tile in tiles]
        check(rng, kernels, calls=4)


@pytest.mark.parametrize("words", [F16, U8_S8], ids="-".join)
@by_isa
def test_every_feed(isa, words, rng):
    choices = product(STORES, (None, 5), (None, 3))
    kernels = [
        random_kernel(
            rng, isa, words.sums, 3, 2, store, words, broadcast_step=broadcast, vector_step=vector
        )
        for store, broadcast, vector in drawn(rng, choices, 3)
    ]
    check(rng, kernels, calls=5)


@pytest.mark.parametrize("words", [BF16, S8_S8], ids="-".join)
@by_isa
def test_every_number_of_lanes_and_step_of_pixels(isa, words, rng):
    VL = isa.lanes(words.sums)
    rows = [(1, 2, "rows", {"lanes": (count, rng.randint(1, VL))}) for count in {VL // 2 + 1, VL}]
    columns = [(MR, 1, "columns", {}) for MR in (VL // 2, VL + 1)]
    kernels = [
        random_kernel(rng, isa, words.sums, *tile, store, words, pixel_step=step, **lanes)
        for step in drawn(rng, (1, 2, VL + 2), 2)
        for *tile, store, lanes in drawn(rng, rows, 1) + drawn(rng, columns, 1)
    ]
    check(rng, kernels, calls=4)


@pytest.mark.parametrize("words", [BF16, S8_U8], ids="-".join)
@by_isa
def test_every_number_of_valid_rows_or_filters(isa, words, rng):
    jobs, right = [], []
    for store in STORES:
        kernel = random_kernel(rng, isa, words.sums, 5, 2, store, words)
        for valid in range((5 if store == "rows" else 2 * isa.lanes(words.sums)) + 2):
            for mode in range(4):
                arguments = operands(rng, kernel, 3, valid, mode)
                jobs.append(Job(f"{kernel} {valid=} {mode=}", kernel, arguments, 4, PLACES[-1]))
                right.append(expected(kernel, *arguments))
    compare(jobs, right)


def product_of(isa, words, vectors, broadcasts, bias=None, out=None):
    """Return the call of a tile ``broadcasts @ vectors``, of words, whatever the length of vectors.

    Parameters
    ----------
    vectors : ndarray of uint32, (k, lanes)
    broadcasts : ndarray of uint32, (k, rows)
    bias : ndarray, (rows,)
        What the sums start from; zeros by default.
    out : ndarray, (rows, lanes)
        What is added to.
    """
    (k, lanes), rows = vectors.shape, broadcasts.shape[1]
    columns = tuple(range(0, lanes, isa.lanes(words.sums)))
    kernel = Microkernel(
        isa, words.sums, tuple(range(rows)), columns, rows, lanes, "rows", words=words
    )
    bias = np.zeros(rows, words.sums) if bias is None else bias
    mode = 0 if out is None else ADD
    out = np.zeros((rows, lanes), words.sums) if out is None else out
    table = np.zeros(2, np.int32)
    arguments = [k, vectors.ravel(), broadcasts.ravel(), table, out.ravel(), lanes, bias]
    return Job(f"{kernel} {k=}", kernel, [*arguments, rows, mode, 0, 0], 4, PLACES[0])


ISAS_HERE = tuple(EXTENDED.values())


def word(*numbers):
    return int(np.array(numbers, np.int64).astype(np.uint8).view(np.uint32)[0])


@pytest.mark.parametrize("words", INTEGERS, ids="-".join)
def test_extremes_of_bytes_do_not_saturate(words):
    """Every pair of extremes, alone in a word, beside others, and in all four places of it."""
    kinds = {"s8": (-128, -127, -1, 0, 1, 127), "u8": (0, 1, 127, 128, 254, 255)}
    most = {"s8": -128, "u8": 255}

    def column(kind):
        patterns = [[x] * 4 for x in kinds[kind]]
        patterns += [[most[kind] if i == place else 0 for i in range(4)] for place in range(4)]
        patterns += [[127, most[kind]] * 2, [most[kind], most[kind], 0, 127]]
        return np.array([word(*pattern) for pattern in patterns], np.uint32)

    vectors = np.resize(column(words.vector), 16)
    broadcasts = column(words.broadcast)
    one = numbers(broadcasts, words.broadcast) @ numbers(vectors, words.vector).T
    jobs, right = [], []
    for isa, k in product(ISAS_HERE, (1, 2, 1000)):
        a, b = np.tile(vectors, (k, 1)), np.tile(broadcasts, (k, 1))
        jobs.append(product_of(isa, words, a, b))
        right.append((k * one).astype(np.int64).ravel())
        assert np.abs(right[-1]).max() < 2**31
    compare(jobs, right)


@pytest.mark.parametrize("words", INTEGERS, ids="-".join)
def test_integers_wrap_around(words):
    """Sums that leave int32 are right but for a multiple of 2**32."""
    ones, most = word(1, 1, 1, 1), word(-128, -128, -128, -128)  # 128 as u8
    vectors, broadcasts = np.full((3, 16), ones, np.uint32), np.full((3, 2), most, np.uint32)
    each = int((numbers(broadcasts, words.broadcast) @ np.ones(4)).ravel()[0])
    start = np.array([2**31 - 1, -(2**31)], np.int32)
    want = np.repeat((start.astype(np.int64) + 3 * each).astype(np.int32), 16)
    jobs = [product_of(isa, words, vectors, broadcasts, start) for isa in ISAS_HERE]
    compare(jobs, [want] * len(jobs))


def random_halves(rng, words, shape, low=-8, high=8):
    """Return words of numbers of all those binary orders of magnitude."""
    values = rng.standard_normal((*shape[:-1], 2 * shape[-1])) * 2.0 ** rng.integers(
        low, high, (*shape[:-1], 2 * shape[-1])
    )
    return words_of(values, words.vector).reshape(shape)


@pytest.mark.parametrize("words", HALVES, ids="-".join)
def test_sums_are_within_the_bounds_of_rounding(words, rng):
    """``|error| <= n u / (1 - n u) sum |a| |b|``: n additions, each rounded to 24 bits.

    After N. J. Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1.  Arm's bfdot
    rounds to odd: twice the unit.
    """
    seed = rng.randrange(2**32)
    print(f"seed of numpy {seed}")
    draw = np.random.default_rng(seed)
    jobs, exact, bounds = [], [], []
    for isa, k in product(ISAS_HERE, (1, 7, 300)):
        vectors = random_halves(draw, words, (k, 16))
        broadcasts = random_halves(draw, words, (k, 3))
        bias, out = draw.standard_normal(3), draw.standard_normal((3, 16))
        bias, out = bias.astype(np.float32), out.astype(np.float32)
        jobs.append(product_of(isa, words, vectors, broadcasts, bias, out))
        a = numbers(vectors.ravel(), words.vector).reshape(k, 16, 2)
        b = numbers(broadcasts.ravel(), words.broadcast).reshape(k, 3, 2)
        exact.append(np.einsum("kvi,kbi->bv", a, b) + bias[:, None] + out)
        sizes = np.einsum("kvi,kbi->bv", abs(a), abs(b)) + abs(bias)[:, None] + abs(out)
        n = (2 * k + 1) * 2.0 ** (-23 if has_bfdot(isa) else -24)
        bounds.append(n / (1 - n) * sizes)
    for job, got, want, bound in zip(jobs, call(jobs), exact, bounds, strict=True):
        assert (abs(got.reshape(want.shape) - want) <= bound).all(), job.name
        assert (got.reshape(want.shape) != want).any()  # numbers that need rounding were drawn


@pytest.mark.parametrize("words", HALVES, ids="-".join)
def test_all_instruction_sets_give_the_same_bits(words, rng):
    """Without dot products of the hardware, and those too that round as two multiply-adds do."""
    seed = rng.randrange(2**32)
    print(f"seed of numpy {seed}")
    draw = np.random.default_rng(seed)
    vectors, broadcasts = random_halves(draw, words, (50, 16)), random_halves(draw, words, (50, 3))
    isas = [isa for isa in EXTENDED.values() if isa.triple != "aarch64" or not isa.extensions]
    results = call([product_of(isa, words, vectors, broadcasts) for isa in isas])
    for isa, result in zip(isas[1:], results[1:], strict=True):
        np.testing.assert_array_equal(result, results[0], err_msg=f"{isa.name}, {isas[0].name}")


def codes(words):
    """Every sign and exponent with some mantissas: zeros, denormals, infinities, NaN among them."""
    mantissa = 7 if words == BF16 else 10
    tops = np.arange(2 ** (16 - mantissa)) << mantissa
    top = 2**mantissa
    bottoms = np.array([0, 1, 3, top // 2 - 1, top // 2, top // 2 + 5, top - 2, top - 1])
    return (tops[:, None] | bottoms).astype(np.uint32).ravel()


@pytest.mark.parametrize("words", HALVES, ids="-".join)
def test_numbers_that_are_not_ordinary(words):
    """One times each, in the first and in the second place; NaN and infinity are as in float32."""
    every = codes(words)
    jobs, right = [], []
    one = int(words_of([1, 0], words.vector)[0])
    for isa, shift in product(ISAS_HERE, (0, 16)):
        value = numbers(every, words.vector)[:, 0]
        if flushes(isa, words):
            value = np.where(abs(value) < 2.0**-126, 0, value)
        for start in range(0, every.size, 128):
            some = (every[start : start + 128] << shift).reshape(1, -1)
            jobs.append(product_of(isa, words, some, np.array([[one << shift]], np.uint32)))
            right.append(value[start : start + 128])  # all are float32's
    compare(jobs, right)


SPECIAL = [np.nan, -np.inf, np.inf, -1.0, -0.0, 0.0, 1.0, 3e-5]


@pytest.mark.parametrize("words", HALVES, ids="-".join)
def test_products_that_are_not_ordinary(words):
    """Infinity times zero, infinities that meet, in both places of a word."""
    values = np.ravel(list(product(SPECIAL, repeat=2)))
    vectors = words_of(values, words.vector).reshape(1, -1)
    broadcasts = vectors[:, ::7]
    a, b = numbers(vectors.ravel(), words.vector), numbers(broadcasts.ravel(), words.vector)
    want = np.zeros((len(b), len(a)), np.float32)
    added = bfdot(want, b[:, None], a)
    with np.errstate(invalid="ignore"):
        for i in (1, 0):
            want = (b[:, None, i] * a[:, i] + want).astype(np.float32)
    jobs = [product_of(isa, words, vectors, broadcasts) for isa in ISAS_HERE]
    right = [added if words == BF16 and has_bfdot(isa) else want for isa in ISAS_HERE]
    compare(jobs, [values.ravel() for values in right])


@pytest.mark.skipif(not any(map(has_bfdot, ISAS_HERE)), reason="no instruction set has bfdot")
def test_sums_of_bfdot_bit_for_bit(rng):
    """Rounded to odd, and denormal ones made zeros, as Arm says."""
    seed = rng.randrange(2**32)
    print(f"seed of numpy {seed}")
    draw = np.random.default_rng(seed)
    jobs, right = [], []
    isas = [isa for isa in ISAS_HERE if has_bfdot(isa)]
    for isa, (low, high) in product(isas, ((-8, 8), (-70, -55), (55, 66))):
        vectors = random_halves(draw, BF16, (30, 16), low, high)
        broadcasts = random_halves(draw, BF16, (30, 3), low, high)
        jobs.append(product_of(isa, BF16, vectors, broadcasts))
        want = np.zeros((3, 16), np.float32)
        for vector, item in zip(vectors, broadcasts, strict=True):
            want = bfdot(want, numbers(item, "bf16")[:, None], numbers(vector, "bf16"))
        right.append(want.ravel())
    compare(jobs, right)


def test_denormal_sums_of_bf16():
    """Kept, but for the instructions that make zeros of them."""
    vectors = words_of([2.0**-70, 0] * 16, "bf16").reshape(1, 16)
    broadcasts = words_of([2.0**-65, 0], "bf16").reshape(1, 1)
    jobs = [product_of(isa, BF16, vectors, broadcasts) for isa in ISAS_HERE]
    compare(jobs, [[0 if flushes(isa, BF16) else 2.0**-135] * 16 for isa in ISAS_HERE])


@by_isa
def test_kernels_of_other_words_do_not_share_code(isa):
    kernels = [Microkernel(isa, w.sums, (0,), (0,), 1, 1, "rows", words=w) for w in WORDS]
    kernels += [Microkernel(isa, np.dtype("float32"), (0,), (0,), 1, 1, "rows")]
    addresses = [kernel.address() for kernel in kernels]
    assert len(set(addresses)) == len(addresses)


FLOAT, INT = np.dtype("float32"), np.dtype("int32")
LINE = Activation("affine")


@pytest.mark.parametrize(
    ("dtype", "words", "activation", "message"),
    [
        (FLOAT, Words("u8", "u8"), RELU, r"words: got Words\(vector='u8', broadcast='u8'\)"),
        (FLOAT, Words("bf16", "f16"), RELU, r"words: got .*expected one of"),
        (FLOAT, S8_U8, RELU, r"dtype: got float32, expected int32 for words"),
        (INT, BF16, RELU, r"dtype: got int32, expected float32 for words"),
        (np.dtype("float64"), F16, RELU, r"dtype: got float64, expected float32 for words"),
        (INT, None, RELU, r"dtype: got int32, expected float32 or float64"),
        (INT, S8_S8, LINE, r"activation: got Activation.*expected RELU for int32"),
    ],
)
def test_kernels_that_there_are_none_of(dtype, words, activation, message):
    with pytest.raises(ValueError, match=message):
        Microkernel(
            ISAS["avx2"], dtype, (0,), (0,), 1, 1, "rows", words=words, activation=activation
        )
