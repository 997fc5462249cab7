"""The gradient of batch normalisation, of the residual added to it, and of the ReLU behind both.

With g the gradient of what comes before the ReLU, and M pixels in a channel::

    dx = gamma * inv_std * (g - sum(g) / M - xhat * sum(g * xhat) / M)

As forward, a channel is done from its sums to its result before the next one is begun.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lowerconv.codegen.compiled import internal, njit
from lowerconv.codegen.ranges import share
from lowerconv.ops.batch_norm import CHANNELS, Statistics
from lowerconv.ops.blocks import BLOCK, block_of, cut, gathers, in_place, load, scatter, target_of
from lowerconv.ops.elementwise import mask
from lowerconv.ops.images import Images, bare_images, same_memory
from lowerconv.runtime.launch import parallel, run_on_team


class GradOperands(NamedTuple):
    """What the gradient is computed of, and where its results go.

    `dx` may be `dy`, or else `residual` may be, if it is not added to.
    """

    dy: Images  # gradient of the result
    y: Images  # the result: read for its sign alone, and only behind a ReLU
    x: Images  # what was normalised
    dx: Images
    residual: Images  # gradient of the residual; empty: not wanted


@internal
def _bare(operands):
    dy, y, x, dx, residual = operands
    return GradOperands(
        bare_images(dy), bare_images(y), bare_images(x), bare_images(dx), bare_images(residual)
    )


@internal(fastmath={"reassoc", "contract"})
def _products(gradient, x, middle):
    """Return the sums of the gradient and of its products with the deviations of `x`."""
    total = products = x.dtype.type(0)
    for i in range(gradient.size):
        total += gradient[i]
        products += gradient[i] * (x[i] - middle)
    return total, products


@internal
def _pass_on(gradient, residual, add):
    """Copy the gradient to that of the residual, unless it is the same memory, or add it."""
    if add:
        for i in range(gradient.size):
            residual[i] += gradient[i]
    elif not same_memory(gradient, residual):
        for i in range(gradient.size):
            residual[i] = gradient[i]


@internal
def _sums_of(c, parts, blocks, operands, statistics, relu, add, buffers):
    """Return the sums of g and of g * xhat over some blocks of a channel; mask and pass on g."""
    dy, y, x, dx, residual = operands
    mean = statistics.mean[c]
    middle = x.flat.dtype.type(mean)
    total, products = 0.0, 0.0
    for number in range(blocks[0], blocks[1]):
        block = block_of(number, x, parts)
        gradient = load(dy, c, block, buffers[0])
        if relu:
            target = target_of(gradient, dx, c, block)
            mask(gradient, load(y, c, block, buffers[1]), target)
            if gathers(dx, block):
                scatter(target, dx, c, block, False)
            gradient = target
        if residual.flat.size:
            if gathers(residual, block):
                scatter(gradient, residual, c, block, add)
            else:
                _pass_on(gradient, in_place(residual, c, block), add)
        own, own_products = _products(gradient, load(x, c, block, buffers[1]), middle)
        total += own
        products += own_products
    return total, (products + (np.float64(middle) - mean) * total) * statistics.inv_std[c]


@internal
def _gradient_sums(worker, workers, sums, operands, statistics, relu, add):
    x = operands.x
    parts = cut(x)
    buffers = np.empty(BLOCK, x.flat.dtype), np.empty(BLOCK, x.flat.dtype)
    first, last = share(x.C * parts.groups, worker, workers)
    for task in range(first, last):
        blocks = share(parts.blocks, task % parts.groups, parts.groups)
        sums[2 * task], sums[2 * task + 1] = _sums_of(
            task // parts.groups, parts, blocks, operands, statistics, relu, add, buffers
        )


@njit(cache=True, nogil=True)
def gradient_sums(team, operands, statistics, sums, relu, add):
    """Add up g and g * xhat over each channel, as one rank's part of a batch.

    Where `relu` is set, g is left in `dx` for :func:`input_gradient`; else it is `dy`.

    Parameters
    ----------
    sums : ndarray, (2, C), float64
        The results: the gradients of beta and of gamma.
    others
        As of :func:`batch_norm_grad`.
    """
    operands, statistics = _bare(operands), Statistics(*statistics)
    C, groups = operands.x.C, cut(operands.x).groups
    parts = np.empty(2 * C * groups)
    run_on_team(team, _gradient_sums, (parts, operands, statistics, relu, add))
    for c in range(C):
        sums[0, c], sums[1, c] = 0.0, 0.0
        for i in range(2 * c * groups, 2 * (c + 1) * groups, 2):
            sums[0, c] += parts[i]
            sums[1, c] += parts[i + 1]


@internal
def _input(gradient, x, dx, coefficients):
    middle, slope, shift, scale = coefficients
    if same_memory(gradient, dx):
        for i in range(dx.size):
            dx[i] = (dx[i] - shift - (x[i] - middle) * slope) * scale
    else:
        for i in range(dx.size):
            dx[i] = (gradient[i] - shift - (x[i] - middle) * slope) * scale


@internal(error_model="numpy")
def _coefficients(c, statistics, gamma, sums, count, kind):
    """Return the coefficients with which :func:`_input` computes the gradient of a channel."""
    mean, inv_std = statistics.mean[c], statistics.inv_std[c]
    middle = kind(mean)
    factor = sums[1, c] / count * inv_std
    shift = kind(sums[0, c] / count + (np.float64(middle) - mean) * factor)
    return middle, kind(factor), shift, kind(gamma[c] * inv_std)


@internal
def _input_block(number, c, parts, operands, relu, coefficients, buffers):
    dy, _, x, dx, _ = operands
    block = block_of(number, x, parts)
    gradient = load(dx if relu else dy, c, block, buffers[0])
    target = target_of(gradient, dx, c, block)
    _input(gradient, load(x, c, block, buffers[1]), target, coefficients)
    if gathers(dx, block):
        scatter(target, dx, c, block, False)


@parallel
def input_gradient(worker, workers, operands, statistics, gamma, sums, count, relu):
    """Write dx, from the sums over the whole batch.

    Parameters
    ----------
    operands : GradOperands
        With g as :func:`gradient_sums` has left it.
    sums : ndarray, (2, C), float64
        Those of all ranks, added up.
    count : int
        Pixels of a channel in the whole batch.
    others
        As of :func:`batch_norm_grad`.
    """
    operands, statistics = _bare(operands), Statistics(*statistics)
    x = operands.x
    parts = cut(x)
    buffers = np.empty(BLOCK, x.flat.dtype), np.empty(BLOCK, x.flat.dtype)
    first, last = share(x.C * parts.blocks, worker, workers)
    for task in range(first, last):
        c = task // parts.blocks
        coefficients = _coefficients(c, statistics, gamma, sums, count, x.flat.dtype.type)
        _input_block(task % parts.blocks, c, parts, operands, relu, coefficients, buffers)


@internal
def _batch_norm_grad(worker, workers, operands, statistics, gamma, sums, relu, add):
    x = operands.x
    count, kind = x.N * x.H * x.W, x.flat.dtype.type
    parts = cut(x)
    buffers = np.empty(BLOCK, x.flat.dtype), np.empty(BLOCK, x.flat.dtype)
    first, last = share(x.C, worker, workers)
    for c in range(first, last):
        sums[0, c], sums[1, c] = 0.0, 0.0
        for group in range(parts.groups):
            blocks = share(parts.blocks, group, parts.groups)
            total, products = _sums_of(c, parts, blocks, operands, statistics, relu, add, buffers)
            sums[0, c] += total
            sums[1, c] += products
        coefficients = _coefficients(c, statistics, gamma, sums, count, kind)
        for number in range(parts.blocks - 1, -1, -1):  # what was read last is nearest
            _input_block(number, c, parts, operands, relu, coefficients, buffers)


@njit(cache=True, nogil=True)
def batch_norm_grad(team, operands, statistics, gamma, dgamma, dbeta, relu, add):
    """Compute the gradients of :func:`batch_norm.batch_norm`.

    Parameters
    ----------
    operands : GradOperands
    statistics : Statistics
        As `batch_norm` has left them.
    gamma, dgamma, dbeta : ndarray, (C,)
    relu : bool
        Whether the result was the positive part.
    add : bool
        Whether the residual's gradient is added to what is there.
    """
    operands, statistics = _bare(operands), Statistics(*statistics)
    x = operands.x
    sums = np.empty((2, x.C))
    if CHANNELS * team.threads <= x.C:
        run_on_team(team, _batch_norm_grad, (operands, statistics, gamma, sums, relu, add))
    else:
        gradient_sums(team, operands, statistics, sums, relu, add)
        input_gradient(team, operands, statistics, gamma, sums, x.N * x.H * x.W, relu)
    for c in range(x.C):
        dbeta[c], dgamma[c] = sums[0, c], sums[1, c]
