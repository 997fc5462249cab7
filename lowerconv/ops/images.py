"""Images as kernels take them, and the pieces of them that are one worker's task at a time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lowerconv.codegen.compiled import internal
from lowerconv.codegen.half_arrays import address, items

PIECE = 16384  # items: enough for a loop to run at speed, and many pieces for each thread


class Images(NamedTuple):
    """(N, C, H, W) images, which may be some channels of larger ones.

    Kernels take these, and other named tuples of their arguments, as plain tuples: numba needs a
    microsecond for each named one that Python passes.  They name the fields again themselves.
    """

    flat: np.ndarray  # 1-D, from their first item on; empty: no images are given
    step: int  # items from one image to the next
    N: int
    C: int
    H: int
    W: int


@internal
def bare_images(x):
    """Return `Images` of a plain tuple, without the owner of their memory (see `masked.bare`).

    Those of 16 bits (`codegen.half_arrays`) kernels read and write as float32 from here on.
    """
    flat, step, N, C, H, W = x
    return Images(items(flat), step, N, C, H, W)


@internal
def same_memory(x, y):
    """Return whether two arrays begin at the same item.

    Loops whose result may lie on an operand have a version for that case: the compiler makes vector
    code where arrays are the same or do not overlap, and cannot know which.
    """
    return address(x) == address(y)


@internal
def plane(x, number):
    """Return a plane of the images, flat, where planes are numbered through all images."""
    at = number // x.C * x.step + number % x.C * x.H * x.W
    return x.flat[at : at + x.H * x.W]


@internal
def pieces_of(x):
    """Return into how many pieces each image is cut, whatever its channels."""
    return max(1, (x.C * x.H * x.W + PIECE - 1) // PIECE)


@internal
def piece_bounds(x, task, pieces):
    """Return the image of a task, and the range of its items that are the task's piece."""
    items = x.C * x.H * x.W
    size = (items + pieces - 1) // pieces
    first = task % pieces * size
    return task // pieces, min(first, items), min(first + size, items)


@internal
def piece(x, task, pieces):
    """Return the piece of the images that is a task, flat."""
    n, begin, end = piece_bounds(x, task, pieces)
    return x.flat[n * x.step + begin : n * x.step + end]
