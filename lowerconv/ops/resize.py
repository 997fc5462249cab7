"""Resizing images: each pixel of the result is a weighted sum of a few rows and a few columns."""

import numpy as np

from lowerconv.codegen.compiled import internal, njit
from lowerconv.codegen.masked import bare
from lowerconv.codegen.ranges import share
from lowerconv.runtime.launch import spread


@internal
def _resize_share(
    worker, workers, x, x_step, y, y_step, N, C, sizes, rows, row_weights, columns, column_weights
):
    H, W, P, Q = sizes
    x, y = bare(x), bare(y)
    taps, across = rows.shape[1], columns.shape[1]
    mixed = np.empty(W, x.dtype)
    first, last = share(N * C * P, worker, workers)
    for task in range(first, last):
        plane, p = task // P, task % P
        n, c = plane // C, plane % C
        image = x[n * x_step + c * H * W : n * x_step + (c + 1) * H * W]
        at = n * y_step + (c * P + p) * Q
        target = y[at : at + Q]
        weight = row_weights[p, 0]
        source = image[rows[p, 0] * W : rows[p, 0] * W + W]
        for i in range(W):
            mixed[i] = weight * source[i]
        for t in range(1, taps):
            weight = row_weights[p, t]
            source = image[rows[p, t] * W : rows[p, t] * W + W]
            for i in range(W):
                mixed[i] += weight * source[i]
        for q in range(Q):
            target[q] = column_weights[q, 0] * mixed[columns[q, 0]]
        for u in range(1, across):
            for q in range(Q):
                target[q] += column_weights[q, u] * mixed[columns[q, u]]


@njit(cache=True, nogil=True)
def resize(team, x, x_step, y, y_step, N, C, sizes, rows, row_weights, columns, column_weights):
    """Write resized images to `y`.

    Parameters
    ----------
    team : Handle
        From `threads.parallel_region`.
    x, y : ndarray, 1-D
        (N, C, H, W) and (N, C, P, Q), each from its first item on.
    x_step, y_step : int
        Items from one image to the next.
    N, C : int
    sizes : (H, W, P, Q)
    rows, columns : ndarray, (P, taps) and (Q, taps), int64
        Which rows and columns of `x` a row or column of `y` is made of.
    row_weights, column_weights : ndarray, as these, of the dtype
    """
    spread(
        team,
        _resize_share,
        (x, x_step, y, y_step, N, C, sizes, rows, row_weights, columns, column_weights),
    )


@internal
def _resize_grad_share(
    worker,
    workers,
    dy,
    dy_step,
    dx,
    dx_step,
    N,
    C,
    sizes,
    rows,
    row_weights,
    columns,
    column_weights,
):
    H, W, P, Q = sizes
    dy, dx = bare(dy), bare(dx)
    mixed = np.empty(W, dx.dtype)
    first, last = share(N * C, worker, workers)
    for plane in range(first, last):
        n, c = plane // C, plane % C
        target = dx[n * dx_step + c * H * W : n * dx_step + (c + 1) * H * W]
        for p in range(P):
            at = n * dy_step + (c * P + p) * Q
            source = dy[at : at + Q]
            mixed[:] = 0
            for u in range(columns.shape[1]):
                for q in range(Q):
                    mixed[columns[q, u]] += column_weights[q, u] * source[q]
            for t in range(rows.shape[1]):
                weight, begin = row_weights[p, t], rows[p, t] * W
                for i in range(W):
                    target[begin + i] += weight * mixed[i]


@njit(cache=True, nogil=True)
def resize_grad(
    team, dy, dy_step, dx, dx_step, N, C, sizes, rows, row_weights, columns, column_weights
):
    """Add the gradient of :func:`resize` with respect to `x` to `dx`."""
    spread(
        team,
        _resize_grad_share,
        (dy, dy_step, dx, dx_step, N, C, sizes, rows, row_weights, columns, column_weights),
    )
