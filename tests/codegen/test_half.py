"""Conversions between float32 and 16 bits, as instructions and with integers, against references.

All codes there are, and many random float32; `tests/ops/test_half.py` has the edges of rounding.
"""

import numpy as np
import pytest

from lowerconv.codegen.compiled import njit
from lowerconv.codegen.half import KINDS, Conversion
from lowerconv.codegen.half_arrays import HALF_DTYPES, conversion, converters, is_half, items

ml_dtypes = pytest.importorskip("ml_dtypes")

TYPES = {"bf16": np.dtype(ml_dtypes.bfloat16), "fp16": np.dtype(np.float16)}
ALL = np.arange(1 << 16).astype(np.uint16)
ways = pytest.mark.parametrize(
    "made",
    [conversion("bf16"), conversion("fp16"), Conversion("fp16", False)],
    ids=["bf16", "fp16", "fp16-integers"],
)


def rounded(values, kind):
    with np.errstate(all="ignore"):
        return values.astype(TYPES[kind]).view(np.uint16)


def expanded(codes, kind):
    with np.errstate(all="ignore"):
        return codes.view(TYPES[kind]).astype(np.float32)


def same(found, expected):
    """Return whether bits are the same, where they are no NaN; NaN may be any."""
    nans = np.isnan(expected)
    bits = np.dtype(f"u{found.itemsize}")
    return np.array_equal(np.isnan(found), nans) and np.array_equal(
        found.view(bits)[~nans], expected.view(bits)[~nans]
    )


def loops(made):
    """Return loops, which the compiler makes vector code of, for a conversion."""
    code, value = converters(made)

    @njit(nogil=True)
    def narrow(values, codes):
        for i in range(values.size):
            codes[i] = code(values[i])

    @njit(nogil=True)
    def widen(codes, values):
        for i in range(values.size):
            values[i] = value(codes[i])

    return narrow, widen


@ways
def test_against_references(made):
    narrow, widen = loops(made)
    found = np.empty(ALL.size, np.float32)
    widen(ALL, found)
    assert same(found, expanded(ALL, made.kind))
    seed = 16
    print(f"seed {seed}")
    values = np.random.default_rng(seed).integers(0, 1 << 32, 1 << 20, dtype=np.uint32)
    near = np.random.default_rng(seed).standard_normal(1 << 18).astype(np.float32)
    for numbers in (values.view(np.float32), near, near * 1e-6, near * 1e4, found):
        codes = np.empty(numbers.size, np.uint16)
        narrow(numbers, codes)
        kind = TYPES[made.kind]
        assert same(codes.view(kind), rounded(numbers, made.kind).view(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_of_codes(kind):
    """Loops read and write numbers; slices begin and end inside, whatever they are given."""

    @njit(nogil=True)
    def work(codes, values, facts):
        array = items(codes)
        facts[0], facts[1] = is_half(array), is_half(values)
        part = array[2:7]
        facts[2], facts[3] = part.size, array[90:200].size
        facts[4], facts[5] = array[50:40].size, part[1:].size
        for i in range(part.size):
            part[i] += values[i]
        zero = array.dtype.type(0)
        for i in range(90, array.size):
            array[i] = array[i] if array[i] > zero else zero

    numbers = np.random.default_rng(1).standard_normal(100).astype(np.float32)
    codes = rounded(numbers, kind)
    expected = expanded(codes, kind)
    added = np.arange(5, dtype=np.float32)
    facts = np.zeros(6, np.int64)
    work(codes.view(HALF_DTYPES[kind]), added, facts)
    assert facts.tolist() == [1, 0, 5, 10, 0, 4]
    expected[2:7] += added
    expected[90:] = np.maximum(expected[90:], 0)
    assert np.array_equal(codes, rounded(expected, kind))
