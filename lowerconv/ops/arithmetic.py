"""Two tensors item by item: of the same shape, or one number of the second for each plane."""

from lowerconv.codegen.compiled import internal, njit
from lowerconv.codegen.masked import bare
from lowerconv.codegen.ranges import share
from lowerconv.ops.pointwise import CHUNK
from lowerconv.runtime.launch import spread

# By their numbers, which compiled loops know; in REVERSED_* the operands change sides.
ADD, SUB, MUL, DIV, MIN, MAX, REVERSED_SUB, REVERSED_DIV, PRELU = range(9)


@internal
def _with_array(kind, v, b):
    """Combine a chunk with another, in place."""
    n = v.size
    if kind == ADD:
        for i in range(n):
            v[i] += b[i]
    elif kind == SUB:
        for i in range(n):
            v[i] -= b[i]
    elif kind == MUL:
        for i in range(n):
            v[i] *= b[i]
    elif kind == DIV:
        for i in range(n):
            v[i] /= b[i]
    elif kind == MIN:
        for i in range(n):
            v[i] = b[i] if b[i] < v[i] or b[i] != b[i] else v[i]
    elif kind == MAX:
        for i in range(n):
            v[i] = b[i] if b[i] > v[i] or b[i] != b[i] else v[i]
    elif kind == PRELU:
        for i in range(n):
            v[i] = v[i] * b[i] if v[i] < 0 else v[i]
    elif kind == REVERSED_SUB:
        for i in range(n):
            v[i] = b[i] - v[i]
    else:
        for i in range(n):
            v[i] = b[i] / v[i]


@internal
def _with_number(kind, v, b):
    """Combine a chunk with one number, in place."""
    n = v.size
    if kind == ADD:
        for i in range(n):
            v[i] += b
    elif kind == SUB:
        for i in range(n):
            v[i] -= b
    elif kind == MUL:
        for i in range(n):
            v[i] *= b
    elif kind == DIV:
        for i in range(n):
            v[i] /= b
    elif kind == MIN:
        for i in range(n):
            v[i] = b if b < v[i] or b != b else v[i]
    elif kind == MAX:
        for i in range(n):
            v[i] = b if b > v[i] or b != b else v[i]
    elif kind == PRELU:
        for i in range(n):
            v[i] = v[i] * b if v[i] < 0 else v[i]
    elif kind == REVERSED_SUB:
        for i in range(n):
            v[i] = b - v[i]
    else:
        for i in range(n):
            v[i] = b / v[i]


@internal
def _combine_share(
    worker, workers, a, a_step, b, b_step, y, y_step, N, planes, pixels, kind, numbers
):
    a, b, y = bare(a), bare(b), bare(y)
    in_place = a.ctypes.data == y.ctypes.data
    chunks = (pixels + CHUNK - 1) // CHUNK
    first, last = share(N * planes * chunks, worker, workers)
    for task in range(first, last):
        n, rest = task // (planes * chunks), task % (planes * chunks)
        plane, begin = rest // chunks, rest % chunks * CHUNK
        end = min(begin + CHUNK, pixels)
        at = plane * pixels
        target = y[n * y_step + at + begin : n * y_step + at + end]
        if not in_place:
            target[:] = a[n * a_step + at + begin : n * a_step + at + end]
        if numbers:
            _with_number(kind, target, b[n * b_step + plane])
        else:
            _with_array(kind, target, b[n * b_step + at + begin : n * b_step + at + end])


@njit(cache=True, nogil=True)
def combine(team, a, a_step, b, b_step, y, y_step, N, planes, pixels, kind, numbers):
    """Write ``a + b``, or another operation, to `y`, which may be `a`.

    Parameters
    ----------
    team : Handle
        From `threads.parallel_region`.
    a, y : ndarray, 1-D
        (N, planes, pixels) each, from its first item on.
    b : ndarray, 1-D
        (N, planes, pixels), or (N, planes) where `numbers` is set.
    a_step, b_step, y_step : int
        Items from one image to the next; `b_step` may be 0.
    N, planes, pixels : int
    kind : int
        ADD, SUB, MUL, DIV, MIN, MAX, REVERSED_SUB, REVERSED_DIV, or PRELU: ``a * b`` where `a`
        is negative, else `a`.
    numbers : bool
        Whether `b` has one number for each plane.
    """
    spread(
        team,
        _combine_share,
        (a, a_step, b, b_step, y, y_step, N, planes, pixels, kind, numbers),
    )
