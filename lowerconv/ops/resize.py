"""Resizing images: each pixel of the result is a weighted sum of a few rows and a few columns."""

import numpy as np

from lowerconv.codegen.ranges import share
from lowerconv.ops.images import bare_images, plane
from lowerconv.runtime.launch import parallel


@parallel
def resize(worker, workers, x, y, rows, columns):
    """Write resized images to `y`.

    Parameters
    ----------
    x, y : Images
    rows, columns : (ndarray, ndarray)
        Which rows or columns of `x` each of `y` is made of, (pixels, taps), int64; and the weight
        of each, of the dtype.
    """
    x, y = bare_images(x), bare_images(y)
    (row, row_weight), (column, column_weight) = rows, columns
    mixed = np.empty(x.W, x.flat.dtype)
    first, last = share(y.N * y.C * y.H, worker, workers)
    for task in range(first, last):
        image, p = plane(x, task // y.H), task % y.H
        target = plane(y, task // y.H)[p * y.W : (p + 1) * y.W]
        for t in range(row.shape[1]):
            weight, source = row_weight[p, t], image[row[p, t] * x.W : (row[p, t] + 1) * x.W]
            if t == 0:
                for i in range(x.W):
                    mixed[i] = weight * source[i]
            else:
                for i in range(x.W):
                    mixed[i] += weight * source[i]
        for u in range(column.shape[1]):
            if u == 0:
                for q in range(y.W):
                    target[q] = column_weight[q, 0] * mixed[column[q, 0]]
            else:
                for q in range(y.W):
                    target[q] += column_weight[q, u] * mixed[column[q, u]]


@parallel
def resize_grad(worker, workers, dy, dx, rows, columns):
    """Add the gradient of :func:`resize` with respect to `x` to `dx`; parameters as there."""
    dy, dx = bare_images(dy), bare_images(dx)
    (row, row_weight), (column, column_weight) = rows, columns
    mixed = np.empty(dx.W, dx.flat.dtype)
    first, last = share(dx.N * dx.C, worker, workers)
    for number in range(first, last):
        image, gradient = plane(dx, number), plane(dy, number)
        for p in range(dy.H):
            source = gradient[p * dy.W : (p + 1) * dy.W]
            mixed[:] = 0
            for u in range(column.shape[1]):
                for q in range(dy.W):
                    mixed[column[q, u]] += column_weight[q, u] * source[q]
            for t in range(row.shape[1]):
                weight, begin = row_weight[p, t], row[p, t] * dx.W
                for i in range(dx.W):
                    image[begin + i] += weight * mixed[i]
