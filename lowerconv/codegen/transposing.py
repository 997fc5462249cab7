"""Lanes of vectors moved in registers: squares transposed, vectors picked from, and joined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir


def transpose(e: Any, rows: Sequence[ir.Value], run: int = 1) -> list[ir.Value]:
    """Return the columns of a square matrix of vectors, whose items are `run` lanes each.

    `e` is an `emit.Builder`, which imports this.  They are transposed by exchanging ever larger
    blocks: every stage leaves blocks of 2, 4, ... items in place: log2(n) stages of n shuffles.
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


def pick(e: Any, values: Sequence[ir.Value], first: int) -> ir.Value:
    """Return every n-th lane, from lane `first` on, of n vectors that follow each other."""
    step, lanes = len(values), e.lanes
    if step == 1:
        return values[0]
    wanted = [divmod(i * step + first, lanes) for i in range(lanes)]
    picked = e.shuffle(values[0], values[1], [v * lanes + j if v < 2 else 0 for v, j in wanted])
    for part in range(2, step):
        choice = [lanes + j if v == part else i for i, (v, j) in enumerate(wanted)]
        picked = e.shuffle(picked, values[part], choice)
    return picked


def interleave(e: Any, values: Sequence[ir.Value], step: int) -> list[ir.Value]:
    """Return `step` vectors with lane 0 of each of `values` in turn, then lane 1, and so on.

    Where `values` are fewer than `step`, lanes in place of those that are missing hold anything.
    """
    if step == 1:
        return list(values)
    pieces = []
    for part in range(step):
        wanted = [divmod(part * e.lanes + i, step) for i in range(e.lanes)]
        other = values[min(1, len(values) - 1)]
        piece = e.shuffle(values[0], other, [e.lanes * min(n, 1) + j for j, n in wanted])
        for number in range(2, len(values)):
            choice = [e.lanes + j if n == number else i for i, (j, n) in enumerate(wanted)]
            piece = e.shuffle(piece, values[number], choice)
        pieces.append(piece)
    return pieces
