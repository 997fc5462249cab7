"""Winograd's forward and input gradient, executable: microkernels, tables, and the record."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from math import ceil

import numpy as np

from lowerconv.codegen.activation import Activation
from lowerconv.codegen.isa import Isa
from lowerconv.codegen.microkernel import Microkernel
from lowerconv.codegen.packing import transpose_address, transpose_taps_address
from lowerconv.codegen.transforms import (
    ALPHA,
    POINTS_2D,
    TILE,
    planes_to_vectors_address,
    transform_filters_address,
    transform_source_address,
    transform_target_address,
    vectors_to_planes_address,
)
from lowerconv.conv.executable import Array, Options, RecordExecutable
from lowerconv.conv.packed_from import PackedFrom
from lowerconv.conv.partition import part_table
from lowerconv.conv.phases import CACHE_SIZE
from lowerconv.conv.records import PACKED_FROM_FORWARD, PACKED_FROM_TRANSPOSED
from lowerconv.conv.winograd import records
from lowerconv.conv.winograd.macrokernel import CHUNK, TAPS, prepare_address, winograd_address
from lowerconv.conv.winograd.schedule import TileSchedule, odd_lines
from lowerconv.runtime.launch import bind_operands, launch
from lowerconv.runtime.records import fill
from lowerconv.runtime.team import TeamHandle
from lowerconv.runtime.workspace import Scratch, scratch_stride

PREFETCH_STEPS = 32  # steps that transformed filters are prefetched ahead


class WinogradForward(RecordExecutable):
    """A convolution by tiles.

    Attributes
    ----------
    schedule : TileSchedule
    job : ndarray of `records.TILE_JOB`
    packed : ndarray or None
        Filters transformed once, where they are constant.
    """

    schedule: TileSchedule

    def __init__(self, schedule: TileSchedule, options: Options) -> None:
        super().__init__(schedule, options, np.zeros(1, records.TILE_JOB))
        s = schedule
        conv, item = s.conv, s.conv.dtype.itemsize
        step_U = odd_lines((conv.C if s.shares else s.KC) * s.NR, item)
        items = conv.groups * s.panels * POINTS_2D * step_U
        keeps = s.shares and s.constant
        # Of as many dimensions as filters, which is the kind of array kernels are compiled for.
        self.packed = np.empty((items, 1, 1, 1), conv.dtype) if keeps else None
        shared_bytes = s.line_bytes(items) if s.shares and not keeps else 0
        band, places = _band(s)
        room = s.piece.tiles
        channel = np.arange(s.KC)
        table = np.ascontiguousarray(channel // s.VL * room * s.VL + channel % s.VL, np.int32)
        kernels = self._microkernels()
        zeros = np.zeros(s.MR, conv.dtype)
        parts = part_table(s.parts)
        self.arrays += [places, table, kernels, zeros, parts]
        transformed = records.Transformed(
            step_V=odd_lines(ceil(conv.C / s.VL) * room * s.VL, item),
            step_U=step_U,
            step_M=odd_lines(room * s.NR, item),
            room=room,
        )
        at, own = _places(s, band, transformed)
        scratch_bytes = scratch_stride(own, s.nodes)
        fill(
            self.job,
            *_schedule_fields(s, options.add),
            self._epilogue(options),
            band,
            transformed,
            _emitted(s, kernels, table, zeros, self.activation),
            records.TileWorkers(
                kept=0 if self.packed is None else self.packed.ctypes.data,
                shared_at=s.workers * scratch_bytes if shared_bytes else 0,
                parts=parts.ctypes.data,
                workers=s.workers,
                scratch_bytes=scratch_bytes,
                **at,
            ),
        )
        self.workspace_items = (s.workers * scratch_bytes + shared_bytes) // item
        self._packed_from = PackedFrom()

    def run(
        self, team: TeamHandle, a: Array, b: Array, bias: Array, out: Array, workspace: Scratch
    ) -> None:
        """Convolve the source `a` with the filters `b`."""
        s = self.schedule
        bind_operands(self.fields, a, b, bias, out, workspace.address)
        if self.packed is None:
            if s.shares:
                launch(team, prepare_address(), self.address, s.workers)
        elif b is not self.packed and not self._packed_from.has(b):
            self._packed_from.forget()  # whatever interrupts it
            launch(team, prepare_address(), self.address, s.workers)
            self._packed_from.take(b)
        launch(team, winograd_address(), self.address, s.workers)

    def prepack(self, team: TeamHandle, w: Array, workspace: Scratch) -> Array:
        """Return the transformed filters, or `w` where each call transforms them."""
        kept = self.packed
        if kept is None:
            return w
        bind_operands(self.fields, kept, w, self.no_bias, kept, workspace.address)
        launch(team, prepare_address(), self.address, self.schedule.workers)
        return kept

    def packed_key(self) -> Hashable:
        """Return all that the transformed filters depend on beside the filters."""
        if self.packed is None:
            return None
        s, conv = self.schedule, self.schedule.conv
        return "transformed", s.NR, conv.K, conv.C, conv.groups, conv.transposed

    def use_packed(self, kept: Array) -> None:
        """Keep what another one has transformed."""
        self.packed = kept
        self.job["kept"] = kept.ctypes.data

    def _microkernels(self) -> np.ndarray:
        """Return the addresses of the microkernels, by last panel or not, and by tiles."""
        s, piece = self.schedule, self.schedule.piece
        counts = {
            images * rows * across
            for images in (piece.together, s.conv.images % piece.together or piece.together)
            for rows in (piece.band, s.down % piece.band or piece.band)
            for across in (piece.segment, s.across % piece.segment or piece.segment)
        }
        rows = {count % s.MR for count in counts} - {0}
        if max(counts) >= s.MR:
            rows |= {s.MR}
        addresses = np.zeros((2, s.MR + 1), np.int64)
        rest = ceil(s.conv.K / s.VL) - (s.panels - 1) * s.NV
        for last, NV in enumerate((s.NV, rest)):
            for count in sorted(rows, reverse=True):
                kernel, address = _microkernel(s.isa, s.conv.dtype, count, NV, s.NV, s.shares)
                self.kernels.append(kernel)
                addresses[last, count] = address
        return addresses

    def explain(self) -> dict[str, str]:
        """Return the decisions, for people."""
        s, piece = self.schedule, self.schedule.piece
        return {
            "instructions": s.isa.name,
            "transform": f"{TILE} x {TILE} pixels of 3 x 3 taps, {POINTS_2D} products",
            "microkernel": f"{s.MR} tiles x {s.NR} filters",
            "tiles": f"{s.down} x {s.across} of an image, pieces of {piece.together} images x"
            f" {piece.band} x {piece.segment}",
            "transformed filters": "once" if s.shares else "for each piece",
            "blocks": f"{s.KC} channels",
            "workers": f"{s.workers}",
        }


@lru_cache(maxsize=CACHE_SIZE)
def _microkernel(
    isa: Isa, dtype: np.dtype, count: int, NV: int, panel: int, prefetches: bool
) -> tuple[Microkernel, int]:
    """Return the kernel of some tiles by NV of a panel's vectors of filters, and its address."""
    VL = isa.lanes(dtype)
    kernel = Microkernel(
        isa,
        dtype,
        rows=tuple(i * VL for i in range(count)),
        columns=tuple(v * VL for v in range(NV)),
        broadcast_step=None,
        vector_step=panel * VL,
        store="rows",
        prefetch_vectors=PREFETCH_STEPS * panel * VL if prefetches else 0,
    )
    return kernel, kernel.address()


