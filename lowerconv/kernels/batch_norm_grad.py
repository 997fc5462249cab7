"""The gradient of batch normalisation, of the residual added to it, and of the ReLU behind both.

With g the gradient of what comes before the ReLU, and M pixels in a channel::

    dx = gamma * inv_std * (g - sum(g) / M - xhat * sum(g * xhat) / M)

As forward, a channel is done from its sums to its result before the next one is begun.
"""

import numpy as np
from numba import njit

from lowerconv.kernels.batch_norm import CHANNELS
from lowerconv.kernels.call import share, spread
from lowerconv.kernels.elementwise import SUMMED, cut_channel, piece_of


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _products(gradient, x, middle):
    """Return the sums of the gradient and of its products with the deviations of `x`."""
    total = products = x.dtype.type(0)
    for i in range(gradient.size):
        total += gradient[i]
        products += gradient[i] * (x[i] - middle)
    return total, products


@njit(cache=True, nogil=True)
def _mask(dy, y, dx):
    """Write `dy` where ``y > 0`` to `dx`, which may be `dy`."""
    zero = dy.dtype.type(0)
    if dx.ctypes.data == dy.ctypes.data:
        for i in range(dx.size):
            dx[i] = dx[i] if y[i] > 0 else zero
    else:
        for i in range(dx.size):
            dx[i] = dy[i] if y[i] > 0 else zero


@njit(cache=True, nogil=True)
def _pass_on(gradient, residual, add):
    """Copy the gradient to that of the residual, unless it is the same memory, or add it."""
    if add:
        for i in range(gradient.size):
            residual[i] += gradient[i]
    elif gradient.ctypes.data != residual.ctypes.data:
        for i in range(gradient.size):
            residual[i] = gradient[i]


@njit(cache=True, nogil=True)
def _sums_of(
    c, begin, end, dy, dy_step, y, y_step, x, x_step, dx, dx_step, residual, residual_step, mean,
    inv_std, pixels, pieces, relu, add,
):  # fmt: skip
    """Return the sums of g and of g * xhat over some pieces of a channel; mask and pass on g."""
    middle = x.dtype.type(mean[c])
    total, products = 0.0, 0.0
    for piece in range(begin, end):
        n, start, stop = piece_of(piece, pieces, pixels)
        for i in range(start, stop, SUMMED):
            first, last = c * pixels + i, c * pixels + min(i + SUMMED, stop)
            gradient = dy[n * dy_step + first : n * dy_step + last]
            if relu:
                masked = dx[n * dx_step + first : n * dx_step + last]
                _mask(gradient, y[n * y_step + first : n * y_step + last], masked)
                gradient = masked
            if residual.size:
                at = n * residual_step
                _pass_on(gradient, residual[at + first : at + last], add)
            own, own_products = _products(
                gradient, x[n * x_step + first : n * x_step + last], middle
            )
            total += own
            products += own_products
    return total, (products + (np.float64(middle) - mean[c]) * total) * inv_std[c]


@njit(cache=True, nogil=True)
def _sums_share(
    worker, workers, parts, dy, dy_step, y, y_step, x, x_step, dx, dx_step, residual,
    residual_step, mean, inv_std, N, C, pixels, relu, add,
):  # fmt: skip
    pieces, groups = cut_channel(N, C, pixels)
    first, last = share(C * groups, worker, workers)
    for task in range(first, last):
        begin, end = share(N * pieces, task % groups, groups)
        parts[2 * task], parts[2 * task + 1] = _sums_of(
            task // groups, begin, end, dy, dy_step, y, y_step, x, x_step, dx, dx_step,
            residual, residual_step, mean, inv_std, pixels, pieces, relu, add,
        )  # fmt: skip


@njit(cache=True, nogil=True)
def gradient_sums(
    team, dy, dy_step, y, y_step, x, x_step, dx, dx_step, residual, residual_step, mean, inv_std,
    sums, products, N, C, pixels, relu, add,
):  # fmt: skip
    """Add up g and g * xhat over each channel, as one rank's part of a batch.

    Where `relu` is set, g is left in `dx` for :func:`input_gradient`; else it is `dy`.

    Parameters
    ----------
    sums, products : ndarray, (C,), float64
        The results: the gradients of beta and of gamma.
    others
        As of :func:`batch_norm_grad`.
    """
    _, groups = cut_channel(N, C, pixels)
    parts = np.empty(2 * C * groups)
    spread(
        team, _sums_share,
        (
            parts, dy, dy_step, y, y_step, x, x_step, dx, dx_step, residual, residual_step,
            mean, inv_std, N, C, pixels, relu, add,
        ),
    )  # fmt: skip
    for c in range(C):
        sums[c], products[c] = 0.0, 0.0
        for i in range(2 * c * groups, 2 * (c + 1) * groups, 2):
            sums[c] += parts[i]
            products[c] += parts[i + 1]


@njit(cache=True, nogil=True)
def _input_piece(gradient, x, dx, middle, slope, shift, scale):
    if gradient.ctypes.data == dx.ctypes.data:
        for i in range(dx.size):
            dx[i] = (dx[i] - shift - (x[i] - middle) * slope) * scale
    else:
        for i in range(dx.size):
            dx[i] = (gradient[i] - shift - (x[i] - middle) * slope) * scale


