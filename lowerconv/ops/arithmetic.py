"""Two tensors item by item: of the same shape, or one number of the second for each plane."""

from lowerconv.codegen.compiled import internal
from lowerconv.codegen.masked import bare
from lowerconv.codegen.ranges import share
from lowerconv.ops.images import bare_images, same_memory
from lowerconv.ops.pointwise import CHUNK
from lowerconv.runtime.launch import parallel

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


@parallel
def combine(worker, workers, a, b, y, planes, kind, numbers):
    """Write ``a + b``, or another operation, to `y`, which may be `a`.

    Parameters
    ----------
    a, y : Images
    b : (ndarray, int)
        Flat, of the extents of `a`, or with one number for each plane where `numbers` is set; and
        the items from one image to the next, which may be 0.
    planes : int
        Into which an image falls.
    kind : int
        ADD, SUB, MUL, DIV, MIN, MAX, REVERSED_SUB, REVERSED_DIV, or PRELU: ``a * b`` where `a`
        is negative, else `a`.
    numbers : bool
    """
    a, y = bare_images(a), bare_images(y)
    other, step = bare(b[0]), b[1]
    in_place = same_memory(a.flat, y.flat)
    pixels = y.C * y.H * y.W // max(1, planes)
    chunks = (pixels + CHUNK - 1) // CHUNK
    first, last = share(y.N * planes * chunks, worker, workers)
    for task in range(first, last):
        n, rest = task // (planes * chunks), task % (planes * chunks)
        plane, start = rest // chunks, rest % chunks * CHUNK
        begin = plane * pixels + start
        end = plane * pixels + min(start + CHUNK, pixels)
        target = y.flat[n * y.step + begin : n * y.step + end]
        if not in_place:
            target[:] = a.flat[n * a.step + begin : n * a.step + end]
        if numbers:
            _with_number(kind, target, other[n * step + plane])
        else:
            _with_array(kind, target, other[n * step + begin : n * step + end])
