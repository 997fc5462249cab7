"""Products of few rows with a large matrix, which is read once: a fully connected layer at batch 1.

BLAS packs the matrix first, which takes longer than the product where it is used for a few rows.
"""

from lowerconv.codegen.compiled import internal
from lowerconv.codegen.ranges import share
from lowerconv.runtime.launch import parallel

FEW = 4  # rows: so many share a row of the matrix while it is in L1


# Sums may be reordered, which lets them be vectors, and a product added at once.
@internal(fastmath={"reassoc", "contract"})
def _dot(a, b):
    total = a.dtype.type(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@parallel
def few_rows(worker, workers, x, w, bias, y, relu):
    """Compute ``y = x w^T + bias``, or its positive part.

    Parameters
    ----------
    team : TeamHandle
        From `threads.parallel_region`.
    x, w, y : ndarray, (N, inputs), (outputs, inputs), (N, outputs)
        C-contiguous; N is best at most `FEW`.
    bias : ndarray, (outputs,)
        Empty: none.
    relu : bool
    """
    N, outputs = y.shape
    first, last = share(outputs, worker, workers)
    for o in range(first, last):
        for n in range(N):
            value = _dot(w[o], x[n])
            if bias.size:
                value += bias[o]
            y[n, o] = w.dtype.type(0) if relu and value < 0 else value
