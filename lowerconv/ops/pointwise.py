"""Functions of one number, applied to every item, and their derivatives: sigmoid, SiLU, GELU.

Work goes in chunks that stay in the first cache.  A chunk is copied to where the result belongs and
then changed in place, so that each function is one loop, which the compiler makes vector code.  For
that the exponential of float32 is a polynomial between powers of two: a call of the C library would
do one item at a time.
"""

import math

import numpy as np

from lowerconv.codegen.compiled import internal
from lowerconv.codegen.half_arrays import is_half, numbers
from lowerconv.codegen.ranges import share
from lowerconv.ops.images import bare_images, same_memory
from lowerconv.runtime.launch import parallel

CHUNK = 2048  # items: of float64 a third of the first cache

# By their numbers, which compiled loops know.  `a` and `b` are constants of a function.
CLIP, LEAKY_RELU, HARD_SIGMOID, HARD_SWISH, SIGMOID, SILU, TANH, ELU, GELU, GELU_TANH = range(10)
SOFTPLUS, MISH, EXP, LOG, SQRT, RECIPROCAL, ABS, ERF, AFFINE = range(10, 19)

FUNCTIONS = {
    "clip": CLIP,  # min(max(x, a), b)
    "leaky_relu": LEAKY_RELU,  # x if x > 0 else a * x
    "hard_sigmoid": HARD_SIGMOID,  # min(max(a * x + b, 0), 1)
    "hard_swish": HARD_SWISH,  # x * min(max(x + 3, 0), 6) / 6
    "sigmoid": SIGMOID,  # 1 / (1 + exp(-x))
    "silu": SILU,  # x * sigmoid(a * x)
    "tanh": TANH,
    "elu": ELU,  # b * (x if x > 0 else a * (exp(x) - 1))
    "gelu": GELU,  # x * (1 + erf(x / sqrt(2))) / 2
    "gelu_tanh": GELU_TANH,  # x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2
    "softplus": SOFTPLUS,  # log(1 + exp(a * x)) / a
    "mish": MISH,  # x * tanh(log(1 + exp(x)))
    "exp": EXP,
    "log": LOG,
    "sqrt": SQRT,
    "reciprocal": RECIPROCAL,
    "abs": ABS,
    "erf": ERF,
    "affine": AFFINE,  # a * x + b
}

_SQRT_HALF = math.sqrt(0.5)
_SQRT_2_PI = math.sqrt(2 / math.pi)


@internal
def _exp(x):
    """Return ``exp(x)`` of a float32, at most 2.4e38, to about a unit in the last place.

    The reduction and the polynomial are those of Cephes' ``expf`` (Moshier, 1989).
    """
    f = np.float32
    x = f(-87.3) if x < f(-87.3) else x
    x = f(88.37) if x > f(88.37) else x
    n = np.floor(x * f(1.44269504088896341) + f(0.5))
    r = (x - n * f(0.693359375)) + n * f(2.12194440e-4)
    p = f(1.9875691500e-4)
    p = p * r + f(1.3981999507e-3)
    p = p * r + f(8.3334519073e-3)
    p = p * r + f(4.1665795894e-2)
    p = p * r + f(1.6666665459e-1)
    p = p * r + f(5.0000001201e-1)
    p = p * r * r + r + f(1)
    exponent = np.int32(n if n == n else f(0))  # of NaN there is no integer; `p` is NaN then
    return p * np.int32((exponent + np.int32(127)) << np.int32(23)).view(np.float32)


@internal
def exponentials(v):
    """Replace numbers that are at most 0 by their exponentials: vector code for float32."""
    if v.itemsize == 4:
        for i in range(v.size):
            x = np.float32(v[i])
            # What underflows is the least number there, not nothing.
            v[i] = np.float32(0) if x < np.float32(-87.3) else _exp(x)
    else:
        for i in range(v.size):
            v[i] = math.exp(v[i])


@internal
def _sigmoid(x):
    one = np.float32(1)
    return one / (one + _exp(-x))


@internal
def _tanh(x):
    """Return ``tanh(x)`` of a float32; near 0 by a series, where the quotient loses digits."""
    f = np.float32
    s = x * x
    small = ((f(-0.0218694885) * s + f(0.0539682540)) * s - f(0.1333333333)) * s + f(0.3333333333)
    small = x - x * s * small
    size = abs(x)
    large = f(1) - f(2) / (_exp(size + size) + f(1))
    large = -large if x < f(0) else large
    return small if size < f(0.3) else large


@internal
def _erf(x):
    """Return ``erf(x)`` of a float32, to 4e-7; Abramowitz and Stegun (1964), 7.1.26 and 7.1.5."""
    f = np.float32
    size = abs(x)
    t = f(1) / (f(1) + f(0.3275911) * size)
    p = ((f(1.061405429) * t - f(1.453152027)) * t + f(1.421413741)) * t - f(0.284496736)
    large = f(1) - (p * t + f(0.254829592)) * t * _exp(-size * size)
    large = -large if x < f(0) else large
    s = x * x
    small = (f(-0.0268661706) * s + f(0.1128379167)) * s - f(0.3761263890)
    small = x * (small * s + f(1.1283791671))
    return small if size < f(0.3) else large


