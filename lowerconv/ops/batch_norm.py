"""Batch normalisation, with what comes after it: a residual that is added, and ReLU.

Ioffe, Szegedy, "Batch normalization: accelerating deep network training by reducing internal
covariate shift" (ICML 2015).  A channel is done from its statistics to its result before the next
one is begun, so that its pixels of all images stay in the L2 cache in between.

The statistics are means and sums of squared deviations of ranges of pixels, each about the mean of
the ranges before it, merged in float64 as in Chan, Golub, LeVeque, "Updating formulae and a
pairwise algorithm for computing sample variances" (1979), equation 2.1: a large mean beside a small
variance costs no digits, and parts of a batch on several ranks merge in the same way.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lowerconv.codegen.compiled import internal, njit
from lowerconv.codegen.ranges import share
from lowerconv.ops.blocks import BLOCK, block_of, cut, gathers, load, scatter, target_of
from lowerconv.ops.images import Images, bare_images, same_memory
from lowerconv.runtime.launch import parallel, run_on_team

CHANNELS = 4  # for each thread; where there are fewer, a channel is the work of several


class Operands(NamedTuple):
    """What is normalised, the result, and what is added to it."""

    x: Images
    y: Images  # may be one of the other two
    residual: Images  # empty: none


class Statistics(NamedTuple):
    """What a batch is normalised by, and its gradient needs: float64, (C,)."""

    mean: np.ndarray
    inv_std: np.ndarray  # 1 / sqrt(variance + eps), of the biased variance


class Parameters(NamedTuple):
    """Those of a layer, as in PyTorch: ``running = (1 - momentum) * running + momentum * new``."""

    gamma: np.ndarray  # (C,), of the images' dtype, as are the next three
    beta: np.ndarray
    running_mean: np.ndarray
    running_var: np.ndarray  # unbiased
    eps: float
    momentum: float


@internal
def _bare(operands):
    x, y, residual = operands
    return Operands(bare_images(x), bare_images(y), bare_images(residual))


@internal(fastmath={"reassoc", "contract"})
def _deviations(values, about):
    """Return the sums of deviations and of their squares."""
    total = squares = values.dtype.type(0)
    for i in range(values.size):
        deviation = values[i] - about
        total += deviation
        squares += deviation * deviation
    return total, squares


@internal(fastmath={"reassoc", "contract"})
def _deviations_of_first(values, about):
    """Return the same, adding up in float64: many equal numbers would all be rounded one way."""
    total, squares = 0.0, values.dtype.type(0)
    for i in range(values.size):
        deviation = values[i] - about
        total += np.float64(deviation)
        squares += deviation * deviation
    return total, squares


@njit(cache=True, nogil=True, error_model="numpy")
def merge(count, mean, m2, more, other_mean, other_m2):
    """Return count, mean and sum of squared deviations of two sets of numbers together."""
    both = count + more
    if both == 0:
        return both, mean, m2
    difference = other_mean - mean
    mean += difference * (more / both)
    return both, mean, m2 + other_m2 + difference * difference * (count * (more / both))


@internal(error_model="numpy")
def _statistics_of(x, c, parts, begin, end, buffer):
    """Return count, mean and squared deviations of some blocks of a channel."""
    kind = x.flat.dtype.type
    count, mean, m2 = 0.0, 0.0, 0.0
    for number in range(begin, end):
        values = load(x, c, block_of(number, x, parts), buffer)
        size = values.size
        if count == 0:  # nothing is known of the mean: the first sum of this range tells it nearly
            total, _ = _deviations(values, kind(0))
            about = kind(total / size)
            # Where other numbers are far from it, what rounding costs is small beside that.
            total, squares = _deviations_of_first(values, about)
        else:
            about = kind(mean)
            total, squares = _deviations(values, about)
        shift = np.float64(total) / size
        own = np.float64(squares) - shift * np.float64(total)
        own = 0.0 if own < 0 else own  # so written, NaN stays NaN
        count, mean, m2 = merge(count, mean, m2, float(size), about + shift, own)
    return count, mean, m2


@internal
def _statistics(worker, workers, x, sums):
    parts = cut(x)
    buffer = np.empty(BLOCK, x.flat.dtype)
    first, last = share(x.C * parts.groups, worker, workers)
    for task in range(first, last):
        begin, end = share(parts.blocks, task % parts.groups, parts.groups)
        sums[3 * task], sums[3 * task + 1], sums[3 * task + 2] = _statistics_of(
            x, task // parts.groups, parts, begin, end, buffer
        )


@njit(cache=True, nogil=True)
def channel_statistics(team, x, mean, m2):
    """Compute each channel's mean and sum of squared deviations, as one rank's part of a batch.

    Parameters
    ----------
    x : Images
    mean, m2 : ndarray, (C,), float64
        The results; those of several ranks merge by :func:`merge`.
    """
    x = bare_images(x)
    groups = cut(x).groups
    sums = np.empty(3 * x.C * groups)
    run_on_team(team, _statistics, (x, sums))
    for c in range(x.C):
        count, mean[c], m2[c] = 0.0, 0.0, 0.0
        for i in range(3 * c * groups, 3 * (c + 1) * groups, 3):
            count, mean[c], m2[c] = merge(count, mean[c], m2[c], sums[i], sums[i + 1], sums[i + 2])


@njit(cache=True, nogil=True, error_model="numpy")
def finish(statistics, m2, count, parameters, first, last):
    """Turn the statistics of channels ``first:last`` into what normalises, and remember them.

    Parameters
    ----------
    statistics : Statistics
        Gets `inv_std`.
    m2 : ndarray, (C,), float64
        The sums of squared deviations from the mean.
    count : int
        Pixels of a channel in the whole batch; running statistics stay as they are where there are
        none.
    parameters : Parameters
        Whose running statistics are updated.
    first, last : int
    """
    mean, inv_std = statistics
    _, _, running_mean, running_var, eps, momentum = parameters
    for c in range(first, last):
        inv_std[c] = 1 / np.sqrt(m2[c] / max(1, count) + eps)
        if count > 0:
            variance = m2[c] / max(1, count - 1)
            running_mean[c] = (1 - momentum) * running_mean[c] + momentum * mean[c]
            running_var[c] = (1 - momentum) * running_var[c] + momentum * variance


@internal
def _apply(x, y, residual, added, middle, scale, shift, floor):
    """``y = (x - middle) * scale + shift + residual``, at least `floor`; NaN stays NaN.

    A loop for each operand that the result may lie on (see `same_memory`).
    """
    on_x = same_memory(x, y)
    if added and same_memory(residual, y):
        for i in range(y.size):
            value = (x[i] - middle) * scale + shift + y[i]
            y[i] = floor if value < floor else value
    elif added and on_x:
        for i in range(y.size):
            value = (y[i] - middle) * scale + shift + residual[i]
            y[i] = floor if value < floor else value
    elif added:
        for i in range(y.size):
            value = (x[i] - middle) * scale + shift + residual[i]
            y[i] = floor if value < floor else value
    elif on_x:
        for i in range(y.size):
            value = (y[i] - middle) * scale + shift
            y[i] = floor if value < floor else value
    else:
        for i in range(y.size):
            value = (x[i] - middle) * scale + shift
            y[i] = floor if value < floor else value


@internal
def _apply_block(number, c, parts, operands, statistics, parameters, relu, buffers):
    x, y, residual = operands
    kind = x.flat.dtype.type
    mean = statistics.mean[c]
    middle = kind(mean)
    factor = parameters.gamma[c] * statistics.inv_std[c]
    # What rounding the mean took is given back.
    shift = kind(parameters.beta[c] + (np.float64(middle) - mean) * factor)
    floor = kind(0) if relu else kind(-np.inf)
    added = residual.flat.size > 0
    block = block_of(number, x, parts)
    source = load(x, c, block, buffers[0])
    target = target_of(source, y, c, block)
    other = load(residual, c, block, buffers[1]) if added else target
    _apply(source, target, other, added, middle, kind(factor), shift, floor)
    if gathers(y, block):
        scatter(target, y, c, block, False)


@parallel
def normalise(worker, workers, operands, statistics, parameters, relu):
    """Write ``gamma * (x - mean) * inv_std + beta + residual``, or its positive part, to `y`.

    With running statistics this is inference, with those of all ranks the forward pass of one.
    Parameters are those of :func:`batch_norm`.
    """
    operands, statistics = _bare(operands), Statistics(*statistics)
    parameters = Parameters(*parameters)
    x = operands.x
    parts = cut(x)
    buffers = np.empty(BLOCK, x.flat.dtype), np.empty(BLOCK, x.flat.dtype)
    first, last = share(x.C * parts.blocks, worker, workers)
    for task in range(first, last):
        c, number = task // parts.blocks, task % parts.blocks
        _apply_block(number, c, parts, operands, statistics, parameters, relu, buffers)


@internal
def _batch_norm(worker, workers, operands, statistics, m2, parameters, relu):
    x, mean = operands.x, statistics.mean
    parts = cut(x)
    buffers = np.empty(BLOCK, x.flat.dtype), np.empty(BLOCK, x.flat.dtype)
    first, last = share(x.C, worker, workers)
    for c in range(first, last):
        count, mean[c], m2[c] = 0.0, 0.0, 0.0
        for group in range(parts.groups):
            begin, end = share(parts.blocks, group, parts.groups)
            more, own_mean, own_m2 = _statistics_of(x, c, parts, begin, end, buffers[0])
            count, mean[c], m2[c] = merge(count, mean[c], m2[c], more, own_mean, own_m2)
        finish(statistics, m2, x.N * x.H * x.W, parameters, c, c + 1)
        for number in range(parts.blocks - 1, -1, -1):  # what was read last is nearest
            _apply_block(number, c, parts, operands, statistics, parameters, relu, buffers)


@njit(cache=True, nogil=True)
def batch_norm(team, operands, statistics, parameters, relu):
    """Normalise each channel by its own mean and variance over the batch.

    Parameters
    ----------
    operands : Operands
    statistics : Statistics
        Get what the gradient needs.
    parameters : Parameters
        Whose running statistics are updated (see :func:`finish`).
    relu : bool
        Whether the result is the positive part.
    """
    operands, statistics = _bare(operands), Statistics(*statistics)
    parameters = Parameters(*parameters)
    x = operands.x
    m2 = np.empty(x.C)
    if CHANNELS * team.threads <= x.C:
        run_on_team(team, _batch_norm, (operands, statistics, m2, parameters, relu))
        return
    channel_statistics(team, x, statistics.mean, m2)
    finish(statistics, m2, x.N * x.H * x.W, parameters, 0, x.C)
    normalise(team, operands, statistics, parameters, relu)
