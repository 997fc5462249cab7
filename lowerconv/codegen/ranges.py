"""Ranges of indices in compiled loops: a worker's share, and where a tap meets the image."""

from __future__ import annotations

from lowerconv.codegen.compiled import njit


@njit(cache=True, nogil=True)
def share(count, worker, workers):
    """Return the range of tasks of one worker."""
    return count * worker // workers, count * (worker + 1) // workers


@njit(cache=True, nogil=True)
def inside(extent, shift, stride, limit):
    """Return the ``i`` in ``0:limit`` with ``0 <= i * stride + shift < extent``, as a range."""
    first = 0 if shift >= 0 else (-shift + stride - 1) // stride
    last = (extent - 1 - shift) // stride + 1 if extent > shift else 0
    first = min(first, limit)
    return first, max(first, min(last, limit))
