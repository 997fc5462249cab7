"""The gradient of batch normalisation, of the residual added to it, and of the ReLU behind both.

With g the gradient of what comes before the ReLU, and M pixels in a channel::

    dx = gamma * inv_std * (g - sum(g) / M - xhat * sum(g * xhat) / M)

As forward, a channel is done from its sums to its result before the next one is begun.
"""

import numpy as np

from lowerconv.codegen.compiled import njit
from lowerconv.codegen.masked import bare
from lowerconv.codegen.ranges import share
from lowerconv.ops.batch_norm import CHANNELS
from lowerconv.ops.blocks import BLOCK, block_of, cut, gather, scatter
from lowerconv.runtime.launch import spread


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
    inv_std, N, pixels, together, pieces, relu, add, buffer, other,
):  # fmt: skip
    """Return the sums of g and of g * xhat over some blocks of a channel; mask and pass on g."""
    middle = x.dtype.type(mean[c])
    total, products = 0.0, 0.0
    own, own_products = x.dtype.type(0), x.dtype.type(0)
    for block in range(begin, end):
        n, images, start, stop = block_of(block, N, pixels, together, pieces)
        at, to = n * dy_step + c * pixels, n * dx_step + c * pixels
        at_y, at_x = n * y_step + c * pixels, n * x_step + c * pixels
        at_residual = n * residual_step + c * pixels
        if images > 1:
            size = images * pixels
            gradient = buffer[:size]
            gather(dy, at, dy_step, images, pixels, buffer)
            if relu:
                gather(y, at_y, y_step, images, pixels, other)
                _mask(gradient, other[:size], gradient)
                scatter(buffer, dx, to, dx_step, images, pixels, False)
            if residual.size:
                scatter(buffer, residual, at_residual, residual_step, images, pixels, add)
            gather(x, at_x, x_step, images, pixels, other)
            own, own_products = _products(gradient, other[:size], middle)
        else:
            values = x[at_x + start : at_x + stop]
            passed = residual[at_residual + start : at_residual + stop]
            if relu:
                gradient = dx[to + start : to + stop]
                _mask(dy[at + start : at + stop], y[at_y + start : at_y + stop], gradient)
                if residual.size:
                    _pass_on(gradient, passed, add)
                own, own_products = _products(gradient, values, middle)
            else:
                gradient = dy[at + start : at + stop]
                if residual.size:
                    _pass_on(gradient, passed, add)
                own, own_products = _products(gradient, values, middle)
        total += own
        products += own_products
    return total, (products + (np.float64(middle) - mean[c]) * total) * inv_std[c]


@njit(cache=True, nogil=True)
def _sums_share(
    worker, workers, parts, dy, dy_step, y, y_step, x, x_step, dx, dx_step, residual,
    residual_step, mean, inv_std, N, C, pixels, relu, add,
):  # fmt: skip
    dy, y, x, dx, residual = bare(dy), bare(y), bare(x), bare(dx), bare(residual)
    together, pieces, blocks, groups = cut(N, C, pixels)
    buffer, other = np.empty(BLOCK, x.dtype), np.empty(BLOCK, x.dtype)
    first, last = share(C * groups, worker, workers)
    for task in range(first, last):
        begin, end = share(blocks, task % groups, groups)
        parts[2 * task], parts[2 * task + 1] = _sums_of(
            task // groups, begin, end, dy, dy_step, y, y_step, x, x_step, dx, dx_step,
            residual, residual_step, mean, inv_std, N, pixels, together, pieces, relu, add,
            buffer, other,
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
    _, _, _, groups = cut(N, C, pixels)
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
def _input(gradient, x, dx, middle, slope, shift, scale):
    if gradient.ctypes.data == dx.ctypes.data:
        for i in range(dx.size):
            dx[i] = (dx[i] - shift - (x[i] - middle) * slope) * scale
    else:
        for i in range(dx.size):
            dx[i] = (gradient[i] - shift - (x[i] - middle) * slope) * scale


@njit(cache=True, nogil=True, error_model="numpy")
def _input_block(
    block, c, gradient, step, x, x_step, dx, dx_step, mean, inv_std, gamma, total, product, count,
    N, pixels, together, pieces, buffer, other,
):  # fmt: skip
    kind = x.dtype.type
    middle = kind(mean[c])
    factor = product / count * inv_std[c]
    shift = kind(total / count + (np.float64(middle) - mean[c]) * factor)
    slope, scale = kind(factor), kind(gamma[c] * inv_std[c])
    n, images, start, stop = block_of(block, N, pixels, together, pieces)
    at, at_x, to = n * step + c * pixels, n * x_step + c * pixels, n * dx_step + c * pixels
    if images > 1:
        size = images * pixels
        gather(gradient, at, step, images, pixels, buffer)
        gather(x, at_x, x_step, images, pixels, other)
        part = buffer[:size]
        _input(part, other[:size], part, middle, slope, shift, scale)
        scatter(buffer, dx, to, dx_step, images, pixels, False)
    else:
        _input(
            gradient[at + start : at + stop], x[at_x + start : at_x + stop],
            dx[to + start : to + stop], middle, slope, shift, scale,
        )  # fmt: skip


@njit(cache=True, nogil=True)
def _input_share(
    worker, workers, gradient, step, x, x_step, dx, dx_step, mean, inv_std, gamma, sums,
    products, count, N, C, pixels,
):  # fmt: skip
    gradient, x, dx = bare(gradient), bare(x), bare(dx)
    together, pieces, blocks, _ = cut(N, C, pixels)
    buffer, other = np.empty(BLOCK, x.dtype), np.empty(BLOCK, x.dtype)
    first, last = share(C * blocks, worker, workers)
    for task in range(first, last):
        c = task // blocks
        _input_block(
            task % blocks, c, gradient, step, x, x_step, dx, dx_step, mean, inv_std, gamma,
            sums[c], products[c], count, N, pixels, together, pieces, buffer, other,
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
    dy, y, x, dx, residual = bare(dy), bare(y), bare(x), bare(dx), bare(residual)
    together, pieces, blocks, groups = cut(N, C, pixels)
    buffer, other = np.empty(BLOCK, x.dtype), np.empty(BLOCK, x.dtype)
    gradient, step = (dx, dx_step) if relu else (dy, dy_step)
    first, last = share(C, worker, workers)
    for c in range(first, last):
        total, product = 0.0, 0.0
        for group in range(groups):
            begin, end = share(blocks, group, groups)
            more, more_products = _sums_of(
                c, begin, end, dy, dy_step, y, y_step, x, x_step, dx, dx_step, residual,
                residual_step, mean, inv_std, N, pixels, together, pieces, relu, add, buffer, other,
            )  # fmt: skip
            total += more
            product += more_products
        sums[c], products[c] = total, product
        for block in range(blocks - 1, -1, -1):  # what was read last is nearest
            _input_block(
                block, c, gradient, step, x, x_step, dx, dx_step, mean, inv_std, gamma, total,
                product, N * pixels, N, pixels, together, pieces, buffer, other,
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
