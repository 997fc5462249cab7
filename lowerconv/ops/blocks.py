r"""A channel of a batch as blocks of about a thousand pixels, whatever the size of its planes.

A large plane is cut, and small planes of consecutive images are gathered side by side::

    large:   image 0 |  block 0  |  block 1  |  block 2  |      in place
    small:   image 0 |plane| image 1 |plane| image 2 |plane|    block 0: copied together

so that loops over a block are long enough to be vector code.  Codes (`codegen.half_arrays`) are
copied in any case, and become numbers once.  Sums over a channel are sums over groups of its
blocks, which do not depend on the number of threads.
"""

from typing import NamedTuple

from lowerconv.codegen.compiled import internal
from lowerconv.codegen.half_arrays import is_half, numbers
from lowerconv.codegen.masked import LANES, prefetch, put, read

BLOCK = 1024  # items: a loop runs at speed, and some operands of it stay in the L1 cache
PARTS = 256  # groups of all channels together, at least, if there are as many blocks


class Cut(NamedTuple):
    """How the channels of some images are cut into blocks."""

    together: int  # images of a block
    pieces: int  # blocks of a plane
    blocks: int  # of a channel
    groups: int  # that sums over the blocks of a channel are made of


class Block(NamedTuple):
    """Pixels ``start:stop`` of a channel of images ``n : n + images``."""

    n: int
    images: int  # more than one: whole planes
    start: int
    stop: int


@internal
def cut(x):
    """Return how the channels of some images are cut."""
    pixels = x.H * x.W
    together = min(max(1, BLOCK // max(1, pixels)), max(1, x.N))
    pieces = (pixels + BLOCK - 1) // BLOCK
    blocks = (x.N + together - 1) // together * pieces
    groups = max(1, min(blocks, (PARTS + x.C - 1) // max(1, x.C)))
    return Cut(together, pieces, blocks, groups)


@internal
def block_of(number, x, cut):
    """Return a block of a channel of the images."""
    if cut.pieces == 1:
        n = number * cut.together
        return Block(n, min(cut.together, x.N - n), 0, x.H * x.W)
    start = number % cut.pieces * BLOCK  # on a cache line, where the plane is
    return Block(number // cut.pieces, 1, start, min(start + BLOCK, x.H * x.W))


@internal
def in_place(x, c, block):
    """Return the pixels of a block of one image where they are."""
    at = block.n * x.step + c * x.H * x.W
    return x.flat[at + block.start : at + block.stop]


@internal
def gathers(x, block):
    """Return whether the pixels of a block are copied, and not used where they are."""
    return is_half(x.flat) or block.images > 1


@internal
def load(x, c, block, buffer):
    """Return the pixels of a block: where they are, or copied to the buffer without gaps."""
    if not gathers(x, block):
        return numbers(in_place(x, c, block), buffer)
    pixels, count = x.H * x.W, block.stop - block.start
    nothing = x.flat.dtype.type(0)
    for n in range(block.images):
        for i in range(0, count, LANES):
            place = (block.n + n) * x.step + c * pixels + block.start + i
            read(x.flat, place, 0, LANES, nothing, buffer, n * count + i, count - i)
            prefetch(x.flat, place + pixels)  # of the next channel, which comes next
    return buffer[: block.images * count]


@internal
def target_of(source, x, c, block):
    """Return where the result of a block is computed: in place, or over its gathered operand."""
    return source if gathers(x, block) else numbers(in_place(x, c, block), source)


@internal
def scatter(buffer, x, c, block, add):
    """Copy the pixels of a block, which lie without gaps, to their places, or add them there."""
    pixels, count = x.H * x.W, block.stop - block.start
    for n in range(block.images):
        for i in range(0, count, LANES):
            at = (block.n + n) * x.step + c * pixels + block.start + i
            put(buffer, n * count + i, x.flat, at, 0, count - i, add)
