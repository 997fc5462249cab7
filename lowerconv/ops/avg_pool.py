"""Average pooling and its gradient: sums along the rows, then along the columns."""

import numpy as np

from lowerconv.codegen.compiled import internal
from lowerconv.codegen.ranges import share
from lowerconv.ops.elementwise import row_sum
from lowerconv.ops.images import bare_images, plane
from lowerconv.ops.windows import (
    Phases,
    Rows,
    Windows,
    copy_rows,
    fill,
    group_of,
    layout_of,
    lower_group,
    lower_rows,
    plane_start,
    raise_rows,
    windows_layout,
)
from lowerconv.runtime.launch import parallel


@internal
def _counted(i, size, stride, pad, extent, count_pad):
    """Return how much of window `i` a mean divides by: never what lies beyond the padding."""
    start = i * stride - pad
    if count_pad:
        return min(start + size, extent + pad) - start
    return min(start + size, extent) - max(start, 0)


@internal
def _area(p, q, x, windows, count_pad):
    """Return how many pixels a mean divides by."""
    size, stride, pad = windows
    rows = _counted(p, size[0], stride[0], pad[0], x.H, count_pad)
    return rows * _counted(q, size[1], stride[1], pad[1], x.W, count_pad)


@internal(error_model="numpy")
def _weights(x, y, windows, count_pad, margins, pitch):
    """Return one over the area of each window, in rows of `pitch`, zeros above and before them."""
    above, before = margins
    _, stride, pad = windows
    height = (x.H - 1 + pad[0]) // stride[0] + 1  # where windows can begin
    weights = np.zeros((height + above) * pitch, x.flat.dtype)
    for p in range(y.H):
        for q in range(y.W):
            weights[(p + above) * pitch + before + q] = 1 / _area(p, q, x, windows, count_pad)
    return weights


@internal
def _multiply(values, weights):
    for i in range(values.size):
        values[i] *= weights[i]


@internal
def _is_global(x, y, windows):
    """Return whether there is one window, with all of the plane in it."""
    size, _, pad = windows
    return y.H == 1 and y.W == 1 and size[0] - pad[0] >= x.H and size[1] - pad[1] >= x.W


@internal
def _one(a, total, first):
    if first:
        for i in range(total.size):
            total[i] = a[i]
    else:
        for i in range(total.size):
            total[i] += a[i]


@internal
def _three(a, b, c, total, first):
    if first:
        for i in range(total.size):
            total[i] = a[i] + b[i] + c[i]
    else:
        for i in range(total.size):
            total[i] += a[i] + b[i] + c[i]


@internal
def _sum_taps(source, at, step, taps, first, total):
    """Add up `taps` ranges of the source, `step` items apart; the first overwrite the total."""
    count = total.size
    while taps > 0:
        one, two = at + step, at + 2 * step
        if taps >= 3:
            b, c = source[one : one + count], source[two : two + count]
            _three(source[at : at + count], b, c, total, first)
            at, taps = at + 3 * step, taps - 3
        else:
            _one(source[at : at + count], total, first)
            at, taps = one, taps - 1
        first = False


@internal
def _taps(size, stride, phase):
    """Return how many taps of an axis are of a phase."""
    return (size - phase + stride - 1) // stride


