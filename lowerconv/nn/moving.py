"""Copies of tensors, or sums with them, whatever they are stored as."""

from __future__ import annotations

import numpy as np

from lowerconv.nn.frame import HalfTensor, Tensor
from lowerconv.ops.elementwise import copy
from lowerconv.runtime.threads import run

COMPILED = (np.float32, np.float64)  # other types of numbers are moved by NumPy
_MOVED = (*COMPILED, np.uint32)  # words of codes


def moves_compiled(tensor: Tensor) -> bool:
    """Return whether `move` launches a kernel for such a tensor."""
    return isinstance(tensor, HalfTensor) or tensor.dtype in _MOVED


def move(source: Tensor, target: Tensor, adding: bool) -> None:
    """Copy a tensor, or add it to another of the same size."""
    if not (moves_compiled(source) and moves_compiled(target)):
        items = source.array.reshape(target.shape)
        target.array[...] = target.array + items if adding else items
        return
    run(copy, source.images, target.images, adding)
