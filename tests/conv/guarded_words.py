"""Calls convolutions of bytes on arrays flush against memory that nobody may touch.

A process of its own, as ``guard_pages.py`` is, which makes the pages.
"""

from __future__ import annotations

import pickle
import sys

import guard_pages
import numpy as np


def guarded(array: np.ndarray, place: str, read_only: bool) -> np.ndarray:
    """The helper fills what is beside an array with NaN: so items come as if they were float32."""
    return guard_pages.guarded(array.view(np.float32), place, read_only=read_only).view(array.dtype)


if __name__ == "__main__":
    from words import tiled

    from lowerconv.conv.words import integer

    results = []
    for name, place, tiles, problem, options, filters, operands, out in pickle.load(
        sys.stdin.buffer
    ):
        print(name, place, file=sys.stderr, flush=True)
        integer.tilings = tiled(tiles)  # type: ignore[assignment]
        plan = integer.IntegerConv(problem, **options)
        plan.prepack(**filters)
        here = [guarded(array, place, True) for array in operands]
        results.append(plan(*here, out=guarded(out, place, False)).copy())
    sys.stdout.buffer.write(pickle.dumps(results))