@internal
def _scalar(kind, x, a, b):
    """Return a function of one float64, or of one float32 where it is seldom used.

    NaN stands for a function that has no formula here.
    """
    if kind == SIGMOID:
        return 1 / (1 + math.exp(-x))
    if kind == SILU:
        return x / (1 + math.exp(-a * x))
    if kind == TANH:
        return math.tanh(x)
    if kind == ELU:
        return b * (x if x > 0 else a * math.expm1(x))
    if kind == GELU:
        return 0.5 * x * (1 + math.erf(x * _SQRT_HALF))
    if kind == GELU_TANH:
        return 0.5 * x * (1 + math.tanh(_SQRT_2_PI * (x + 0.044715 * x * x * x)))
    if kind == SOFTPLUS:
        return max(x, 0.0) + math.log1p(math.exp(-abs(a * x))) / a
    if kind == MISH:
        return x * math.tanh(max(x, 0.0) + math.log1p(math.exp(-abs(x))))
    if kind == EXP:
        return math.exp(x)
    if kind == LOG:
        return math.log(x) if x > 0 else (-math.inf if x == 0 else math.nan)
    if kind == ERF:
        return math.erf(x)
    return math.nan


@internal
def _slope(kind, x, a, b):
    """Return the derivative of a function at one number; NaN where it has no formula here."""
    if kind == SIGMOID:
        y = 1 / (1 + math.exp(-x))
        return y * (1 - y)
    if kind == SILU:
        y = 1 / (1 + math.exp(-a * x))
        return y * (1 + a * x * (1 - y))
    if kind == TANH:
        y = math.tanh(x)
        return 1 - y * y
    if kind == ELU:
        return b if x > 0 else b * a * math.exp(x)
    if kind == GELU:
        density = math.exp(-0.5 * x * x) * 0.3989422804014327
        return 0.5 * (1 + math.erf(x * _SQRT_HALF)) + x * density
    if kind == GELU_TANH:
        y = math.tanh(_SQRT_2_PI * (x + 0.044715 * x * x * x))
        inner = _SQRT_2_PI * (1 + 3 * 0.044715 * x * x)
        return 0.5 * (1 + y) + 0.5 * x * (1 - y * y) * inner
    if kind == SOFTPLUS:
        return 1 / (1 + math.exp(-a * x))
    if kind == MISH:
        y = math.tanh(max(x, 0.0) + math.log1p(math.exp(-abs(x))))
        return y + x * (1 - y * y) / (1 + math.exp(-x))
    if kind == EXP:
        return math.exp(x)
    if kind == LOG:
        return 1 / x
    if kind == ERF:
        return 1.1283791670955126 * math.exp(-x * x)
    return math.nan


@internal
def _vector(kind, v, a, b):
    """Apply a function to a chunk of float32, in place; return False if it has no vector code."""
    f = np.float32
    n = v.size
    if kind == SIGMOID:
        for i in range(n):
            v[i] = _sigmoid(v[i])
    elif kind == SILU:
        for i in range(n):
            v[i] = v[i] * _sigmoid(a * v[i])
    elif kind == TANH:
        for i in range(n):
            v[i] = _tanh(v[i])
    elif kind == ELU:
        for i in range(n):
            x = v[i]
            e = a * (_exp(x) - f(1))
            v[i] = b * (x if x > f(0) else e)
    elif kind == GELU:
        for i in range(n):
            v[i] = f(0.5) * v[i] * (f(1) + _erf(v[i] * f(_SQRT_HALF)))
    elif kind == GELU_TANH:
        for i in range(n):
            x = v[i]
            inner = f(_SQRT_2_PI) * (x + f(0.044715) * x * x * x)
            v[i] = f(0.5) * x * (f(1) + _tanh(inner))
    elif kind == MISH:  # tanh(log(1 + e)) = (e^2 + 2e) / (e^2 + 2e + 2)
        for i in range(n):
            x = v[i]
            e = _exp(x if x < f(30) else f(30))
            e = e * (e + f(2))
            v[i] = x * (e / (e + f(2)))
    else:
        return False
    return True


