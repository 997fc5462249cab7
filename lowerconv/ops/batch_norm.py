"""Batch normalisation, with what comes after it: a residual that is added, and ReLU.

Ioffe, Szegedy, "Batch normalization: accelerating deep network training by reducing internal
covariate shift" (ICML 2015).  A channel is done from its statistics to its result before the next
one is begun, so that its pixels of all images stay in the L2 cache in between.

The statistics are means and sums of squared deviations of ranges of pixels, each about the mean of
the ranges before it, merged in float64 as in Chan, Golub, LeVeque, "Updating formulae and a
pairwise algorithm for computing sample variances" (1979), equation 2.1: a large mean beside a small
variance costs no digits, and parts of a batch on several ranks merge in the same way.
"""

import numpy as np

from lowerconv.codegen.compiled import njit
from lowerconv.codegen.masked import bare
from lowerconv.codegen.ranges import share
from lowerconv.ops.blocks import BLOCK, block_of, cut, gather, scatter
from lowerconv.runtime.launch import spread

CHANNELS = 4  # for each thread; where there are fewer, a channel is the work of several


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _deviations(values, about):
    """Return the sums of deviations and of their squares."""
    total = squares = values.dtype.type(0)
    for i in range(values.size):
        deviation = values[i] - about
        total += deviation
        squares += deviation * deviation
    return total, squares


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _deviations_of_first(values, about):
    """Return the same where many deviations may be alike, and all sums be rounded the same way."""
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


@njit(cache=True, nogil=True, error_model="numpy")
def _statistics_of(x, x_step, c, N, pixels, together, pieces, begin, end, buffer):
    """Return count, mean and squared deviations of some blocks of a channel."""
    count, mean, m2 = 0.0, 0.0, 0.0
    for block in range(begin, end):
        n, images, start, stop = block_of(block, N, pixels, together, pieces)
        at, size = n * x_step + c * pixels, images * (stop - start)
        if images > 1:
            gather(x, at, x_step, images, pixels, buffer)
        values = buffer[:size] if images > 1 else x[at + start : at + stop]
        if count == 0:  # nothing is known of the mean: the first sum of this range tells it nearly
            total, _ = _deviations(values, x.dtype.type(0))
            about = x.dtype.type(total / size)
            # Where other numbers are far from it, what rounding costs is small beside that.
            total, squares = _deviations_of_first(values, about)
        else:
            about = x.dtype.type(mean)
            total, squares = _deviations(values, about)
        shift = np.float64(total) / size
        own = np.float64(squares) - shift * np.float64(total)
        own = 0.0 if own < 0 else own  # so written, NaN stays NaN
        count, mean, m2 = merge(count, mean, m2, float(size), about + shift, own)
    return count, mean, m2


@njit(cache=True, nogil=True)
def _statistics_share(worker, workers, x, x_step, parts, N, C, pixels):
    x = bare(x)
    together, pieces, blocks, groups = cut(N, C, pixels)
    buffer = np.empty(BLOCK, x.dtype)
    first, last = share(C * groups, worker, workers)
    for task in range(first, last):
        begin, end = share(blocks, task % groups, groups)
        parts[3 * task], parts[3 * task + 1], parts[3 * task + 2] = _statistics_of(
            x, x_step, task // groups, N, pixels, together, pieces, begin, end, buffer
        )


@njit(cache=True, nogil=True)
def statistics(team, x, x_step, mean, m2, N, C, pixels):
    """Compute each channel's mean and sum of squared deviations, as one rank's part of a batch.

    Parameters
    ----------
    team : Handle
        From `threads.parallel_region`.
    x : ndarray, 1-D
        (N, C, pixels), from its first item on.
    x_step : int
        Items from one image to the next.
    mean, m2 : ndarray, (C,), float64
        The results; those of several ranks merge by :func:`merge`.
    """
    _, _, _, groups = cut(N, C, pixels)
    parts = np.empty(3 * C * groups)
    spread(team, _statistics_share, (x, x_step, parts, N, C, pixels))
    for c in range(C):
        count, mean[c], m2[c] = 0.0, 0.0, 0.0
        for i in range(3 * c * groups, 3 * (c + 1) * groups, 3):
            count, mean[c], m2[c] = merge(
                count, mean[c], m2[c], parts[i], parts[i + 1], parts[i + 2]
            )


