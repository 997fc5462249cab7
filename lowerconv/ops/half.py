"""Half precision as bit patterns: float32 rounded to bf16 or fp16 and back, for what is sent.

`lowerconv.codegen.half` says how numbers are rounded.

Arrays are one-dimensional and contiguous, values float32 (of other dtypes numba refuses to compile
them) and bits uint16; all arrays of a call have one length and do not overlap.
"""

from __future__ import annotations

import numpy as np

from lowerconv.codegen.compiled import njit
from lowerconv.codegen.half_arrays import conversion, converters

_BF16_INFINITE, _FP16_INFINITE = np.uint32(0x7F80), np.uint32(0x7C00)

_bf16, _from_bf16 = converters(conversion("bf16"))
_fp16, _from_fp16 = converters(conversion("fp16"))


@njit(cache=True, nogil=True)
def round_compensated(values, residual, bits, fp16):
    """Write the 16 bits of each value plus the residual of earlier calls; keep the new residual.

    ``sum = value + residual; code = round(sum); residual = sum - code`` in one pass, so that over
    many calls nothing is lost, however small [1]_.  Where the code is infinite or NaN the residual
    becomes 0: such a value is for the caller to see, and does not come back.

    Parameters
    ----------
    values : ndarray of float32, 1-D
    residual : ndarray of float32, 1-D
        What is left over: read and written.
    bits : ndarray of uint16, 1-D
        The result.
    fp16 : bool
        Whether they are fp16, and not bf16.

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
            bits[i] = np.uint16(code)
    else:
        for i in range(values.size):
            total = values[i] + residual[i]
            code = _bf16(total)
            finite = np.uint32(code & _BF16_INFINITE) != _BF16_INFINITE
            rest = total - _from_bf16(code)
            residual[i] = rest if finite else zero
            bits[i] = np.uint16(code)


@njit(cache=True, nogil=True)
def expand_half(bits, values, add, fp16):
    """Write the value of each item of `bits`, or add it to what is there.

    Parameters
    ----------
    bits : ndarray of uint16, 1-D
    values : ndarray of float32, 1-D
        The result, exact; a sum is rounded to float32.
    add : bool
        Whether `values` is added to.
    fp16 : bool
        Whether they are fp16, and not bf16.
    """
    if fp16:
        if add:
            for i in range(bits.size):
                values[i] += _from_fp16(bits[i])
        else:
            for i in range(bits.size):
                values[i] = _from_fp16(bits[i])
    elif add:
        for i in range(bits.size):
            values[i] += _from_bf16(bits[i])
    else:
        for i in range(bits.size):
            values[i] = _from_bf16(bits[i])
