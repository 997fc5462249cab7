"""Between matrix order (K, pixels of the whole batch) and tensor order (N, K, P, Q)."""

from lowerconv.codegen.compiled import njit


@njit(cache=True, nogil=True)
def store(tile, column, block, bias, relu, y):
    """Write a block of the product to `y`, bias and ReLU applied.

    The product is in `tile`, in its rows from the first and its columns from `column` on; `y` is
    (N, K, P*Q); an empty `bias` stands for none.
    """
    k0, k1, j0, j1 = block
    pixels = y.shape[2]
    for k in range(k0, k1):
        j = j0
        while j < j1:
            n, first = j // pixels, j % pixels
            count = min(pixels - first, j1 - j)
            source = tile[k - k0, column + j - j0 : column + j - j0 + count]
            target = y[n, k, first : first + count]
            shift = bias[k] if bias.size else tile.dtype.type(0)
            if relu:
                for i in range(count):
                    value = source[i] + shift
                    # Written so that NaN stays NaN.
                    target[i] = tile.dtype.type(0) if value < 0 else value
            else:
                for i in range(count):
                    target[i] = source[i] + shift
            j += count


@njit(cache=True, nogil=True)
def gather(y, block, tile, column):
    """Copy a block of `y` (N, K, P*Q) to `tile`: `store` undone."""
    k0, k1, j0, j1 = block
    pixels = y.shape[2]
    for k in range(k0, k1):
        j = j0
        while j < j1:
            n, first = j // pixels, j % pixels
            count = min(pixels - first, j1 - j)
            source = y[n, k, first : first + count]
            target = tile[k - k0, column + j - j0 : column + j - j0 + count]
            for i in range(count):
                target[i] = source[i]
            j += count
