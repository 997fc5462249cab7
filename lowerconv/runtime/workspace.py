"""The one scratch buffer of the process.

Every convolution uses the same buffer, grown to the largest one asked for, so that memory does not
grow with every new shape, and pages are faulted in once instead of at every call.  Its user is
whoever is inside `threads.parallel_region`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from lowerconv.codegen.isa import LINE
from lowerconv.copying import not_copied
from lowerconv.machine.memory import memory_limit

STRIDE = 2**20  # bytes: what plans need per worker is below
PIECES = 1024  # remembered, small objects all of them

_buffer = np.empty(0, np.uint8)
_generation = 0
_pieces: dict[tuple[int, str], Scratch] = {}  # of the buffer, as they were asked for


@not_copied("ask for `workspace()`")
class Scratch(NamedTuple):
    """Scratch memory: its items, and where they are."""

    array: np.ndarray
    address: int

    def carve(self, *shapes: tuple[int, ...]) -> list[np.ndarray]:
        """Cut arrays of the given shapes, each beginning on a cache line."""
        pieces, start = [], 0
        for shape in shapes:
            pieces.append(self.array[start : start + prod(shape)].reshape(shape))
            start += rounded(prod(shape), self.array.dtype)
        return pieces


def check_bytes(needed: int, what: str) -> None:
    """Raise MemoryError if `needed` bytes cannot exist on this machine."""
    limit = memory_limit()
    if needed > limit:
        raise MemoryError(f"{what}: {needed:,} bytes are needed, this process can have {limit:,}")


def rounded(items: int, dtype: np.dtype) -> int:
    """Return `items` rounded up to whole cache lines."""
    per_line = LINE // dtype.itemsize
    return -(-items // per_line) * per_line


def workspace_generation() -> int:
    """Return how many buffers there were: a larger one takes the place of the one before."""
    return _generation


def workspace(items: int, dtype: np.dtype) -> Scratch:
    """Return `items` items of undefined contents, aligned to cache lines."""
    global _buffer, _generation
    piece = _pieces.get((items, dtype.char))
    if piece is None:
        needed = items * dtype.itemsize
        if needed + LINE > _buffer.size or len(_pieces) >= PIECES:
            _pieces.clear()
        if needed + LINE > _buffer.size:
            _generation += 1  # first, whatever interrupts it
            _buffer = np.empty(0, np.uint8)  # the old one first, so that both never coexist
            _buffer = np.empty(needed + LINE, np.uint8)
        start = -_buffer.ctypes.data % LINE
        piece = Scratch(_buffer[start : start + needed].view(dtype), _buffer.ctypes.data + start)
        _pieces[items, dtype.char] = piece
    return piece


def scratch_stride(nbytes: int, nodes: Sequence[int]) -> int:
    """Return the bytes from one worker's part of the scratch to the next, each of `nbytes` or more.

    On several NUMA nodes as far for every plan: a page belongs to the node of who first writes to
    it.  What is not written takes no memory.
    """
    return nbytes if len(set(nodes)) == 1 else -(-nbytes // STRIDE) * STRIDE


def carved_items(dtype: np.dtype, *shapes: tuple[int, ...]) -> int:
    """Return the items that `Scratch.carve` takes for these shapes."""
    return sum(rounded(prod(shape), dtype) for shape in shapes)
