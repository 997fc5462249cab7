"""What Arm's ``bfdot`` adds, bit for bit: the oracle of tests.

After the Arm Architecture Reference Manual for A-profile, BFDotAdd: both products are added, and
then the sum.  All are rounded to odd: inexact results get the one of their two neighbours whose
last bit is 1.  Denormal numbers are zeros, of operands and of results.
"""

import numpy as np

LEAST = 2.0**-126  # of normal numbers, bf16's and float32's


def has_bfdot(isa):
    return isa.triple == "aarch64" and "bf16" in isa.extensions


def bfdot(total, a, b):
    """Return sums of float32 after pairs of bf16, in the last axis, are multiplied and added."""
    with np.errstate(invalid="ignore", over="ignore"):
        products = _flushed(a) * _flushed(b)  # exact: 16 bits
        products = _odd(products, 0.0).astype(float)
        both = _odd(products[..., 0], products[..., 1])
        return _odd(_flushed(total.astype(float)), both.astype(float))


def _flushed(values):
    return np.where(abs(values) < LEAST, np.copysign(0.0, values), values)


def _odd(x, y):
    """Return float32 of x + y, rounded to odd."""
    total = x + y
    part = total - x
    rest = (x - (total - part)) + (y - part)  # what float64 has lost (Knuth's two-sum)
    rest = np.where(np.isfinite(total), rest, 0.0)
    near = total.astype(np.float32)
    beyond = np.isfinite(near) & ((abs(near) > abs(total)) | ((near == total) & (rest * total < 0)))
    near = np.where(beyond, np.nextafter(near, np.float32(0)), near)
    inexact = np.isfinite(near) & ((near != total) | (rest != 0))
    bits = near.view(np.uint32) | inexact.astype(np.uint32)
    return _flushed(bits.view(np.float32)).astype(np.float32)
