"""Ternary codes in 2 bits each: what is unpacked is what was packed."""

import numpy as np
import pytest

from lowerconv.ops.ternary_codes import TernaryCodes


@pytest.mark.parametrize(
    "shape", [(3, 5, 3, 3), (1, 1, 1, 1), (2, 8, 1, 1), (4, 2, 2, 4), (0, 3, 1, 1)]
)
def test_codes_come_back(shape):
    codes = np.random.default_rng(1).integers(-1, 2, shape).astype(np.int8)
    kept = TernaryCodes.of(codes)
    np.testing.assert_array_equal(kept.unpacked(), codes)
    assert kept.unpacked().dtype == np.int8
    assert kept.nonzero == np.count_nonzero(codes)
    size = int(np.prod(shape[1:]))
    assert kept.bits.nbytes == 2 * shape[0] * -(-size // 8)


def test_the_layout():
    codes = np.zeros((2, 10, 1, 1), np.int8)
    codes[1, [0, 9]], codes[1, 3] = 1, -1
    bits = TernaryCodes.of(codes).bits
    assert bits.tolist() == [[[0, 0], [0b1, 0b10]], [[0, 0], [0b1000, 0]]]


def test_what_is_not_ternary_is_refused():
    with pytest.raises(ValueError, match="codes: got 0 to 2, expected -1, 0 and 1 alone"):
        TernaryCodes.of(np.array([[[[0]], [[2]]]], np.int8))
    good = np.zeros((2, 3, 2), np.uint8)
    shape = 3, 10, 1, 1
    for bits in (good[:1], good[:, :, :1], good.astype(np.int8)):
        with pytest.raises(ValueError, match=r"bits: got u?int8 of shape .*, expected uint8 of"):
            TernaryCodes(bits, shape)
    both, beyond = good.copy(), good.copy()
    both[:, 1, 0], beyond[1, 2, 1] = 4, 4
    with pytest.raises(ValueError, match="bits: got a weight that is both 1 and -1"):
        TernaryCodes(both, shape)
    with pytest.raises(ValueError, match="bits: got some beyond the 10 weights"):
        TernaryCodes(beyond, shape)
