"""Numbers rounded to multiples of a step that is learnt, within a number of bits.

::

    q = round(clip(v / s, low, high)) * s          ties to even, as IEEE 754

    dq/dv = 1  where low < v / s < high, else 0    straight through the rounding
    dq/ds = round(v / s) - v / s  there; low or high where v / s is at most low, at least high

A step of 0 leaves numbers as they are.  NaN stays NaN, and infinite numbers are clipped.

Esser, McKinstry, Bablani, Appuswamy, Modha, "Learned step size quantization" (2020), equations 1 to
3 and 5.
"""

from __future__ import annotations

import numpy as np

from lowerconv.codegen.compiled import internal, njit
from lowerconv.codegen.ranges import share
from lowerconv.ops.elementwise import SUMMED, sum_in_any_order
from lowerconv.ops.images import bare_images, piece, pieces_of
from lowerconv.runtime.launch import parallel, run_on_team

# Added to a number and taken away again, it leaves an integer: all bits after the point are lost.
_INTEGER = {np.dtype(np.float32): 1.5 * 2.0**23, np.dtype(np.float64): 1.5 * 2.0**52}


def levels(low: int, high: int, dtype: np.dtype) -> tuple[np.floating, np.floating, np.floating]:
    """Return what kernels take: the lowest and the highest multiple, and what rounds.

    Parameters
    ----------
    low, high : int
        Below 2^22 in magnitude.
    dtype : dtype, float32 or float64
    """
    kind = dtype.type
    return kind(low), kind(high), kind(_INTEGER[dtype])


@internal
def _quantize(x, y, step, levels):
    low, high, integer = levels
    if step == 0:
        for i in range(y.size):
            y[i] = x[i]
        return
    for i in range(y.size):
        q = x[i] / step
        q = low if q < low else q  # so written, NaN stays NaN
        q = high if q > high else q
        y[i] = ((q + integer) - integer) * step


@internal
def _differentiate(x, dy, dx, step, levels, add, products):
    """Write or add the gradient of `x`, and return that of the step."""
    low, high, integer = levels
    nothing = dy.dtype.type(0)
    if step == 0:
        for i in range(dx.size):
            dx[i] = dx[i] + dy[i] if add else dy[i]
        return 0.0
    total = 0.0
    for begin in range(0, dx.size, SUMMED):
        end = min(begin + SUMMED, dx.size)
        source, gradient, target = x[begin:end], dy[begin:end], dx[begin:end]
        for i in range(target.size):
            q = source[i] / step
            slope = ((q + integer) - integer) - q
            slope = low if q <= low else slope
            slope = high if q >= high else slope
            part = gradient[i]
            products[i] = part * slope
            passed = nothing if q <= low or q >= high else part
            target[i] = target[i] + passed if add else passed
        total += sum_in_any_order(products[: target.size])
    return total


@parallel
def quantize(worker, workers, x, y, step, levels):
    """Write the rounded items of images.

    Parameters
    ----------
    x, y : Images
    step : of the images' dtype
        Not negative.
    levels : tuple
        As of :func:`levels`.
    """
    x, y = bare_images(x), bare_images(y)
    pieces = pieces_of(x)
    first, last = share(x.N * pieces, worker, workers)
    for task in range(first, last):
        _quantize(piece(x, task, pieces), piece(y, task, pieces), step, levels)


@internal
def _gradients(worker, workers, x, dy, dx, step, levels, add, sums):
    pieces = pieces_of(x)
    products = np.empty(SUMMED, x.flat.dtype)
    first, last = share(x.N * pieces, worker, workers)
    for task in range(first, last):
        source, gradient = piece(x, task, pieces), piece(dy, task, pieces)
        target = piece(dx, task, pieces)
        sums[task] = _differentiate(source, gradient, target, step, levels, add, products)


@njit(cache=True, nogil=True)
def quantize_grad(team, x, dy, dx, step, levels, add, slope):
    """Write the gradient of images, or add it, and that of the step.

    Sums are float64 over pieces, whose order does not depend on the number of threads.

    Parameters
    ----------
    x, dy, dx : Images
        `dx` may be `dy`.
    step : of the images' dtype
    levels : tuple
        As of :func:`levels`.
    add : bool
        Whether `dx` is added to.
    slope : ndarray, (1,), float64
        Gets the gradient of the step.
    """
    x, dy, dx = bare_images(x), bare_images(dy), bare_images(dx)
    sums = np.zeros(x.N * pieces_of(x))
    run_on_team(team, _gradients, (x, dy, dx, step, levels, add, sums))
    total = 0.0
    for i in range(sums.size):
        total += sums[i]
    slope[0] = total


@parallel
def quantize_rows(worker, workers, w, q, steps, levels):
    """Write the rounded items of rows.

    Parameters
    ----------
    w, q : ndarray, (rows, items)
    steps : ndarray, (1,) or (rows,)
        Of all rows, or of each; not negative.
    levels : tuple
        As of :func:`levels`.
    """
    first, last = share(len(w), worker, workers)
    for row in range(first, last):
        _quantize(w[row], q[row], steps[row % steps.size], levels)


@parallel
def quantize_rows_grad(worker, workers, w, dw, steps, levels, sums):
    """Turn the gradient of rounded rows into that of the rows, in place.

    Parameters
    ----------
    w, dw : ndarray, (rows, items)
    steps, levels
        As of :func:`quantize_rows`.
    sums : ndarray, (rows,), float64
        Gets the gradient of each row's step.
    """
    products = np.empty(SUMMED, w.dtype)
    first, last = share(len(w), worker, workers)
    for row in range(first, last):
        gradient, step = dw[row], steps[row % steps.size]
        sums[row] = _differentiate(w[row], gradient, gradient, step, levels, False, products)