@njit(cache=True, nogil=True, error_model="numpy")
def finish(mean, m2, count, eps, momentum, inv_std, running_mean, running_var, first, last):
    """Turn the statistics of channels ``first:last`` into what normalises, and remember them.

    Parameters
    ----------
    mean, m2 : ndarray, (C,), float64
        Of the whole batch.
    count : int
        Pixels of a channel in it; running statistics stay as they are where there are none.
    eps, momentum : float
        As in PyTorch: ``running = (1 - momentum) * running + momentum * new``, with the unbiased
        variance.
    inv_std : ndarray, (C,), float64
        Gets ``1 / sqrt(variance + eps)``, of the biased variance.
    running_mean, running_var : ndarray, (C,)
        Updated in place.
    """
    for c in range(first, last):
        inv_std[c] = 1 / np.sqrt(m2[c] / max(1, count) + eps)
        if count > 0:
            variance = m2[c] / max(1, count - 1)
            running_mean[c] = (1 - momentum) * running_mean[c] + momentum * mean[c]
            running_var[c] = (1 - momentum) * running_var[c] + momentum * variance


@njit(cache=True, nogil=True)
def _apply(x, y, residual, added, middle, scale, shift, floor):
    """``y = (x - middle) * scale + shift + residual``, at least `floor`; NaN stays NaN.

    A loop for each way in which the result may lie on an operand, since vector code is for arrays
    that are one or apart.
    """
    on_x = x.ctypes.data == y.ctypes.data
    if added and residual.ctypes.data == y.ctypes.data:
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


@njit(cache=True, nogil=True)
def _apply_block(
    block, c, x, x_step, y, y_step, residual, residual_step, mean, inv_std, gamma, beta, N, pixels,
    together, pieces, relu, buffer, other,
):  # fmt: skip
    kind = x.dtype.type
    middle = kind(mean[c])
    factor = gamma[c] * inv_std[c]
    shift = kind(beta[c] + (np.float64(middle) - mean[c]) * factor)  # what rounding the mean took
    scale = kind(factor)
    floor = kind(0) if relu else kind(-np.inf)
    n, images, start, stop = block_of(block, N, pixels, together, pieces)
    at, to = n * x_step + c * pixels, n * y_step + c * pixels
    at_residual = n * residual_step + c * pixels
    added = residual.size > 0
    if images > 1:
        size = images * pixels
        gather(x, at, x_step, images, pixels, buffer)
        if added:
            gather(residual, at_residual, residual_step, images, pixels, other)
        part = buffer[:size]
        _apply(part, part, other[:size], added, middle, scale, shift, floor)
        scatter(buffer, y, to, y_step, images, pixels, False)
    elif added:
        _apply(
            x[at + start : at + stop], y[to + start : to + stop],
            residual[at_residual + start : at_residual + stop], True, middle, scale, shift, floor,
        )  # fmt: skip
    else:
        target = y[to + start : to + stop]
        _apply(x[at + start : at + stop], target, target, False, middle, scale, shift, floor)


@njit(cache=True, nogil=True)
def _normalise_share(
    worker, workers, x, x_step, y, y_step, residual, residual_step, mean, inv_std, gamma, beta,
    N, C, pixels, relu,
):  # fmt: skip
    x, y, residual = bare(x), bare(y), bare(residual)
    together, pieces, blocks, _ = cut(N, C, pixels)
    buffer, other = np.empty(BLOCK, x.dtype), np.empty(BLOCK, x.dtype)
    first, last = share(C * blocks, worker, workers)
    for task in range(first, last):
        _apply_block(
            task % blocks, task // blocks, x, x_step, y, y_step, residual, residual_step, mean,
            inv_std, gamma, beta, N, pixels, together, pieces, relu, buffer, other,
        )  # fmt: skip


