"""Weights that are -a, 0 or a: of each row, what a threshold of its own leaves.

::

    threshold = 0.7 mean |w|;   a = mean of |w| above it;   t = a sign(w) where |w| > threshold

Li, Zhang, Liu, "Ternary weight networks" (2016), equations 5 and 6, where rows are all weights of
a layer.  A row with NaN or infinite weights becomes NaN, which training notices.
"""

from __future__ import annotations

import numpy as np

from lowerconv.codegen.compiled import internal
from lowerconv.codegen.ranges import share
from lowerconv.runtime.launch import parallel

THRESHOLD = 0.7  # of the mean magnitude: equation 6


@internal
def _threshold(w):
    total = 0.0
    for i in range(w.size):
        total += np.float64(abs(w[i]))
    return w.dtype.type(THRESHOLD * (total / max(1, w.size)))


@internal
def _scale(w, threshold):
    total, count = 0.0, 0
    for i in range(w.size):
        if abs(w[i]) > threshold:
            total += np.float64(abs(w[i]))
            count += 1
    return w.dtype.type(total / max(1, count))


@parallel
def ternarize_rows(worker, workers, w, t):
    """Write the ternary weights of each row.

    Parameters
    ----------
    w, t : ndarray, (rows, items)
    """
    nothing = w.dtype.type(0)
    first, last = share(len(w), worker, workers)
    for row in range(first, last):
        source, target = w[row], t[row]
        threshold = _threshold(source)
        if not np.isfinite(threshold):
            target[:] = np.nan
            continue
        scale = _scale(source, threshold)
        for i in range(target.size):
            value = source[i]
            above = scale if value > threshold else nothing
            target[i] = -scale if value < -threshold else above
