"""Squares of vectors transposed in registers, by exchanging ever larger blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir


def transpose(e: Any, rows: Sequence[ir.Value], run: int = 1) -> list[ir.Value]:
    """Return the columns of a square of vectors, whose items are runs of so many lanes.

    `e` is an `emit.Builder`, which imports this.  Every stage leaves blocks of 2, 4, ... items in
    place: log2(n) stages of n shuffles.
    """
    rows = list(rows)
    size, lanes = len(rows), rows[0].type.count
    block, numbers = 1, range(lanes)
    while block < size:
        step = block * run
        low = [j if not j & step else j - step + lanes for j in numbers]
        high = [j + step if not j & step else j + lanes for j in numbers]
        result = list(rows)
        for i in range(size):
            if not i & block:
                result[i] = e.shuffle(rows[i], rows[i + block], low)
                result[i + block] = e.shuffle(rows[i], rows[i + block], high)
        block, rows = 2 * block, result
    return rows
