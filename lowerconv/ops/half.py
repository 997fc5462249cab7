"""Half precision as bit patterns: float32 rounded to bf16 or fp16 and back, for what is sent.

::

    float32   s eeeeeeee mmmmmmmmmmmmmmmmmmmmmmm     8 bits of exponent, 23 of mantissa
    bf16      s eeeeeeee mmmmmmm                     the range of float32, 2-3 decimal digits
    fp16      s eeeee mmmmmmmmmm                     to 65504, 3-4 digits; below 6.1e-5 ever fewer

Rounding is to nearest, ties to even (IEEE 754-2019, 4.3.1): what is too large becomes infinite,
what is too small a denormal or zero, and NaN stays NaN.  All of it is done with integers and one
float32 addition, which numba makes vector code on any CPU, F16C or not.

Arrays are one-dimensional and contiguous, values float32 (of other dtypes numba refuses to compile
them) and codes uint16; all arrays of a call have one length and do not overlap.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic

from lowerconv.codegen.compiled import njit

# As uint32, so that no constant makes an expression 64 bits wide.
_1, _13, _16 = np.uint32(1), np.uint32(13), np.uint32(16)
_MAGNITUDE = np.uint32(0x7FFFFFFF)  # all but the sign
_INFINITE = np.uint32(0x7F800000)  # magnitudes above it are NaN

_BF16_QUIET = np.uint32(0x40)
_BF16_TIE = np.uint32(0x7FFF)  # just below half of the last bit that is kept
_BF16_INFINITE = np.uint32(0x7F80)

_FP16_SIGN = np.uint32(0x8000)
_FP16_INFINITE = np.uint32(0x7C00)
_FP16_NAN = np.uint32(0x7E00)
_FP16_MAGNITUDE = np.uint32(0x7FFF)
_FP16_SMALLEST = np.uint32(113 << 23)  # 2^-14 in float32, fp16's smallest normal number
_FP16_TOO_LARGE = np.uint32(143 << 23)  # 2^16
_FP16_TIE = np.uint32(0xFFF)
_BIAS = np.uint32((127 - 15) << 23)  # between the exponents' zeros
_TO_INFINITE = np.uint32((128 - 16) << 23)  # what the largest exponents differ by besides
_EXPONENT_1 = np.uint32(1 << 23)
_FP16_EXPONENTS = np.uint32(0x1F << 23)
_HALF = np.float32(0.5)  # its last bit is worth 2^-24, like that of fp16's denormals
_HALF_BITS = np.uint32(126 << 23)


@intrinsic
def _same_bits(typing_context, value):
    other = {types.float32: types.uint32, types.uint32: types.float32}.get(value)
    if other is None:
        raise TypingError(f"half precision is made of arrays of float32, not of {value}")

    def codegen(context, builder, signature, values):
        return builder.bitcast(values[0], context.get_value_type(signature.return_type))

    return other(value), codegen


# Numba supplies the typing context, which a type checker cannot know.
# _bitcast(value): the float32 with the bits of a uint32, or the uint32 with those of a float32
_bitcast: Any = _same_bits


@njit(cache=True, nogil=True)
def _bf16(value):
    """Return the code, as uint32."""
    bits = _bitcast(value)
    odd = np.uint32((bits >> _16) & _1)
    rounded = np.uint32(np.uint32(bits + _BF16_TIE + odd) >> _16)
    nan = np.uint32((bits >> _16) | _BF16_QUIET)
    return nan if np.uint32(bits & _MAGNITUDE) > _INFINITE else rounded


@njit(cache=True, nogil=True)
def _from_bf16(code):
    return _bitcast(np.uint32(np.uint32(code) << _16))


@njit(cache=True, nogil=True)
def _fp16(value):
    """Return the code, as uint32."""
    bits = _bitcast(value)
    size = np.uint32(bits & _MAGNITUDE)
    odd = np.uint32((size >> _13) & _1)
    normal = np.uint32(np.uint32(size - _BIAS + _FP16_TIE + odd) >> _13)
    # The addition rounds to the last bit of a denormal, and leaves its code in the mantissa.
    sum_bits = _bitcast(np.float32(_bitcast(size) + _HALF))
    denormal = np.uint32(sum_bits - _HALF_BITS)
    special = _FP16_NAN if size > _INFINITE else _FP16_INFINITE
    code = denormal if size < _FP16_SMALLEST else normal
    code = special if size >= _FP16_TOO_LARGE else code
    return np.uint32(code | np.uint32((bits >> _16) & _FP16_SIGN))


@njit(cache=True, nogil=True)
def _from_fp16(code):
    code = np.uint32(code)
    shifted = np.uint32(np.uint32(code & _FP16_MAGNITUDE) << _13)
    exponent = np.uint32(shifted & _FP16_EXPONENTS)
    normal = np.uint32(shifted + _BIAS)
    special = np.uint32(normal + _TO_INFINITE)
    # A denormal has no leading one: it is given one, which is then taken away.
    with_one = _bitcast(np.uint32(normal + _EXPONENT_1))
    denormal = _bitcast(np.float32(with_one - _bitcast(_FP16_SMALLEST)))
    bits = denormal if exponent == np.uint32(0) else normal
    bits = special if exponent == _FP16_EXPONENTS else bits
    sign = np.uint32(np.uint32(code & _FP16_SIGN) << _16)
    return _bitcast(np.uint32(bits | sign))


@njit(cache=True, nogil=True)
def round_half(values, codes, fp16):
    """Write the code of each value.

    Parameters
    ----------
    values : ndarray of float32, 1-D
    codes : ndarray of uint16, 1-D
        The result.
    fp16 : bool
        Whether codes are fp16, and not bf16.
    """
    if fp16:
        for i in range(values.size):
            codes[i] = np.uint16(_fp16(values[i]))
    else:
        for i in range(values.size):
            codes[i] = np.uint16(_bf16(values[i]))


@njit(cache=True, nogil=True)
def round_compensated(values, residual, codes, fp16):
    """Write the code of each value plus the residual of earlier calls; keep the new residual.

    ``sum = value + residual; code = round(sum); residual = sum - code`` in one pass, so that over
    many calls nothing is lost, however small [1]_.  Where the code is infinite or NaN the residual
    becomes 0: such a value is for the caller to see, and does not come back.

    Parameters
    ----------
    values : ndarray of float32, 1-D
    residual : ndarray of float32, 1-D
        What is left over: read and written.
    codes : ndarray of uint16, 1-D
        The result.
    fp16 : bool
        Whether codes are fp16, and not bf16.

    References
    ----------
    .. [1] F. Seide et al., "1-Bit Stochastic Gradient Descent and its Application to Data-Parallel
       Distributed Training of Speech DNNs", Interspeech 2014, section 3.1.
    """
    zero = np.float32(0)
    if fp16:
        for i in range(values.size):
            total = values[i] + residual[i]
            code = _fp16(total)
            finite = np.uint32(code & _FP16_INFINITE) != _FP16_INFINITE
            rest = total - _from_fp16(code)
            residual[i] = rest if finite else zero
            codes[i] = np.uint16(code)
    else:
        for i in range(values.size):
            total = values[i] + residual[i]
            code = _bf16(total)
            finite = np.uint32(code & _BF16_INFINITE) != _BF16_INFINITE
            rest = total - _from_bf16(code)
            residual[i] = rest if finite else zero
            codes[i] = np.uint16(code)


@njit(cache=True, nogil=True)
def expand_half(codes, values, add, fp16):
    """Write the value of each code, or add it to what is there.

    Parameters
    ----------
    codes : ndarray of uint16, 1-D
    values : ndarray of float32, 1-D
        The result, exact; a sum is rounded to float32.
    add : bool
        Whether `values` is added to.
    fp16 : bool
        Whether codes are fp16, and not bf16.
    """
    if fp16:
        if add:
            for i in range(codes.size):
                values[i] += _from_fp16(codes[i])
        else:
            for i in range(codes.size):
                values[i] = _from_fp16(codes[i])
    elif add:
        for i in range(codes.size):
            values[i] += _from_bf16(codes[i])
    else:
        for i in range(codes.size):
            values[i] = _from_bf16(codes[i])
