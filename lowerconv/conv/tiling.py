"""What a tiling is: which operand lies in vectors, how large tiles are, and the taps they read."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from lowerconv.codegen import amx
from lowerconv.conv.phases import CACHE_SIZE, Convolution, Phase


class Tiling(NamedTuple):
    """What fills the vectors of the microkernel, and how large its tiles are.

    Attributes
    ----------
    vectors : {"filters", "pixels", "tiles"}
        "filters": vectors of filters from packed panels, pixels broadcast from the image.
        "pixels": vectors of pixels from the image, filters broadcast.  "tiles": tile registers of
        AMX for both, with pixels counted along all rows of the result.
    in_place : bool
        Whether filters are read where the caller has them.
    NR : int
        Filters of a panel.
    shapes : tuple of (TH, TW)
        Rows and columns of pixels of a tile, for each phase.
    cost : float
        Estimated; see `conv.costs`.
    gathered : float
        What of it is the gathering of a tile's pixels, which each block of panels does anew.
    at_once : int
        With AMX: the panels that are packed at a time.
    """

    vectors: str
    in_place: bool
    NR: int
    shapes: tuple[tuple[int, int], ...]
    cost: float
    gathered: float = 0.0
    at_once: int = 0

    @property
    def uses_amx(self) -> bool:
        """Whether sums are in tiles of AMX."""
        return self.vectors == "tiles"

    def tiled(self, phase: Phase) -> Phase:
        """Return the phase that tiles cover: for those of AMX its result is one long row."""
        if not self.uses_amx:
            return phase
        return replace(phase, P=1, Q=phase.P * phase.Q, out_row=phase.P * phase.Q)

    def with_shapes(self, shapes: tuple[tuple[int, int], ...]) -> Tiling:
        """Return the same with other tiles of pixels."""
        return self._replace(shapes=shapes)

    @property
    def name(self) -> str:
        """Name the tiling, as `lowerconv tune` does."""
        tiles = "+".join(f"{TH}x{TW}" for TH, TW in dict.fromkeys(self.shapes))
        where = self.vectors if self.uses_amx else f"{self.vectors} in vectors"
        return f"{where}, {self.NR} filters by {tiles} pixels"


def live_taps(conv: Convolution, phase: Phase, TH: int) -> np.ndarray:
    """Return bools (rows of tiles, taps): whether any pixel of the row of tiles reads the source.

    Taps that only meet the zeros of the padding are left out of a tile's steps.
    """
    if conv.reads_padding:
        return np.ones((-(-phase.P // TH), len(phase.taps)), bool)
    return _live_rows(phase.P, phase.tap_rows, TH, conv.stride_h, conv.H)


@lru_cache(maxsize=CACHE_SIZE)
def _live_rows(P: int, offsets: tuple[int, ...], TH: int, stride: int, H: int) -> np.ndarray:
    """Return `live_taps`, to be read only."""
    rows = np.arange(-(-P // TH) * TH).reshape(-1, TH)
    at = rows[:, :, None] * stride + np.array(offsets, np.int64)
    inside = (at >= 0) & (at < H) & (rows[:, :, None] < P)
    live = np.asarray(inside.any(axis=1))
    live.flags.writeable = False
    return live


def row_steps(conv: Convolution, phase: Phase, TH: int) -> tuple[tuple[int, int], ...]:
    """Return (rows of tiles, steps of all their tiles in k), for all rows but the last and for it.

    The steps of a tile are the live taps of its row, for each channel.
    """
    if conv.reads_padding:
        taps, tiles = len(phase.taps), -(-phase.P // TH)
        return (tiles - 1, conv.C * taps * (tiles - 1)), (1, conv.C * taps)
    whole, last, count = _counted(phase.P, phase.tap_rows, TH, conv.stride_h, conv.H)
    return (count - 1, conv.C * whole), (1, conv.C * last)


@lru_cache(maxsize=CACHE_SIZE)
def _counted(P: int, offsets: tuple[int, ...], TH: int, stride: int, H: int) -> tuple[int, ...]:
    """Return the live taps of all rows of tiles but the last, those of the last, and the rows."""
    whole, last, count = 0, 0, -(-P // TH)
    for offset in offsets:
        # Rows of pixels from `begin` to `end` read the source there, and so the tiles they are in.
        begin, end = max(0, -(offset // stride)), min(P, (H - 1 - offset) // stride + 1)
        if begin < end:
            in_last = end > (count - 1) * TH
            last += in_last
            whole += (end - 1) // TH - begin // TH + 1 - in_last
    return whole, last, count


def skips_taps(conv: Convolution, phase: Phase, TH: int) -> bool:
    """Return whether `live_taps` are not all."""
    (whole, whole_steps), (last, last_steps) = row_steps(conv, phase, TH)
    return whole_steps + last_steps < (whole + last) * conv.C * len(phase.taps)


def reads_in_place(conv: Convolution) -> bool:
    """Return whether an image is a panel of pixels as it is, for whole tiles."""
    (phase,) = conv.phases
    plain = phase.taps == ((0, 0, 0),) and conv.stride_h == conv.stride_w == 1
    whole = conv.C % amx.SIZE == 0 and conv.H * conv.W % amx.SIZE == 0
    return plain and whole and phase.P * phase.Q == conv.H * conv.W


def is_dense(conv: Convolution) -> bool:
    """Return whether neighbouring pixels read neighbours in memory, whatever their rows."""
    return conv.stride_h == conv.stride_w == 1 and conv.phases[0].Q == conv.W
