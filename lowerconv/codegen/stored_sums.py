"""Microkernels whose sums are in memory already: they only store them, as others do theirs.

Of the arguments, `vectors` is the address of the sums, int32, and `k` how many items lie between
those of a row and of the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir

from lowerconv.codegen.dots import U8_S8
from lowerconv.codegen.emit import Emitter
from lowerconv.codegen.isa import Isa
from lowerconv.codegen.microkernel import Geometry, Microkernel
from lowerconv.codegen.microkernel_requantize import RequantizingMicrokernel

SUMS = np.dtype(np.int32)


class _InMemory(Microkernel):
    """Takes the place of the loop over k."""

    def _loop_over_k(
        self, e: Emitter, tile: Any, geometry: Geometry
    ) -> Sequence[Sequence[ir.Value]]:
        rows = [
            e.offset(tile.vectors, e.builder.mul(tile.k, e.constant(row))) for row in range(self.MR)
        ]
        return [[e.load(row, column) for column in self.columns] for row in rows]


@dataclass(frozen=True)
class StoredSums(_InMemory):
    """Stores sums as they are."""

    name = "stored_sums"


@dataclass(frozen=True)
class RequantizedSums(_InMemory, RequantizingMicrokernel):
    """Stores sums as bytes, or float32."""

    name = "requantized_sums"


def store_kernel(isa: Isa, result: str, residual: bool, rows: int, width: int) -> Microkernel:
    """Return what stores `width` neighbouring sums of each of some filters.

    Parameters
    ----------
    isa : Isa
    result : str
        As of `conv.word_format.WordFormat`.
    residual : bool
        Whether bytes are added.
    rows, width : int
        Filters, and pixels of each.
    """
    VL = isa.lanes(SUMS)
    across, rest = -(-width // VL), width % VL
    some_lanes = (VL,) * (across - 1) + (rest,)
    tile: dict[str, Any] = {
        "rows": tuple(range(rows)),
        "columns": tuple(range(0, across * VL, VL)),
        "broadcast_step": 0,
        "vector_step": 0,
        "store": "rows",
        "lanes": some_lanes if rest and not isa.masks else (),
        "tail": bool(rest) and isa.masks,
        "words": U8_S8,
    }
    if result == "sums":
        return StoredSums(isa, SUMS, **tile)
    return RequantizedSums(isa, SUMS, **tile, result=result, residual=residual)