@parallel(error_model="numpy")
def avg_pool(worker, workers, x, y, windows, count_pad):
    """Write the mean of each window of `x` to `y`.

    Parameters
    ----------
    x, y : Images
    windows : Windows
    count_pad : bool
        Whether a mean divides by what lies in the padding, too.
    """
    x, y = bare_images(x), bare_images(y)
    (R, S), stride, _ = windows
    Q = y.W
    zero = x.flat.dtype.type(0)
    if _is_global(x, y, windows):
        area = _area(0, 0, x, windows, count_pad)
        begin, end = share(x.N * x.C, worker, workers)
        for number in range(begin, end):
            plane(y, number)[0] = row_sum(plane(x, number)) / area
        return
    layout, row_phases, column_phases = windows_layout(y, windows, workers)
    pitch, ld = layout.pitch, layout.ld
    step = row_phases * ld
    lowered = np.empty(column_phases * step + pitch - Q, x.flat.dtype)
    across, total = np.empty(step, x.flat.dtype), np.empty(ld, x.flat.dtype)
    fill(lowered, column_phases * step, pitch - Q, zero)
    weights = _weights(x, y, windows, count_pad, (0, 0), pitch)
    begin, end = share(layout.groups * layout.pieces, worker, workers)
    for task in range(begin, end):
        group = group_of(task, layout, y.H, y.N * y.C)
        within = lower_group(x, group, windows, layout, zero, lowered)
        target = across[: step - ld + within]
        for a in range(column_phases):
            _sum_taps(lowered, a * step, 1, _taps(S, stride[1], a), a == 0, target)
        target = total[: plane_start(layout, group.planes - 1) + group.rows * pitch]
        for b in range(row_phases):
            _sum_taps(across, b * ld, pitch, _taps(R, stride[0], b), b == 0, target)
        first, last = group.row, group.row + group.rows
        for i in range(group.planes):
            at = plane_start(layout, i)
            _multiply(total[at : at + group.rows * pitch], weights[first * pitch : last * pitch])
            copy_rows(total, at, pitch, plane(y, group.plane + i)[first * Q : last * Q], Q)


@parallel(error_model="numpy")
def avg_pool_grad(worker, workers, dy, dx, windows, count_pad, add):
    """Write the gradient of :func:`avg_pool` with respect to `x` to `dx`, or add it there.

    Parameters are those of :func:`avg_pool`.
    """
    dy, dx = bare_images(dy), bare_images(dx)
    (R, S), stride, pad = windows
    kind = dy.flat.dtype.type
    if _is_global(dx, dy, windows):
        area = kind(_area(0, 0, dx, windows, count_pad))
        begin, end = share(dx.N * dx.C, worker, workers)
        for number in range(begin, end):
            part = plane(dy, number)[0] / area
            target = plane(dx, number)
            if add:
                for i in range(target.size):
                    target[i] += part
            else:
                for i in range(target.size):
                    target[i] = part
        return
    above, before = (R - 1) // stride[0], (S - 1) // stride[1]  # windows that reach a pixel
    phases = min(S, stride[1])
    height, width = (dx.H - 1 + pad[0]) // stride[0] + 1, (dx.W - 1 + pad[1]) // stride[1] + 1
    layout = layout_of(height, dx.N * dx.C, width + before, above, 2 * phases + 1, workers)
    pitch, ld = layout.pitch, layout.ld
    gradient = np.zeros(ld + before, dy.flat.dtype)
    across, total = np.empty(phases * ld, dy.flat.dtype), np.empty(phases * ld, dy.flat.dtype)
    weights = _weights(dx, dy, windows, count_pad, (above, before), pitch)
    each = Windows((1, 1), (1, 1), (0, before))  # an item of dy is a window of its own
    begin, end = share(layout.groups * layout.pieces, worker, workers)
    for task in range(begin, end):
        group = group_of(task, layout, height, dx.N * dx.C)
        reach = group.rows + above
        for i in range(group.planes):
            at = plane_start(layout, i)
            rows = Rows(plane(dy, group.plane + i), dy.H, dy.W, group.row - above, 1, reach)
            lower_rows(rows, each, kind(0), Phases(gradient, at, pitch, 0, 0))
            first = group.row * pitch
            _multiply(gradient[at : at + reach * pitch], weights[first : first + reach * pitch])
        # What a pixel gets from the windows that reach it: along the rows, then the columns.
        count = plane_start(layout, group.planes)
        for a in range(phases):
            target = across[a * ld : a * ld + count]
            _sum_taps(gradient, before, -1, _taps(S, stride[1], a), True, target)
        count = plane_start(layout, group.planes - 1) + group.rows * pitch
        for b in range(stride[0]):
            reached = phases if b < R else 0
            for a in range(reached):
                at, target = a * ld + above * pitch, total[a * ld : a * ld + count]
                _sum_taps(across, at, -pitch, _taps(R, stride[0], b), True, target)
            row = group.row * stride[0] + b - pad[0]
            for i in range(group.planes):
                source = Phases(total, plane_start(layout, i), pitch, 0, ld)
                pixels = plane(dx, group.plane + i)
                rows = Rows(pixels, dx.H, dx.W, row, stride[0], group.rows)
                raise_rows(source, reached, rows, stride[1], pad[1], add)