@internal
def apply_function(kind, v, a, b):
    """Apply a function to a chunk, in place."""
    zero, one = v.dtype.type(0), v.dtype.type(1)
    n = v.size
    if kind == CLIP:
        for i in range(n):
            x = v[i]
            x = a if x < a else x
            v[i] = b if x > b else x
    elif kind == LEAKY_RELU:
        for i in range(n):
            x = v[i]
            v[i] = x if x > zero else a * x
    elif kind == HARD_SIGMOID:
        for i in range(n):
            x = a * v[i] + b
            x = zero if x < zero else x
            v[i] = one if x > one else x
    elif kind == HARD_SWISH:
        # Divided: with a sixth, which is rounded, all results would be too large by as much.
        three, six = v.dtype.type(3), v.dtype.type(6)
        for i in range(n):
            x = v[i] + three
            x = zero if x < zero else x
            x = six if x > six else x
            v[i] = v[i] * (x / six)
    elif kind == SQRT:
        for i in range(n):
            v[i] = np.sqrt(v[i])
    elif kind == RECIPROCAL:
        for i in range(n):
            v[i] = one / v[i]
    elif kind == ABS:
        for i in range(n):
            v[i] = abs(v[i])
    elif kind == AFFINE:
        for i in range(n):
            v[i] = a * v[i] + b
    else:
        if v.itemsize == 4 and _vector(kind, v, a, b):
            return
        for i in range(n):
            v[i] = _scalar(kind, v[i], a, b)


@internal
def _differentiate(kind, v, a, b):
    """Replace a chunk by the derivative of a function there."""
    zero, one = v.dtype.type(0), v.dtype.type(1)
    n = v.size
    if kind == CLIP:
        for i in range(n):
            v[i] = one if a <= v[i] <= b else zero
    elif kind == LEAKY_RELU:
        for i in range(n):
            v[i] = one if v[i] > zero else a
    elif kind == HARD_SIGMOID:
        for i in range(n):
            v[i] = a if zero < a * v[i] + b < one else zero
    elif kind == HARD_SWISH:
        for i in range(n):
            x = v[i]
            inner = x * v.dtype.type(1 / 3) + v.dtype.type(0.5)
            v[i] = zero if x <= v.dtype.type(-3) else (one if x >= v.dtype.type(3) else inner)
    elif kind == SQRT:
        for i in range(n):
            v[i] = v.dtype.type(0.5) / np.sqrt(v[i])
    elif kind == RECIPROCAL:
        for i in range(n):
            v[i] = -one / (v[i] * v[i])
    elif kind == ABS:
        for i in range(n):
            v[i] = one if v[i] > zero else (-one if v[i] < zero else zero)
    elif kind == AFFINE:
        for i in range(n):
            v[i] = a
    else:
        for i in range(n):
            v[i] = _slope(kind, v[i], a, b)


@internal
def _copy(source, target):
    for i in range(target.size):
        target[i] = source[i]


@internal
def _chunk(x, n, begin, end):
    """Return a range of the items of an image, flat."""
    return x.flat[n * x.step + begin : n * x.step + end]


@parallel
def pointwise(worker, workers, x, y, kind, a, b):
    """Write a function of each item of `x` to `y`, which may be `x`.

    Parameters
    ----------
    x, y : Images
    kind : int
        One of `FUNCTIONS`.
    a, b : of the dtype
        Constants of the function.
    """
    x, y = bare_images(x), bare_images(y)
    in_place = same_memory(x.flat, y.flat)
    buffer = np.empty(CHUNK if is_half(y.flat) else 0, x.flat.dtype)
    items = y.C * y.H * y.W
    chunks = (items + CHUNK - 1) // CHUNK
    first, last = share(y.N * chunks, worker, workers)
    for task in range(first, last):
        n, begin = task // chunks, task % chunks * CHUNK
        end = min(begin + CHUNK, items)
        pixels = _chunk(y, n, begin, end)
        target = numbers(pixels, buffer)
        if is_half(pixels) or not in_place:
            _copy(_chunk(x, n, begin, end), target)
        apply_function(kind, target, a, b)
        if is_half(pixels):
            _copy(target, pixels)


@parallel
def pointwise_grad(worker, workers, x, dy, dx, kind, constants, add):
    """Write `dy` times the derivative at `x` to `dx`, which may be `dy`, or add it there.

    Parameters as of :func:`pointwise`, `constants` being ``(a, b)``; `add` is not set where `dx` is
    `dy`.
    """
    x, dy, dx = bare_images(x), bare_images(dy), bare_images(dx)
    a, b = constants
    in_place = same_memory(dx.flat, dy.flat)
    slopes = np.empty(CHUNK, x.flat.dtype)
    items = x.C * x.H * x.W
    chunks = (items + CHUNK - 1) // CHUNK
    first, last = share(x.N * chunks, worker, workers)
    for task in range(first, last):
        n, begin = task // chunks, task % chunks * CHUNK
        end = min(begin + CHUNK, items)
        slope = slopes[: end - begin]
        _copy(_chunk(x, n, begin, end), slope)
        _differentiate(kind, slope, a, b)
        target, source = _chunk(dx, n, begin, end), _chunk(dy, n, begin, end)
        if in_place:
            for i in range(target.size):
                target[i] *= slope[i]
        elif add:
            for i in range(target.size):
                target[i] += source[i] * slope[i]
        else:
            for i in range(target.size):
                target[i] = source[i] * slope[i]
