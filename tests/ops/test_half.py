"""Rounding to half precision and back against NumPy's float16, and bf16 against fractions."""

from fractions import Fraction

import numpy as np
import pytest
from numba.core.errors import TypingError

from lowerconv.codegen.half_arrays import HALF_DTYPES as TYPES
from lowerconv.conv.arrays import flat_images
from lowerconv.ops.elementwise import copy
from lowerconv.ops.half import expand_half, round_compensated
from lowerconv.runtime.threads import run

SIZES = [0, 1, 2, 15, 16, 17, 63, 1001]
sizes = pytest.mark.parametrize("size", SIZES)
fp16s = pytest.mark.parametrize("fp16", [False, True], ids=["bf16", "fp16"])
CODES = np.arange(1 << 16).astype(np.uint16)


def rounded(values, fp16):
    codes = np.full(values.size, 0xABCD, np.uint16)
    round_to(codes, values, fp16)
    return codes


def round_to(codes, values, fp16):
    """Write codes as all kernels do."""
    target = codes.view(TYPES["fp16" if fp16 else "bf16"])
    run(copy, flat_images(values), flat_images(target), False)


def expanded(codes, fp16):
    values = np.full(codes.size, 3, np.float32)
    expand_half(codes, values, False, fp16)
    return values


def float_of(bits):
    return np.asarray(bits, np.uint32).view(np.float32)


def fp16_reference(values):
    with np.errstate(over="ignore"):
        return values.astype(np.float16).view(np.uint16)


def bf16_reference(values):
    """Return the codes: of the two around each value the nearer one, or the even one.

    Codes of finite magnitudes ascend with them; the one after the largest, which stands for
    infinity, is worth 2^128 when it comes to rounding.
    """
    codes = []
    for bits in values.view(np.uint32).tolist():
        sign, size = bits >> 31, bits & 0x7FFFFFFF
        code = size >> 16
        if size < 0x7F800000:
            exact, low, high = (worth(part) for part in (size, code << 16, (code + 1) << 16))
            if exact - low > high - exact or (exact - low == high - exact and code % 2):
                code += 1
        codes.append(sign << 15 | code)
    return np.array(codes, np.uint16)


def worth(bits):
    """Return what the bits of a positive float32 stand for; where they are infinite, 2^128."""
    exponent, mantissa = bits >> 23, bits & 0x7FFFFF
    if exponent == 0:
        return Fraction(mantissa) / 2**149
    return Fraction(mantissa + (1 << 23)) * Fraction(2) ** (exponent - 150)


REFERENCES = {False: bf16_reference, True: fp16_reference}


def edges():
    """Return every code's value of both formats, half-way to the next, and those beside."""
    bits = []
    for fp16 in (False, True):
        values = expanded(CODES, fp16)
        values = values[np.isfinite(values)]
        positive = np.unique(np.abs(values)).astype(np.float64)
        middle = ((positive[1:] + positive[:-1]) / 2).astype(np.float32)  # exact, but of denormals
        last = [65520, 65536, 3.4e38] if fp16 else [float_of(0x7F7F8000), float_of(0x7F7FFFFF)]
        near = np.concatenate([values, middle, np.array([*last, 2**-25, 2**-24], np.float32)])
        near = near.view(np.uint32).astype(np.int64)
        bits += [near, near - 1, near + 1]
    bits = np.concatenate(bits)
    bits = np.unique(np.concatenate([bits, bits ^ 0x80000000]) % (1 << 32)).astype(np.uint32)
    return float_of(bits)


@pytest.fixture(scope="module")
def numbers():
    """Return edges, and random bits of all exponents; whatever is not NaN."""
    rng = np.random.default_rng(5)
    drawn = float_of(rng.integers(0, 1 << 32, 50_000, dtype=np.uint64).astype(np.uint32))
    values = np.concatenate([rng.permutation(edges())[:200_000], drawn])
    return values[~np.isnan(values)]


def test_every_fp16_code_back():
    result, expected = expanded(CODES, True), CODES.view(np.float16).astype(np.float32)
    nan = np.isnan(expected)
    assert np.array_equal(np.isnan(result), nan)
    assert np.array_equal(result[~nan].view(np.uint32), expected[~nan].view(np.uint32))


def test_every_bf16_code_back():
    bits = expanded(CODES, False).view(np.uint32)
    assert np.array_equal(bits, CODES.astype(np.uint32) << 16)


@fp16s
def test_every_code_there_again(fp16):
    values = expanded(CODES, fp16)
    codes, nan = rounded(values, fp16), np.isnan(values)
    assert np.array_equal(codes[~nan], CODES[~nan])
    assert nan.sum() == (2 * 1023 if fp16 else 2 * 127)
    assert np.isnan(expanded(codes[nan], fp16)).all()


@fp16s
def test_rounding(numbers, fp16):
    codes, expected = rounded(numbers, fp16), REFERENCES[fp16](numbers)
    wrong = codes != expected
    assert not wrong.any(), (numbers[wrong][:5], codes[wrong][:5], expected[wrong][:5])
    finite = np.isfinite(numbers)
    assert np.isinf(expanded(codes, fp16)[finite]).any()  # there are values that are too large


