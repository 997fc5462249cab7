"""Decisions of Winograd's convolution, forward and input gradient: panels, pieces, workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np

from lowerconv.codegen.isa import Isa
from lowerconv.codegen.microkernel import Microkernel, rows_max, step_time
from lowerconv.codegen.packing import slack, transpose_address, turn_address
from lowerconv.codegen.transforms import (
    ALPHA,
    POINTS_2D,
    M,
    R,
    gather_address,
    scatter_address,
    transform_filters_address,
    transform_source_address,
    transform_target_address,
)
from lowerconv.conv.blas.blocking import panel_bytes
from lowerconv.conv.lowering import Convolution
from lowerconv.conv.macrokernel import FORWARD, TURNED
from lowerconv.conv.partition import best
from lowerconv.conv.window import balanced
from lowerconv.conv.winograd.nest import CHUNK, JOB, TAPS
from lowerconv.copying import not_copied
from lowerconv.runtime.launch import write
from lowerconv.runtime.workspace import LINE, scratch_stride

# Prices in multiply-adds of one vector.
SOURCE = 185.0  #   to transform a vector of channels of a tile
TARGET = 160.0  #   to transform a vector of filters of a tile back
MOVED = 100.0  #    to turn VL pixels of VL planes into vectors, or back
FILTERS = 350.0  #  to transform a vector of filters of a channel
CALL = 120.0  #     to call a microkernel, and begin its sums
STORED = 4.0  #     to store a vector of sums
FAR = 0.25  #       to read a byte from beyond L2, where that takes longer than what is done with it

TILES = 48  #      of a piece at most
SHARED_BYTES = 12 * 2**20  # of transformed filters; more are transformed by who needs them
BLOCK_SHARE = 2.4  # of a quarter of the L2 cache: the filters transformed at a time
STREAM = 32  #      steps that transformed filters are prefetched ahead


@dataclass(frozen=True)
class Piece:
    """How the tiles of all images are cut: several images, rows of tiles, or parts of a row."""

    together: int
    band: int
    segment: int

    @property
    def tiles(self) -> int:
        """Tiles of the largest piece."""
        return self.together * self.band * self.segment


def _pieces(images: int, down: int, across: int) -> Iterator[Piece]:
    """Yield the ways to cut images of `down` x `across` tiles."""
    if across > TILES:
        for most in (TILES, TILES // 2, TILES // 4):
            yield Piece(1, 1, balanced(across, most))
        return
    for most in sorted({balanced(down, rows) for rows in range(1, min(down, TILES // across) + 1)}):
        yield Piece(1, most, across)
    for most in range(2, min(images, TILES // (down * across)) + 1):
        yield Piece(balanced(images, most), down, across)


@not_copied("copy the ConvPlan that it is a part of")
class Layout:
    """All decisions for a convolution; `build` makes the job."""

    def __init__(
        self, conv: Convolution, isa: Isa, threads_nodes: tuple[int, ...], constant: bool
    ) -> None:
        self.conv, self.isa, self.nodes, self.constant = conv, isa, threads_nodes, constant
        self.item, self.VL = conv.dtype.itemsize, isa.lanes(conv.dtype)
        (phase,) = conv.phases
        self.P, self.Q = phase.P, phase.Q
        self.down, self.across = ceil(self.P / M), ceil(self.Q / M)
        self._choose()

    def _choose(self) -> None:
        """Choose panels, pieces and workers: the busiest worker least so.

        Blocks of channels round, so that they depend on nothing but the problem.
        """
        conv = self.conv
        vectors = ceil(conv.results / self.VL)
        self.shared = POINTS_2D * conv.channels * conv.results * conv.groups * self.item
        # So few tiles that filters are used only once: they need not leave the core's cache.
        once = conv.images * self.down * self.across <= TILES
        self.keeps = self.shared <= SHARED_BYTES and (self.constant or not once)
        self.channel_block = conv.channels
        if once or self.shared > SHARED_BYTES:
            most = int(BLOCK_SHARE * panel_bytes()) // (POINTS_2D * 2 * self.VL * self.item)
            block = balanced(conv.channels, max(self.VL, most))
            self.channel_block = ceil(block / self.VL) * self.VL
        shapes = list(dict.fromkeys(_pieces(conv.images, self.down, self.across)))
        found = None
        for NV in (1, 2, 3):
            if vectors < NV:
                continue
            panels = ceil(vectors / NV)
            options = [self._times(shape, NV) for shape in shapes]
            number, partition = best(conv.groups * panels, self.nodes, panels, 0.0, options)
            pieces, work, lower = options[number]
            total = pieces * conv.groups * (panels * work + lower)
            if found is None or total < found[0]:
                found = total, NV, shapes[number], partition
        assert found is not None
        self.cost, self.NV, self.piece, self.partition = found
        self.F = self.NV * self.VL
        self.panels = ceil(vectors / self.NV)
        self.MR = balanced(self.piece.tiles, rows_max(self.isa, self.NV))
        self.workers = len(self.partition)

    def _times(self, piece: Piece, NV: int) -> tuple[int, float, float]:
        """Return the pieces, and the times of one: of each panel, and of V."""
        conv, isa, VL, item = self.conv, self.isa, self.VL, self.item
        number = ceil(conv.images / piece.together) * ceil(self.down / piece.band)
        number *= ceil(self.across / piece.segment)
        tiles = conv.images * self.down * self.across / number  # of the average piece
        MR = balanced(piece.tiles, rows_max(isa, NV))
        blocks = ceil(conv.channels / self.channel_block)
        calls = POINTS_2D * tiles / MR
        multiply = calls * (
            conv.channels * step_time(MR, NV, isa) + blocks * (CALL + STORED * MR * NV)
        )
        back = NV * (tiles * TARGET + conv.images * self.P * self.Q / number / VL * MOVED)
        V = POINTS_2D * ceil(conv.channels / VL) * VL * piece.tiles * item
        U = POINTS_2D * conv.channels * NV * VL * item
        products = POINTS_2D * piece.tiles * NV * VL * item
        L2 = 4 * panel_bytes()
        far = 0.0
        if self.constant and self.keeps:
            filters = 0.0
        elif self.keeps:
            filters = conv.channels * NV * FILTERS / number  # each piece's share
        else:
            filters = conv.channels * NV * FILTERS
        if self.keeps and self.shared + V + products > L2:
            far += U
        if V + products + (0 if self.keeps else BLOCK_SHARE / 4 * L2) > L2:
            far += V
        rows = M * piece.band + ALPHA - M
        source = rows * min(conv.W, M * piece.segment + 2) * piece.together / VL * MOVED
        lower = ceil(conv.channels / VL) * (tiles * SOURCE + source)
        return number, max(multiply, FAR * far) + back + filters, lower

    def _lines(self, items: int) -> int:
        """Return the bytes of so many items with room for slack, in whole cache lines."""
        return ceil((items + slack(self.isa, self.conv.dtype)) * self.item / LINE) * LINE

    def _step(self, items: int) -> int:
        """Return a distance of an odd number of lines: points then use all sets of a cache."""
        return (ceil(items * self.item / LINE) | 1) * LINE // self.item

    def _kernels(self) -> np.ndarray:
        """Return the addresses of the microkernels, by last panel or not, and by tiles."""
        conv, piece, VL = self.conv, self.piece, self.VL
        counts = {
            images * rows * across
            for images in (piece.together, conv.images % piece.together or piece.together)
            for rows in (piece.band, self.down % piece.band or piece.band)
            for across in (piece.segment, self.across % piece.segment or piece.segment)
        }
        rows = {count % self.MR for count in counts} - {0}
        if max(counts) >= self.MR:
            rows |= {self.MR}
        addresses = np.zeros((2, self.MR + 1), np.int64)
        rest = ceil(conv.results / VL) - (self.panels - 1) * self.NV
        for last, NV in enumerate((self.NV, rest)):
            for count in sorted(rows, reverse=True):
                kernel = Microkernel(
                    self.isa, conv.dtype, tuple(i * VL for i in range(count)),
                    tuple(v * VL for v in range(NV)), None, self.F, "rows",
                    stream=STREAM * self.F if self.keeps else 0,
                )  # fmt: skip
                self.kernels.append(kernel)
                addresses[last, count] = kernel.address()
        return addresses

    def build(self) -> None:
        """Emit the microkernels and write the job, all of it but the addresses of a call."""
        conv, isa, piece, VL = self.conv, self.isa, self.piece, self.VL
        self.kernels: list[Microkernel] = []
        top, _, first_column, _ = conv.reach
        left, skip = max(0, -first_column), max(0, first_column)
        whole = piece.segment == self.across
        band_rows = M * piece.band + ALPHA - M
        pitch = M * piece.segment + ALPHA - M
        if whole:
            pitch = max(left + conv.W, skip + pitch)
            places = np.arange(min(conv.H, band_rows))[:, None] * pitch + np.arange(conv.W)
        else:
            places = np.arange(pitch)
        self._places = np.ascontiguousarray(places * VL, np.int32)
        room = piece.tiles
        channel = np.arange(self.channel_block)
        self._table = np.ascontiguousarray(channel // VL * room * VL + channel % VL, np.int32)
        self._kernel_table = self._kernels()
        self._zeros = np.zeros(self.MR, conv.dtype)
        step_V = self._step(ceil(conv.channels / VL) * room * VL)
        step_U = self._step((conv.channels if self.keeps else self.channel_block) * self.F)
        step_M = self._step(room * self.F)
        width = min(self.Q, M * piece.segment)
        own, at = 0, {}
        for name, items in (
            ("V", POINTS_2D * step_V),
            ("M", POINTS_2D * step_M),
            ("U", 0 if self.keeps else POINTS_2D * step_U),
            ("taps", TAPS * CHUNK * self.F),
            ("band", band_rows * pitch * VL),
            ("strip", (M * piece.band * width + M) * VL),
            ("bias", self.F),
        ):
            at[f"{name}_at"] = own
            own += self._lines(items)
        self.scratch_bytes = scratch_stride(own, self.nodes)
        items = conv.groups * self.panels * POINTS_2D * step_U
        self.kept = np.empty((items, 1, 1, 1), conv.dtype) if self.keeps and self.constant else None
        in_workspace = self.keeps and not self.constant
        self.shared_bytes = self._lines(items) if in_workspace else 0
        counts = [0, *(len(rectangles) for rectangles in self.partition)]
        begins = np.cumsum(counts) * 4 + len(counts)
        flat = [number for part in self.partition for rectangle in part for number in rectangle]
        self._rectangles = np.array([*begins, *flat], np.int64)
        self.job = np.zeros(1, JOB)
        write(
            self.job,
            scratch_bytes=self.scratch_bytes, itemsize=self.item, images=conv.images,
            H=conv.H, W=conv.W, P=self.P, Q=self.Q,
            groups=conv.groups, channels=conv.channels, channel_block=self.channel_block,
            taps=TAPS, results=conv.results, F=self.F, VL=VL, panels=self.panels,
            feed=TURNED if conv.turned else FORWARD,
            transpose=transpose_address(isa, conv.dtype),
            turn=turn_address(isa, conv.dtype, TAPS) if conv.turned else 0,
            together=piece.together, bands=ceil(self.down / piece.band), band=piece.band,
            segments=ceil(self.across / piece.segment), segment=piece.segment,
            tiles_down=self.down, tiles_across=self.across, first_row=top, left=left, skip=skip,
            pitch=pitch, band_rows=band_rows, places=self._places.ctypes.data,
            extent=ALPHA, step_V=step_V, step_U=step_U, step_M=step_M, room=room,
            gather=gather_address(isa, conv.dtype), scatter=scatter_address(isa, conv.dtype),
            transform_source=transform_source_address(isa, conv.dtype),
            transform_filters=transform_filters_address(isa, conv.dtype, conv.turned),
            transform_target=transform_target_address(isa, conv.dtype),
            MR=self.MR, kernels=self._kernel_table.ctypes.data, table=self._table.ctypes.data,
            zeros=self._zeros.ctypes.data, kept=0 if self.kept is None else self.kept.ctypes.data,
            shared_at=self.workers * self.scratch_bytes if in_workspace else 0,
            rectangles=self._rectangles.ctypes.data, workers=self.workers, **at,
        )  # fmt: skip

    def explain(self) -> dict[str, str]:
        """Return the decisions, for people."""
        piece = self.piece
        return {
            "instructions": self.isa.name,
            "transform": f"{M} x {M} pixels of {R} x {R} taps, {POINTS_2D} products",
            "microkernel": f"{self.MR} tiles x {self.F} filters",
            "tiles": f"{self.down} x {self.across} of an image, pieces of {piece.together} images x"
            f" {piece.band} x {piece.segment}",
            "filters are": "transformed once" if self.keeps else "transformed for each piece",
            "blocks": f"{self.channel_block} channels",
            "cores": f"{self.workers}",
        }