def _band(s: TileSchedule) -> tuple[records.Band, np.ndarray]:
    """Return the pixels that a piece reads, and where each pixel of the image goes among them."""
    conv, piece = s.conv, s.piece
    top, _, first_column, _ = conv.reach
    left, skip = max(0, -first_column), max(0, first_column)
    band_rows = TILE * piece.band + ALPHA - TILE
    pitch = TILE * piece.segment + ALPHA - TILE
    places = np.arange(pitch)
    if piece.segment == s.across:
        pitch = max(left + conv.W, skip + pitch)
        places = np.arange(min(conv.H, band_rows))[:, None] * pitch + np.arange(conv.W)
    places = np.ascontiguousarray(places * s.VL, np.int32)
    band = records.Band(
        first_row=top,
        left=left,
        skip=skip,
        pitch=pitch,
        band_rows=band_rows,
        places=places.ctypes.data,
        extent=ALPHA,
    )
    return band, places


def _places(
    s: TileSchedule, band: records.Band, transformed: records.Transformed
) -> tuple[dict[str, int], int]:
    """Return where the parts of a worker's scratch begin, and how many bytes they have."""
    width = min(s.Q, TILE * s.piece.segment)
    own, at = 0, {}
    for name, items in (
        ("V_at", POINTS_2D * transformed.step_V),
        ("M_at", POINTS_2D * transformed.step_M),
        ("U_at", 0 if s.shares else POINTS_2D * transformed.step_U),
        ("taps_at", TAPS * CHUNK * s.NR),
        ("band_at", band.band_rows * band.pitch * s.VL),
        ("strip_at", (TILE * s.piece.band * width + TILE) * s.VL),
        ("sums_at", s.NR),
    ):
        at[name] = own
        own += s.line_bytes(items)
    return at, own


def _schedule_fields(s: TileSchedule, add: bool) -> tuple[object, ...]:
    """Return the parts of the record that follow from the schedule alone."""
    conv, piece = s.conv, s.piece
    return (
        records.TileProblem(
            images=conv.images,
            H=conv.H,
            W=conv.W,
            P=s.P,
            Q=s.Q,
            groups=conv.groups,
            C=conv.C,
            K=conv.K,
            taps=TAPS,
            itemsize=conv.dtype.itemsize,
            add=add,
        ),
        records.TileBlocks(
            NR=s.NR,
            KC=s.KC,
            MR=s.MR,
            VL=s.VL,
            panels=s.panels,
            filters_from=PACKED_FROM_TRANSPOSED if conv.transposed else PACKED_FROM_FORWARD,
        ),
        records.TilePieces(
            together=piece.together,
            bands=ceil(s.down / piece.band),
            band=piece.band,
            segments=ceil(s.across / piece.segment),
            segment=piece.segment,
            tiles_down=s.down,
            tiles_across=s.across,
        ),
    )


def _emitted(
    s: TileSchedule,
    kernels: np.ndarray,
    table: np.ndarray,
    zeros: np.ndarray,
    activation: Activation,
) -> records.TileKernels:
    """Return the addresses of emitted functions, and of what microkernels read."""
    isa, dtype, transposed = s.isa, s.conv.dtype, s.conv.transposed
    return records.TileKernels(
        pad=0,  # `pack_panel` has a branch that calls it, for filters of one tap
        transpose=transpose_address(isa, dtype),
        transpose_taps=transpose_taps_address(isa, dtype, TAPS) if transposed else 0,
        planes_to_vectors=planes_to_vectors_address(isa, dtype),
        vectors_to_planes=vectors_to_planes_address(isa, dtype, activation),
        transform_source=transform_source_address(isa, dtype),
        transform_filters=transform_filters_address(isa, dtype, transposed),
        transform_target=transform_target_address(isa, dtype),
        kernels=kernels.ctypes.data,
        table=table.ctypes.data,
        zeros=zeros.ctypes.data,
    )
