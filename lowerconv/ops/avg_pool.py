"""Average pooling and its gradient: sums along the rows, then along the columns."""

import numpy as np

from lowerconv.codegen.compiled import njit
from lowerconv.codegen.masked import bare
from lowerconv.codegen.ranges import share
from lowerconv.ops.elementwise import row_sum
from lowerconv.ops.windows import copy_rows, fill, grouping, lower_rows, plane_at, raise_rows
from lowerconv.runtime.launch import spread


@njit(cache=True, nogil=True)
def _counted(i, size, stride, pad, extent, count_pad):
    """Return how much of window `i` a mean divides by: never what lies beyond the padding."""
    start = i * stride - pad
    if count_pad:
        return min(start + size, extent + pad) - start
    return min(start + size, extent) - max(start, 0)


@njit(cache=True, nogil=True, error_model="numpy")
def _weights(H, W, P, Q, size, stride, pad, count_pad, pitch, above, before, like):
    """Return one over the pixels counted of each window, in rows of `pitch`, zeros around them."""
    height = (H - 1 + pad[0]) // stride[0] + 1  # the rows in which windows can begin
    weights = np.zeros((height + above) * pitch, like.dtype)
    for p in range(P):
        rows = _counted(p, size[0], stride[0], pad[0], H, count_pad)
        at = (p + above) * pitch + before
        for q in range(Q):
            weights[at + q] = 1 / (rows * _counted(q, size[1], stride[1], pad[1], W, count_pad))
    return weights


@njit(cache=True, nogil=True)
def _multiply(values, weights):
    for i in range(values.size):
        values[i] *= weights[i]


@njit(cache=True, nogil=True)
def _is_global(H, W, P, Q, size, pad):
    """Return whether there is one window, with all of the plane in it."""
    return P == 1 and Q == 1 and size[0] - pad[0] >= H and size[1] - pad[1] >= W


@njit(cache=True, nogil=True)
def _one(a, total, first):
    if first:
        for i in range(total.size):
            total[i] = a[i]
    else:
        for i in range(total.size):
            total[i] += a[i]


@njit(cache=True, nogil=True)
def _three(a, b, c, total, first):
    if first:
        for i in range(total.size):
            total[i] = a[i] + b[i] + c[i]
    else:
        for i in range(total.size):
            total[i] += a[i] + b[i] + c[i]


@njit(cache=True, nogil=True)
def _sum_taps(source, at, step, size, stride, a, first, total):
    """Add up taps ``a, a + stride, ...`` below `size`, which are `step` items apart from `at` on.

    The first of all overwrite the total.
    """
    taps, count = (size - a + stride - 1) // stride, total.size
    while taps > 0:
        one, two = at + step, at + 2 * step
        if taps >= 3:
            _three(
                source[at : at + count], source[one : one + count], source[two : two + count],
                total, first,
            )  # fmt: skip
            at, taps = at + 3 * step, taps - 3
        else:
            _one(source[at : at + count], total, first)
            at, taps = one, taps - 1
        first = False


@njit(cache=True, nogil=True, error_model="numpy")
def _avg_pool_share(
    worker, workers, x, x_step, y, y_step, N, C, H, W, P, Q, size, stride, pad, count_pad
):
    x, y = bare(x), bare(y)
    R, S = size
    zero = x.dtype.type(0)
    if _is_global(H, W, P, Q, size, pad):
        area = _counted(0, R, stride[0], pad[0], H, count_pad)
        area *= _counted(0, S, stride[1], pad[1], W, count_pad)
        begin, end = share(N * C, worker, workers)
        for plane in range(begin, end):
            mean = row_sum(plane_at(x, x_step, plane, C, H * W)) / area
            plane_at(y, y_step, plane, C, 1)[0] = mean
        return
    beside, below = (S - 1) // stride[1], (R - 1) // stride[0]
    column_phases, row_phases = min(S, stride[1]), min(R, stride[0])
    pitch = Q + beside
    band, together, pieces, groups = grouping(
        P, pitch * ((column_phases + 1) * row_phases + 1), below, N * C, workers
    )
    between = (band + below) * together  # rows of one phase: those of all planes of a group
    by = row_phases * between * pitch
    lowered = np.empty(column_phases * by + beside, x.dtype)
    across, total = np.empty(by, x.dtype), np.empty(between * pitch, x.dtype)
    fill(lowered, column_phases * by, beside, zero)
    weights = _weights(H, W, P, Q, size, stride, pad, count_pad, pitch, 0, 0, x)
    begin, end = share(groups * pieces, worker, workers)
    for task in range(begin, end):
        plane0, p0 = task // pieces * together, task % pieces * band
        planes, rows = min(together, N * C - plane0), min(band, P - p0)
        for i in range(planes):
            lower_rows(
                plane_at(x, x_step, plane0 + i, C, H * W), H, W,
                p0 * stride[0] - pad[0], (rows - 1) * stride[0] + R,
                size, stride, pad[1], pitch, between, by, zero,
                lowered, i * (band + below) * pitch,
            )  # fmt: skip
        count = (row_phases - 1) * between * pitch + planes * (band + below) * pitch
        for a in range(column_phases):
            _sum_taps(lowered, a * by, 1, S, stride[1], a, a == 0, across[:count])
        count = ((planes - 1) * (band + below) + rows) * pitch
        for b in range(row_phases):
            at = b * between * pitch
            _sum_taps(across, at, pitch, R, stride[0], b, b == 0, total[:count])
        for i in range(planes):
            at = i * (band + below) * pitch
            _multiply(total[at : at + rows * pitch], weights[p0 * pitch : (p0 + rows) * pitch])
            copy_rows(total, at, pitch, plane_at(y, y_step, plane0 + i, C, P * Q), p0 * Q, Q, rows)


