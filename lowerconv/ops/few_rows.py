"""Products of few rows with a large matrix, which is read once: a fully connected layer at batch 1.

BLAS packs the matrix first, which takes longer than the product where it is used for a few rows.
The gradients of such a layer are the same kind of product: that of the input reads the matrix, and
that of the weights writes one, each time as a sum of few rows, all of which are in L1.
"""

from lowerconv.codegen.compiled import internal
from lowerconv.codegen.ranges import share
from lowerconv.runtime.launch import parallel

STREAMS = 4  # rows of the matrix that are read together
FEW = 4  # rows: so many share a row of the matrix while it is in L1
STRIP = 2048  # columns of sums, which stay in L1 while rows of the matrix pass


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


@internal(fastmath={"contract"})
def _add_rows(a, b, c, d, p, q, r, s, y):
    """Add four rows, each times a number."""
    for i in range(y.size):
        y[i] += (a[i] * p + b[i] * q) + (c[i] * r + d[i] * s)


@internal(fastmath={"contract"})
def _add_row(a, p, y):
    """Add a row times a number."""
    for i in range(y.size):
        y[i] += a[i] * p


@internal
def _weighted_rows(rows, factors, y, add):
    """Compute ``y = factors rows``, a sum of rows; or add it."""
    if not add:
        y[:] = 0
    count = factors.size
    whole = count // STREAMS * STREAMS
    for o in range(0, whole, STREAMS):
        a, b, c, d = rows[o], rows[o + 1], rows[o + 2], rows[o + 3]
        _add_rows(a, b, c, d, factors[o], factors[o + 1], factors[o + 2], factors[o + 3], y)
    for o in range(whole, count):
        _add_row(rows[o], factors[o], y)


@parallel
def few_rows_input_grad(worker, workers, dy, w, dx, add):
    """Compute ``dx = dy w``.

    Parameters
    ----------
    dy, w, dx : ndarray, (N, outputs), (outputs, inputs), (N, inputs)
        C-contiguous; N is best at most `FEW`.
    add : bool
        Whether the product is added to what is in `dx`.
    """
    N, inputs = dx.shape
    first, last = share(inputs, worker, workers)
    for i in range(first, last, STRIP):
        end = min(i + STRIP, last)
        for n in range(N):
            _weighted_rows(w[:, i:end], dy[n], dx[n, i:end], add)


@parallel
def few_rows_weight_grad(worker, workers, dy, x, dw, add):
    """Compute ``dw = dy^T x``.

    Parameters
    ----------
    dy, x, dw : ndarray, (N, outputs), (N, inputs), (outputs, inputs)
        C-contiguous; N is best at most `FEW`.
    add : bool
        Whether the product is added to what is in `dw`.
    """
    outputs, inputs = dw.shape
    first, last = share(outputs, worker, workers)
    for o in range(first, last):
        for i in range(0, inputs, STRIP):
            end = min(i + STRIP, inputs)
            _weighted_rows(x[:, i:end], dy[:, o], dw[o, i:end], add)
