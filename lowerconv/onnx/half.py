"""float16 and bfloat16: computed in float32, and rounded where a file says so."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv.nn import functional as F
from lowerconv.nn.computed import Computed
from lowerconv.nn.graph import Value
from lowerconv.onnx.registry import Importer, Node

_NAMES = {"float16", "bfloat16"}


def is_half(dtype: np.dtype) -> bool:
    """Return whether numbers are of 16 bits."""
    return dtype.itemsize == 2 and dtype.name in _NAMES  # names take long to make


def at_full(array: np.ndarray) -> np.ndarray:
    """Return an array in float32 if it is of 16 bits, else itself."""
    return array.astype(np.float32) if is_half(array.dtype) else array


class Rounded(Computed):
    """What was computed in float32, rounded to the 16 bits that a file declares."""

    def __init__(self, dtype: np.dtype) -> None:
        super().__init__(
            f"to {dtype.name}",
            lambda x: x.astype(dtype),
            lambda dy, y, x: (dy.astype(x.dtype),),
        )


def _full(x: Any) -> Any:
    """Return an operand in float32: as it was before it was rounded, if a node made it."""
    if x is None or not is_half(x.dtype):
        return x
    if isinstance(x, Value) and x.node is not None and isinstance(x.node.layer, Rounded):
        return x.node.operands[0]
    return F.cast(x, np.float32)


def in_full_precision(importer: Importer) -> Importer:
    """Return an importer that computes operands of 16 bits in float32, and rounds the results."""

    def imported(node: Node, *operands: Any) -> Any:
        if node.known.moves:
            return importer(node, *operands)
        kind = next(o.dtype for o in operands if o is not None and is_half(o.dtype))
        made = importer(node, *map(_full, operands))
        results = tuple(
            r if r is None or r.dtype != np.float32 else _rounded(r, kind)
            for r in (made if isinstance(made, tuple) else (made,))
        )
        return results if isinstance(made, tuple) else results[0]

    return imported


def _rounded(x: Any, dtype: np.dtype) -> Any:
    return Rounded(dtype)(x) if isinstance(x, Value) else x.astype(dtype)