@njit(cache=True, nogil=True)
def avg_pool(team, x, x_step, y, y_step, N, C, H, W, P, Q, size, stride, pad, count_pad):
    """Write the mean of each window of `x` (N, C, H, W) to `y` (N, C, P, Q).

    Parameters
    ----------
    team : Handle
        From `threads.parallel_region`.
    x, y : ndarray, 1-D
        Each begins at the first item of its tensor.
    x_step, y_step : int
        Items from one image to the next.
    size, stride, pad : (int, int)
        Of the windows, rows first.  Each window has a pixel inside the image.
    count_pad : bool
        Whether a mean divides by what lies in the padding, too.
    """
    spread(
        team,
        _avg_pool_share,
        (x, x_step, y, y_step, N, C, H, W, P, Q, size, stride, pad, count_pad),
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _avg_pool_grad_share(
    worker, workers, dy, dy_step, dx, dx_step, N, C, H, W, P, Q, size, stride, pad, count_pad, add
):
    dy, dx = bare(dy), bare(dx)
    R, S = size
    zero = dy.dtype.type(0)
    if _is_global(H, W, P, Q, size, pad):
        area = _counted(0, R, stride[0], pad[0], H, count_pad)
        area *= _counted(0, S, stride[1], pad[1], W, count_pad)
        begin, end = share(N * C, worker, workers)
        for plane in range(begin, end):
            part = plane_at(dy, dy_step, plane, C, 1)[0] / dy.dtype.type(area)
            target = plane_at(dx, dx_step, plane, C, H * W)
            if add:
                for i in range(target.size):
                    target[i] += part
            else:
                for i in range(target.size):
                    target[i] = part
        return
    above, before = (R - 1) // stride[0], (S - 1) // stride[1]  # windows that reach a pixel
    phases = min(S, stride[1])
    height, width = (H - 1 + pad[0]) // stride[0] + 1, (W - 1 + pad[1]) // stride[1] + 1
    pitch = width + before
    band, together, pieces, groups = grouping(
        height, pitch * (2 * phases + 1), above, N * C, workers
    )
    by = (band + above) * together * pitch
    gradient = np.zeros(by + before, dy.dtype)
    across, total = np.empty(phases * by, dy.dtype), np.empty(phases * by, dy.dtype)
    weights = _weights(H, W, P, Q, size, stride, pad, count_pad, pitch, above, before, dy)
    begin, end = share(groups * pieces, worker, workers)
    for task in range(begin, end):
        plane0, row0 = task // pieces * together, task % pieces * band
        planes, rows = min(together, N * C - plane0), min(band, height - row0)
        for i in range(planes):
            at = i * (band + above) * pitch
            lower_rows(
                plane_at(dy, dy_step, plane0 + i, C, P * Q), P, Q, row0 - above, rows + above,
                (1, 1), (1, 1), before, pitch, 0, 0, zero, gradient, at,
            )  # fmt: skip
            _multiply(
                gradient[at : at + (rows + above) * pitch],
                weights[row0 * pitch : (row0 + rows + above) * pitch],
            )
        # What a pixel gets from the windows that reach it: along the rows, then the columns.
        count = planes * (band + above) * pitch
        for a in range(phases):
            target = across[a * by : a * by + count]
            _sum_taps(gradient, before, -1, S, stride[1], a, True, target)
        count = ((planes - 1) * (band + above) + rows) * pitch
        for b in range(stride[0]):
            if b < R:
                for a in range(phases):
                    at, target = a * by + above * pitch, total[a * by : a * by + count]
                    _sum_taps(across, at, -pitch, R, stride[0], b, True, target)
            for i in range(planes):
                raise_rows(
                    total, i * (band + above) * pitch, by, phases if b < R else 0, pitch,
                    plane_at(dx, dx_step, plane0 + i, C, H * W), H, W,
                    row0 * stride[0] + b - pad[0], rows, stride, pad[1], add,
                )  # fmt: skip


@njit(cache=True, nogil=True)
def avg_pool_grad(
    team, dy, dy_step, dx, dx_step, N, C, H, W, P, Q, size, stride, pad, count_pad, add
):
    """Write what :func:`avg_pool` gives back to its pixels from `dy` (N, C, P, Q) to `dx`.

    Parameters are those of :func:`avg_pool`; where `add` is set, `dx` (N, C, H, W) is added to.
    """
    spread(
        team,
        _avg_pool_grad_share,
        (dy, dy_step, dx, dx_step, N, C, H, W, P, Q, size, stride, pad, count_pad, add),
    )
