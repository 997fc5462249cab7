"""Products of few rows with a large matrix, which is read once: a fully connected layer at batch 1.

BLAS packs the matrix first, which takes longer than the product where it is used for a few rows.
"""

from lowerconv.codegen.compiled import internal
from lowerconv.codegen.ranges import share
from lowerconv.runtime.launch import parallel

STREAMS = 4  # rows of the matrix that are read together
FEW = 4  # rows: so many share a row of the matrix while it is in L1


# Sums may be reordered, which lets them be vectors, and a product added at once.
@internal(fastmath={"reassoc", "contract"})
def _dot(a, b):
    total = a.dtype.type(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@internal(fastmath={"reassoc", "contract"})
def _dots(a, b, c, d, x):
    """Return four products: as many streams come from memory faster than one."""
    p, q = x.dtype.type(0), x.dtype.type(0)
    r, s = x.dtype.type(0), x.dtype.type(0)
    for i in range(x.size):
        v = x[i]
        p += a[i] * v
        q += b[i] * v
        r += c[i] * v
        s += d[i] * v
    return p, q, r, s


@internal
def _store(value, n, o, bias, y, relu, add):
    if bias.size:
        value += bias[o]
    if add:
        value += y[n, o]
    y[n, o] = y.dtype.type(0) if relu and value < 0 else value


@parallel
def few_rows(worker, workers, x, w, bias, y, relu, add):
    """Compute ``y = x w^T + bias``, or its positive part.

    Parameters
    ----------
    x, w, y : ndarray, (N, inputs), (outputs, inputs), (N, outputs)
        C-contiguous; N is best at most `FEW`.
    bias : ndarray, (outputs,)
        Empty: none.
    relu : bool
    add : bool
        Whether what is in `y` is added before that.
    """
    N, outputs = y.shape
    # Groups begin at the same places for any number of threads: sums are rounded by their group.
    first, last = share((outputs + STREAMS - 1) // STREAMS, worker, workers)
    for group in range(first, last):
        o = group * STREAMS
        for n in range(N):
            if o + STREAMS <= outputs:
                dots = _dots(w[o], w[o + 1], w[o + 2], w[o + 3], x[n])
                for i in range(STREAMS):
                    _store(dots[i], n, o + i, bias, y, relu, add)
            else:
                for i in range(o, outputs):
                    _store(_dot(w[i], x[n]), n, i, bias, y, relu, add)