@njit(cache=True, nogil=True)
def _input_plane(
    n, c, start, stop, gradient, step, x, x_step, dx, dx_step, mean, inv_std, gamma, total,
    product, count, pixels,
):  # fmt: skip
    kind = x.dtype.type
    middle = kind(mean[c])
    slope = product / count * inv_std[c]
    shift = total / count + (np.float64(middle) - mean[c]) * slope
    first, last = c * pixels + start, c * pixels + stop
    _input_piece(
        gradient[n * step + first : n * step + last],
        x[n * x_step + first : n * x_step + last],
        dx[n * dx_step + first : n * dx_step + last],
        middle, kind(slope), kind(shift), kind(gamma[c] * inv_std[c]),
    )  # fmt: skip


@njit(cache=True, nogil=True)
def _input_share(
    worker, workers, gradient, step, x, x_step, dx, dx_step, mean, inv_std, gamma, sums,
    products, count, N, C, pixels,
):  # fmt: skip
    pieces, _ = cut_channel(N, C, pixels)
    first, last = share(N * C * pieces, worker, workers)
    for task in range(first, last):
        plane, start, stop = piece_of(task, pieces, pixels)
        n, c = plane // C, plane % C
        _input_plane(
            n, c, start, stop, gradient, step, x, x_step, dx, dx_step, mean, inv_std, gamma,
            sums[c], products[c], count, pixels,
        )  # fmt: skip


@njit(cache=True, nogil=True)
def input_gradient(
    team, gradient, step, x, x_step, dx, dx_step, mean, inv_std, gamma, sums, products, count, N,
    C, pixels,
):  # fmt: skip
    """Write dx, from the sums over the whole batch.

    Parameters
    ----------
    gradient : ndarray, 1-D
        g as :func:`gradient_sums` has left it: `dx` with ReLU, else `dy`.
    sums, products : ndarray, (C,), float64
        Those of all ranks, added up.
    count : int
        Pixels of a channel in the whole batch.
    others
        As of :func:`batch_norm_grad`.
    """
    spread(
        team, _input_share,
        (
            gradient, step, x, x_step, dx, dx_step, mean, inv_std, gamma, sums, products, count,
            N, C, pixels,
        ),
    )  # fmt: skip


@njit(cache=True, nogil=True)
def _batch_norm_grad_share(
    worker, workers, dy, dy_step, y, y_step, x, x_step, dx, dx_step, residual, residual_step,
    mean, inv_std, gamma, sums, products, N, C, pixels, relu, add,
):  # fmt: skip
    pieces, groups = cut_channel(N, C, pixels)
    gradient, step = (dx, dx_step) if relu else (dy, dy_step)
    first, last = share(C, worker, workers)
    for c in range(first, last):
        total, product = 0.0, 0.0
        for group in range(groups):
            begin, end = share(N * pieces, group, groups)
            more, more_products = _sums_of(
                c, begin, end, dy, dy_step, y, y_step, x, x_step, dx, dx_step, residual,
                residual_step, mean, inv_std, pixels, pieces, relu, add,
            )  # fmt: skip
            total += more
            product += more_products
        sums[c], products[c] = total, product
        for n in range(N - 1, -1, -1):  # what was read last is nearest
            _input_plane(
                n, c, 0, pixels, gradient, step, x, x_step, dx, dx_step, mean, inv_std, gamma,
                total, product, N * pixels, pixels,
            )  # fmt: skip


@njit(cache=True, nogil=True)
def batch_norm_grad(
    team, dy, dy_step, y, y_step, x, x_step, dx, dx_step, residual, residual_step, mean, inv_std,
    gamma, dgamma, dbeta, N, C, pixels, relu, add,
):  # fmt: skip
    """Compute the gradients of :func:`batch_norm.batch_norm`.

    Parameters
    ----------
    team : Handle
        From `threads.parallel_region`.
    dy, y, x, dx, residual : ndarray, 1-D
        (N, C, pixels) each, from its first item on: the gradient of the result; the result, which
        is read for its sign alone, and only where `relu` is set; what was normalised; and the
        results, the gradients of that and of the residual (empty: not wanted).  `dx` may be `dy`,
        or else the residual's gradient may be, if it is not added to.
    dy_step, y_step, x_step, dx_step, residual_step : int
        Items from one image to the next.
    mean, inv_std : ndarray, (C,), float64
        As `batch_norm` has left them.
    gamma, dgamma, dbeta : ndarray, (C,)
    relu : bool
        Whether the result was the positive part.
    add : bool
        Whether the residual's gradient is added to what is there.
    """
    sums, products = np.empty(C), np.empty(C)
    if CHANNELS * team.threads <= C:
        spread(
            team, _batch_norm_grad_share,
            (
                dy, dy_step, y, y_step, x, x_step, dx, dx_step, residual, residual_step, mean,
                inv_std, gamma, sums, products, N, C, pixels, relu, add,
            ),
        )  # fmt: skip
    else:
        gradient_sums(
            team, dy, dy_step, y, y_step, x, x_step, dx, dx_step, residual, residual_step, mean,
            inv_std, sums, products, N, C, pixels, relu, add,
        )  # fmt: skip
        gradient, step = (dx, dx_step) if relu else (dy, dy_step)
        input_gradient(
            team, gradient, step, x, x_step, dx, dx_step, mean, inv_std, gamma, sums, products,
            N * pixels, N, C, pixels,
        )  # fmt: skip
    for c in range(C):
        dgamma[c], dbeta[c] = products[c], sums[c]
