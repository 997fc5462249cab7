"""Whether tiles of AMX give what they must in this process: tried once, before they are used."""

from __future__ import annotations

import ctypes
from functools import lru_cache

import numpy as np

from lowerconv.codegen.amx import SIZE, configuration, configure_address
from lowerconv.codegen.dots import Words
from lowerconv.codegen.isa import Isa
from lowerconv.codegen.microkernel import Microkernel
from lowerconv.codegen.signatures import Configure, Tile, TileGeometry

STEPS, TILES = 3, 2  # of k; of filters and of pixels


def random_words(holds: str, words: int, draw: np.random.Generator) -> np.ndarray:
    """Return the numbers of words: bytes of any value, or small integers in bf16."""
    if holds == "bf16":
        return draw.integers(-4, 5, (words, 2)).astype(np.float32)
    kind = np.int8 if holds == "s8" else np.uint8
    return draw.integers(0, 256, (words, 4)).astype(np.uint8).view(kind)


def as_words(numbers: np.ndarray) -> np.ndarray:
    """Return bytes, or float32 that bf16 has, as words."""
    if numbers.dtype == np.float32:
        numbers = (numbers.view(np.uint32) >> 16).astype(np.uint16)
    return np.ascontiguousarray(numbers).view(np.uint32)[:, 0]


@lru_cache
def tiles_work(isa: Isa, words: Words) -> bool:
    """Return whether a register tile of tiles is the product of its operands.

    Parameters
    ----------
    isa : Isa
        With the extension, which this process may use.
    words : Words
        Pixels, and filters.
    """
    return _product(isa, words)


def _product(isa: Isa, words: Words) -> bool:
    draw, side, k = np.random.default_rng(0), TILES * SIZE, STEPS * SIZE
    pixels, filters = (random_words(holds, k * side, draw) for holds in words)
    rows, columns = tuple(range(side)), tuple(range(0, side, SIZE))
    step = side * SIZE
    kernel = Microkernel(
        isa, words.sums, rows, columns, step, None, "rows", words=words, uses_amx=True
    )
    out, bias = np.zeros((side, side), words.sums), np.ones(side, words.sums)
    line = 4 * SIZE
    numbers = np.array(TileGeometry(SIZE, 0, 0, line, k * line, SIZE * line), np.int64)
    panels, panel, tiles = as_words(pixels), as_words(filters), configuration()
    own = Tile(
        k=STEPS,
        vectors=panels.ctypes.data,
        broadcasts=panel.ctypes.data,
        table=0,
        out=out.ctypes.data,
        ld_out=side,
        bias=bias.ctypes.data,
        valid=side,
        mode=0,
        geometry=numbers.ctypes.data,
        constants=0,
    )
    _call(configure_address(isa), *Configure(tiles.ctypes.data))
    try:
        _call(kernel.address(), *own)
    finally:
        _call(configure_address(isa), *Configure(0))
    a = filters.reshape(STEPS, side, -1).astype(int)
    b = pixels.reshape(TILES, STEPS, SIZE, SIZE, -1).astype(int)
    want = np.einsum("kfcn,tkcpn->ftp", a.reshape(STEPS, side, SIZE, -1), b) + 1
    return bool((want.reshape(side, side) == out).all())


def _call(address: int, *arguments: int) -> None:
    ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(arguments))(address)(*arguments)
