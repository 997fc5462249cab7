"""Images of bf16 or fp16 to float32 and back, on all threads; see `ops.half` for what is rounded.

Both types come as arrays of uint16 (``array.view(np.uint16)``): numba knows neither.
"""

from __future__ import annotations

from lowerconv.codegen.ranges import share
from lowerconv.ops.half import expand_half, round_half
from lowerconv.ops.images import bare_images, piece_bounds, pieces_of
from lowerconv.runtime.launch import parallel


@parallel
def expand_images(worker, workers, x, y, fp16):
    """Write the float32 of every code.

    Parameters
    ----------
    team : Handle
        From `threads.parallel_region`.
    x, y : Images
        Of uint16, and of float32.
    fp16 : bool
        Whether codes are fp16, and not bf16.
    """
    x, y = bare_images(x), bare_images(y)
    pieces = pieces_of(y)
    first, last = share(y.N * pieces, worker, workers)
    for task in range(first, last):
        n, begin, end = piece_bounds(y, task, pieces)
        source = x.flat[n * x.step + begin : n * x.step + end]
        expand_half(source, y.flat[n * y.step + begin : n * y.step + end], False, fp16)


@parallel
def round_images_to_half(worker, workers, x, y, fp16):
    """Write the code of every number.

    Parameters
    ----------
    team : Handle
        From `threads.parallel_region`.
    x, y : Images
        Of float32, and of uint16.
    fp16 : bool
        Whether codes are fp16, and not bf16.
    """
    x, y = bare_images(x), bare_images(y)
    pieces = pieces_of(y)
    first, last = share(y.N * pieces, worker, workers)
    for task in range(first, last):
        n, begin, end = piece_bounds(y, task, pieces)
        source = x.flat[n * x.step + begin : n * x.step + end]
        round_half(source, y.flat[n * y.step + begin : n * y.step + end], fp16)