@njit(cache=True, nogil=True)
def normalise(
    team, x, x_step, y, y_step, residual, residual_step, mean, inv_std, gamma, beta, N, C, pixels,
    relu,
):  # fmt: skip
    """Write ``gamma * (x - mean) * inv_std + beta + residual``, or its positive part, to `y`.

    With running statistics this is inference, with those of all ranks the forward pass of one.
    Parameters are those of :func:`batch_norm`.
    """
    spread(
        team, _normalise_share,
        (
            x, x_step, y, y_step, residual, residual_step, mean, inv_std, gamma, beta,
            N, C, pixels, relu,
        ),
    )  # fmt: skip


@njit(cache=True, nogil=True)
def _batch_norm_share(
    worker, workers, x, x_step, y, y_step, residual, residual_step, mean, m2, inv_std,
    running_mean, running_var, gamma, beta, N, C, pixels, eps, momentum, relu,
):  # fmt: skip
    x, y, residual = bare(x), bare(y), bare(residual)
    together, pieces, blocks, groups = cut(N, C, pixels)
    buffer, other = np.empty(BLOCK, x.dtype), np.empty(BLOCK, x.dtype)
    first, last = share(C, worker, workers)
    for c in range(first, last):
        count, mean[c], m2[c] = 0.0, 0.0, 0.0
        for group in range(groups):
            begin, end = share(blocks, group, groups)
            more, own_mean, own_m2 = _statistics_of(
                x, x_step, c, N, pixels, together, pieces, begin, end, buffer
            )
            count, mean[c], m2[c] = merge(count, mean[c], m2[c], more, own_mean, own_m2)
        finish(mean, m2, N * pixels, eps, momentum, inv_std, running_mean, running_var, c, c + 1)
        for block in range(blocks - 1, -1, -1):  # what was read last is nearest
            _apply_block(
                block, c, x, x_step, y, y_step, residual, residual_step, mean, inv_std, gamma,
                beta, N, pixels, together, pieces, relu, buffer, other,
            )  # fmt: skip


@njit(cache=True, nogil=True)
def batch_norm(
    team, x, x_step, y, y_step, residual, residual_step, mean, inv_std, running_mean, running_var,
    gamma, beta, N, C, pixels, eps, momentum, relu,
):  # fmt: skip
    """Normalise each channel by its own mean and variance over the batch.

    Parameters
    ----------
    team : Handle
        From `threads.parallel_region`.
    x, y, residual : ndarray, 1-D
        (N, C, pixels) each, from its first item on; an empty residual is none.  `y` may be one of
        the other two.
    x_step, y_step, residual_step : int
        Items from one image to the next.
    mean, inv_std : ndarray, (C,), float64
        Get what the gradient needs.
    running_mean, running_var, gamma, beta : ndarray, (C,)
        Of the operands' dtype; the first two are updated (see :func:`finish`).
    eps, momentum : float
    relu : bool
        Whether the result is the positive part.
    """
    m2 = np.empty(C)
    if CHANNELS * team.threads <= C:
        spread(
            team, _batch_norm_share,
            (
                x, x_step, y, y_step, residual, residual_step, mean, m2, inv_std,
                running_mean, running_var, gamma, beta, N, C, pixels, eps, momentum, relu,
            ),
        )  # fmt: skip
        return
    statistics(team, x, x_step, mean, m2, N, C, pixels)
    finish(mean, m2, N * pixels, eps, momentum, inv_std, running_mean, running_var, 0, C)
    normalise(
        team, x, x_step, y, y_step, residual, residual_step, mean, inv_std, gamma, beta,
        N, C, pixels, relu,
    )  # fmt: skip