@pytest.mark.parametrize(
    ("value", "bf16", "fp16"),
    [
        (0.0, 0x0000, 0x0000),
        (-0.0, 0x8000, 0x8000),
        (1.0, 0x3F80, 0x3C00),
        (1 + 2**-8, 0x3F80, 0x3C04),  # bf16: a tie, to the even one below
        (1 + 3 * 2**-8, 0x3F82, 0x3C0C),  # and above
        (1 + 2**-11, 0x3F80, 0x3C00),  # fp16: a tie
        (65504.0, 0x4780, 0x7BFF),
        (65519.996, 0x4780, 0x7BFF),
        (65520.0, 0x4780, 0x7C00),
        (-1e6, 0xC974, 0xFC00),
        (3.4e38, 0x7F80, 0x7C00),
        (2.0**-24, 0x3380, 0x0001),
        (2.0**-25, 0x3300, 0x0000),  # fp16: half of the smallest
        (-(2.0**-26), 0xB280, 0x8000),
        (2.0**-149, 0x0000, 0x0000),
        (np.inf, 0x7F80, 0x7C00),
        (-np.inf, 0xFF80, 0xFC00),
    ],
)
def test_known_codes(value, bf16, fp16):
    value = np.array([value], np.float32)
    assert rounded(value, False)[0] == bf16
    assert rounded(value, True)[0] == fp16


@fp16s
def test_nan_stays_nan(fp16):
    bits = [0x7F800001, 0x7FC00000, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF, 0x7F80FFFF]
    values = float_of(bits)
    codes = rounded(values, fp16)
    assert np.isnan(expanded(codes, fp16)).all()
    assert np.array_equal(codes >> 15, values.view(np.uint32) >> 31)  # the sign stays too


@fp16s
@sizes
def test_sizes(size, fp16):
    """Vectors and what is left of them; nothing around the arrays is touched."""
    rng = np.random.default_rng(size)
    values = (rng.standard_normal(size) * 10.0 ** rng.integers(-9, 6, size)).astype(np.float32)
    around = np.full(size + 2, 0x1234, np.uint16)
    round_to(around[1:-1], values, fp16)
    codes = REFERENCES[fp16](values)
    assert np.array_equal(around, [0x1234, *codes, 0x1234])
    sums = np.full(size + 2, 1.5, np.float32)
    expand_half(codes, sums[1:-1], True, fp16)
    assert np.array_equal(sums, [1.5, *(np.float32(1.5) + expanded(codes, fp16)), 1.5])


@fp16s
@sizes
def test_residual_is_what_rounding_left(size, fp16):
    rng = np.random.default_rng(size + 100)
    values, there = rng.standard_normal((2, size)).astype(np.float32)
    there *= np.float32(1e-3)
    residual, codes = there.copy(), np.empty(size, np.uint16)
    round_compensated(values, residual, codes, fp16)
    total = values + there
    assert np.array_equal(codes, REFERENCES[fp16](total))
    # What is left is exact: a float32 holds it.
    left = total.astype(np.float64) - expanded(codes, fp16)
    assert np.array_equal(residual, left)
    assert size == 0 or residual.any()


@fp16s
def test_what_is_not_finite_leaves_no_residual(fp16):
    values = np.array([np.inf, -np.inf, np.nan, 3.4e38, 1e5, -1e5, 1 + 2**-12], np.float32)
    residual, codes = np.full(7, 2.0**-13, np.float32), np.empty(7, np.uint16)
    round_compensated(values, residual, codes, fp16)
    seen = expanded(codes, fp16)
    assert np.array_equal(seen[[0, 1, 3]], [np.inf, -np.inf, np.inf])
    assert np.isnan(seen[2])
    assert not residual[:4].any()
    if fp16:  # these are too large for fp16 alone
        assert np.array_equal(seen[4:6], [np.inf, -np.inf])
        assert not residual[4:6].any()
    else:
        assert np.isfinite(seen[4:6]).all()
        assert residual[4:6].any()
    assert residual[6] == np.float32(2.0**-12 + 2.0**-13)
    # The next values are as if nothing had been.
    round_compensated(np.ones(4, np.float32), residual[:4], codes[:4], fp16)
    assert np.array_equal(expanded(codes[:4], fp16), np.ones(4))


@fp16s
@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e-9])
def test_nothing_is_lost_over_many_steps(fp16, scale):
    """What a step rounds away, even to zero, comes with a later one."""
    steps = 500
    values = (np.random.default_rng(3).standard_normal(100) * scale).astype(np.float32)
    residual, codes = np.zeros(100, np.float32), np.empty(100, np.uint16)
    total = np.zeros(100)
    for _ in range(steps):
        round_compensated(values, residual, codes, fp16)
        total += expanded(codes, fp16)
    exact = steps * values.astype(np.float64)
    np.testing.assert_allclose(total + residual, exact, rtol=2e-5)
    plain = steps * expanded(rounded(values, fp16), fp16).astype(np.float64)
    assert np.abs(total - exact).max() < 0.1 * np.abs(plain - exact).max()
    if fp16 and scale == 1e-9:
        assert not plain.any()
        assert total.any()


@fp16s
def test_other_dtypes_are_refused(fp16):
    values, codes = np.ones(3), np.empty(3, np.uint16)
    with pytest.raises(TypingError, match="arrays of float32, not of float64"):
        round_compensated(values, np.zeros(3, np.float32), codes, fp16)
