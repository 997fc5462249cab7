r"""A channel of a batch as blocks of about a thousand pixels, whatever the size of its planes.

A large plane is cut, and small planes of consecutive images are gathered side by side::

    large:   image 0 |  block 0  |  block 1  |  block 2  |      in place
    small:   image 0 |plane| image 1 |plane| image 2 |plane|    block 0: copied together

so that loops over a block are long enough to be vector code.  Sums over a channel go through its
blocks in groups that do not depend on the number of threads, and neither do they.
"""

from lowerconv.codegen.compiled import njit
from lowerconv.codegen.masked import LANES, prefetch, put, read

BLOCK = 1024  # items: a loop runs at speed, and some operands of it stay in the L1 cache
PARTS = 256  # groups of all channels together, at least, if there are as many blocks


@njit(cache=True, nogil=True)
def cut(N, C, pixels):
    """Return the images of a block, the blocks of a plane and of a channel, groups of the last."""
    together = min(max(1, BLOCK // max(1, pixels)), max(1, N))
    pieces = (pixels + BLOCK - 1) // BLOCK
    blocks = (N + together - 1) // together * pieces
    return together, pieces, blocks, max(1, min(blocks, (PARTS + C - 1) // max(1, C)))


@njit(cache=True, nogil=True)
def block_of(block, N, pixels, together, pieces):
    """Return the first image of a block, how many there are, and which pixels of each."""
    if pieces == 1:
        return block * together, min(together, N - block * together), 0, pixels
    start = block % pieces * BLOCK  # on a cache line, where the plane is
    return block // pieces, 1, start, min(start + BLOCK, pixels)


@njit(cache=True, nogil=True)
def gather(x, at, step, images, pixels, buffer):
    """Copy planes of `x`, the first at `at` and `step` items apart, to `buffer` without gaps."""
    nothing = x.dtype.type(0)
    for n in range(images):
        for i in range(0, pixels, LANES):
            place = at + n * step + i
            read(x, place, 0, LANES, nothing, buffer, n * pixels + i, pixels - i)
            prefetch(x, place + pixels)  # of the next channel, which comes next


@njit(cache=True, nogil=True)
def scatter(buffer, x, at, step, images, pixels, add):
    """Copy planes without gaps to their places in `x`, or add them there."""
    for n in range(images):
        for i in range(0, pixels, LANES):
            put(buffer, n * pixels + i, x, at + n * step + i, 0, pixels - i, add)
