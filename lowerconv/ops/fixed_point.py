"""Numbers rounded to fixed point: IL bits before the point, its sign among them, and FL after it.

::

    e = 2^-FL;   f = x / e - floor(x / e)

    stochastic:   e (floor(x / e) + 1)  with probability f,   else e floor(x / e)
    nearest:      e (floor(x / e) + 1)  where f > 1/2,        else e floor(x / e)

What is outside of [-2^(IL-1), 2^(IL-1) - e] becomes the end of it, infinite numbers too; NaN stays
NaN.  Gupta, Agrawal, Gopalakrishnan, Narayanan, "Deep learning with limited numerical precision"
(2015), section 3.

What an item draws follows from a key and from its place alone, by a hash of a counter: on any
number of threads and ranks the same.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lowerconv.codegen.compiled import internal
from lowerconv.codegen.ranges import share
from lowerconv.ops.elementwise import GOLDEN, mix
from lowerconv.ops.images import bare_images, piece_bounds, pieces_of
from lowerconv.runtime.launch import parallel

_UNIFORM = 2.0**-53
_DROPPED = np.uint64(11)  # bits, of 64: float64 holds the others


class Rounding(NamedTuple):
    """How numbers are rounded, as kernels take it.

    Attributes
    ----------
    scale, step : float
        2^FL and 2^-FL.
    low, high : float
        The ends of the range, in steps.
    key : uint64
        Different for each array and use of it; not used where rounding is to nearest.
    stochastic : bool
    """

    scale: float
    step: float
    low: float
    high: float
    key: np.uint64
    stochastic: bool


@internal
def _rounded(value, threshold, scale, step, low, high):
    steps = value * scale
    steps = low if steps < low else steps  # so written, NaN stays NaN
    steps = high if steps > high else steps
    below = np.floor(steps)
    return (below + (1.0 if steps - below > threshold else 0.0)) * step


@internal
def _round(x, y, place, rounding, add):
    """Write or add the rounded items of `x`, the first of which has this place."""
    scale, step, low, high, key, stochastic = rounding
    kind = y.dtype.type
    first = key + np.uint64(place) * GOLDEN
    if stochastic:
        for i in range(y.size):
            drawn = mix(first + np.uint64(i) * GOLDEN) >> _DROPPED
            threshold = np.float64(np.int64(drawn)) * _UNIFORM
            rounded = kind(_rounded(np.float64(x[i]), threshold, scale, step, low, high))
            y[i] = y[i] + rounded if add else rounded
    else:
        for i in range(y.size):
            rounded = kind(_rounded(np.float64(x[i]), 0.5, scale, step, low, high))
            y[i] = y[i] + rounded if add else rounded


@parallel
def round_images(worker, workers, x, y, samples, rounding, add):
    """Write the rounded items of images, or add them.

    Parameters
    ----------
    x, y : Images
        They may be the same.
    samples : ndarray, (N,), int64
        Place of each image in the global batch.
    rounding : Rounding
    add : bool
        Whether `y` is added to; not where it is `x`.
    """
    x, y = bare_images(x), bare_images(y)
    pieces, items = pieces_of(x), x.C * x.H * x.W
    first, last = share(x.N * pieces, worker, workers)
    for task in range(first, last):
        n, begin, end = piece_bounds(x, task, pieces)
        source = x.flat[n * x.step + begin : n * x.step + end]
        target = y.flat[n * y.step + begin : n * y.step + end]
        _round(source, target, samples[n] * items + begin, rounding, add)


@parallel
def round_range(worker, workers, values, begin, end, rounding):
    """Round items ``begin:end`` of a flat array in place.

    Parameters
    ----------
    values : ndarray, (items,)
    begin, end : int
    rounding : Rounding
    """
    first, last = share(end - begin, worker, workers)
    part = values[begin + first : begin + last]
    _round(part, part, begin + first, rounding, False)
