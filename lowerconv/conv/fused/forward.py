"""Forward and input gradient on the macro-kernel: the record that its loops read."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache

import numpy as np

from lowerconv.codegen import amx
from lowerconv.codegen.activation import Activation
from lowerconv.codegen.amx import configuration, configure_address
from lowerconv.codegen.gathering import gather_address
from lowerconv.codegen.isa import Isa
from lowerconv.codegen.microkernel import Microkernel
from lowerconv.codegen.packing import (
    pad_address,
    prefetch_address,
    slack,
    transpose_address,
    transpose_taps_address,
)
from lowerconv.codegen.signatures import GatherNumbers, TileGeometry
from lowerconv.conv import records
from lowerconv.conv.executable import Array, Options, RecordExecutable
from lowerconv.conv.fused.kernels import kernels_of, steps_table
from lowerconv.conv.macrokernel import macrokernel_address, pack_address
from lowerconv.conv.packed_from import PackedFrom
from lowerconv.conv.partition import part_table
from lowerconv.conv.phases import Phase
from lowerconv.conv.schedule import Schedule
from lowerconv.conv.tiling import is_dense, live_taps, skips_taps
from lowerconv.runtime.launch import bind_operands, launch
from lowerconv.runtime.records import fill
from lowerconv.runtime.team import TeamHandle
from lowerconv.runtime.workspace import Scratch, scratch_stride

COPY_ALIGN_ITEMS = 4096  # items: copies of packed filters lie on pages of their own


class Forward(RecordExecutable):
    """A forward pass or an input gradient, by panels of filters.

    Attributes
    ----------
    schedule : Schedule
    job : ndarray of `records.FORWARD_JOB`
        A record for each phase.
    loops : int
        Address of the macro-kernel, or of what watches it (`conv.watched`).
    keeps : bool
        Whether filters are packed once, because they are constant.
    packed : ndarray or None
        These: a copy for each NUMA node.
    """

    schedule: Schedule

    def __init__(self, schedule: Schedule, options: Options) -> None:
        phases = len(schedule.conv.phases)
        super().__init__(schedule, options, np.zeros(phases, records.FORWARD_JOB))
        self.keeps = schedule.constant and not schedule.tiling.in_place
        self.packed: np.ndarray | None = None
        self._packed_from = PackedFrom()
        workers = self._workers()
        fill(self.job, *_schedule_fields(schedule, options.add), self._epilogue(options), workers)
        if schedule.tiling.uses_amx:
            fill(self.job, self._gathering())
        for number in range(phases):
            fill(self.job[number : number + 1], self._phase(number))
        scratch_bytes = schedule.workers * workers.scratch_bytes
        self.workspace_items = scratch_bytes // schedule.conv.dtype.itemsize
        self.loops = macrokernel_address()

    def with_activation(self, activation: Activation | None) -> Forward:
        """Return another pass, with filters of its own."""
        other = super().with_activation(activation)
        assert isinstance(other, Forward)
        other.packed = _room_for_panels(self.schedule) if self.keeps else None
        other._packed_from = PackedFrom()
        return other

    def run(
        self, team: TeamHandle, a: Array, b: Array, bias: Array, out: Array, workspace: Scratch
    ) -> None:
        """Convolve the source `a` with the filters `b`."""
        filters = self._pack(team, b) if self.keeps else b
        bind_operands(self.fields, a, filters, bias, out, workspace.address)
        launch(team, self.loops, self.address, self.schedule.workers)

    def _pack(self, team: TeamHandle, filters: Array) -> Array:
        """Return the packed filters, packed now where these are not those of the last call."""
        if self.packed is None:
            self.packed = _room_for_panels(self.schedule)
        if filters is not self.packed and not self._packed_from.has(filters):
            self._packed_from.forget()  # packing may be interrupted
            transposed = self.schedule.conv.transposed
            packs = records.PACKED_FROM_TRANSPOSED if transposed else records.PACKED_FROM_FORWARD
            self.job["filters_from"] = packs
            self.job["filters"], self.job["target"] = filters.ctypes.data, self.packed.ctypes.data
            launch(team, pack_address(), self.address, self.schedule.workers)
            self.job["filters_from"] = records.PACKED
            self._packed_from.take(filters)
        return self.packed

    def prepack(self, team: TeamHandle, w: Array, workspace: Scratch) -> Array:
        """Return the packed filters, or `w` where each call packs them."""
        if not self.keeps:
            return w
        kept = self._pack(team, w)
        self._packed_from.forget()
        return kept

    def packed_key(self) -> Hashable:
        """Return what decides the layout of the packed filters; None where none are kept."""
        if not self.keeps:
            return None
        s, conv = self.schedule, self.schedule.conv
        nodes = tuple(sorted(set(s.nodes[: s.workers])))
        return (
            "panels",
            s.tiling.uses_amx,
            s.NR,
            conv.K,
            conv.C,
            conv.taps,
            conv.groups,
            conv.transposed,
            nodes,
        )

    def use_packed(self, kept: Array) -> None:
        """Keep what another one has packed."""
        self.packed = kept
        self.job["filters_from"] = records.PACKED

    def set_requantization(self, requantization: records.Requantization) -> None:
        """Write where the scales are that sums are requantized with."""
        fill(self.job, requantization)

    def _workers(self) -> records.Workers:
        """Return where each worker's scratch, parts and packed filters are."""
        s = self.schedule
        sums_at = 0
        if not s.tiling.in_place and not s.constant:  # each worker packs panels, before its sums
            items = s.filter_items if s.tiling.uses_amx else s.conv.taps * s.KC
            sums_at = s.line_bytes(s.NC * items)
        padded_at = sums_at + s.line_bytes(s.NC)
        padded = s.line_bytes(s.plane * s.KC) if s.window.padded else 0
        if s.gathers:
            padded = s.line_bytes(s.tiling.shapes[0][1] * s.filter_items)
        own = s.nodes[: s.workers]
        copy = _copy_items(s) * s.conv.dtype.itemsize
        numbers = [(copy * n, own[:i].count(n), own.count(n)) for i, n in enumerate(own)]
        copies = self._keep(np.array(numbers, np.int64))
        return records.Workers(
            workers=s.workers,
            parts=self._keep(part_table(s.parts)),
            copies=copies,
            scratch_bytes=scratch_stride(padded_at + padded, s.nodes),
            padded_at=padded_at,
            sums_at=sums_at,
        )

    def _phase(self, number: int) -> records.PhaseRecord:
        """Return the record of a phase; make its microkernels and tables."""
        s, phase = self.schedule, self.schedule.tiling.tiled(self.schedule.conv.phases[number])
        TH, TW = s.tiling.shapes[number]
        tail = (phase.P % TH or TH, TW) if TH > 1 else (TH, phase.Q % TW or TW)
        rest = s.conv.K - (s.panels - 1) * s.NR
        sizes = [(NR, *size) for NR in (s.NR, rest) for size in ((TH, TW), tail)]
        kernels = kernels_of(s, number, dict.fromkeys(sizes), self.activation)
        made = [kernels[size] for size in sizes]
        self.kernels += [kernel for kernel, _ in made]
        if s.tiling.uses_amx:
            tables = self._keep(np.array([[0, s.conv.taps]], np.int64))
        else:
            tables = self._table_of_rows(number)
        per_row = s.tiles_per_row(number)
        (_, whole), (_, whole_tail), (_, last), (_, last_tail) = made
        geometry = self._geometry(phase, (TW, tail[1]))
        geometry_at = self._keep(geometry)
        return records.PhaseRecord(
            P=phase.P,
            Q=phase.Q,
            TH=TH,
            TW=TW,
            tiles_per_row=per_row,
            tiles=s.tiles(number),
            tiles_per_piece=s.piece_units * (per_row if s.by_rows else 1),
            tables=tables,
            out_offset=phase.out_offset,
            out_row=phase.out_row,
            out_column=phase.out_column,
            kernel=whole,
            kernel_tail=whole_tail,
            kernel_last=last,
            kernel_last_tail=last_tail,
            geometry=geometry_at,
            geometry_tail=geometry_at + geometry.strides[0],
        )

    def _geometry(self, phase: Phase, widths: Sequence[int]) -> np.ndarray:
        """Return what kernels read of tiles that are so many pixels wide, a row for each width."""
        s, VL = self.schedule, self.schedule.VL
        item = s.conv.dtype.itemsize
        line, column = s.plane * item, VL * item
        if s.gathers:
            line, column = column, s.filter_items * column
        row = s.conv.stride_h * s.window.pitch
        return np.array(
            [
                TileGeometry(
                    lanes=(width - 1) % VL + 1,
                    row=row,
                    out_row=phase.out_row,
                    line=line,
                    column=column,
                    block=VL * line,
                )
                for width in widths
            ],
            np.int64,
        )

    def _gathering(self) -> records.Gathering:
        """Return what kernels on AMX tiles need: the configuration, and how pixels are gathered."""
        s, conv = self.schedule, self.schedule.conv
        (phase,) = conv.phases
        made = records.Gathering(
            configure=configure_address(s.isa), configuration=self._keep(configuration())
        )
        if not s.gathers:
            return made
        top, bottom, left, right = conv.reach
        numbers = GatherNumbers(
            H=conv.H,
            W=conv.W,
            Q=phase.Q,
            stride_h=conv.stride_h,
            top=top,
            bottom=bottom,
            left=left,
            right=right,
            channels=conv.C,
            taps=conv.taps,
            panel=s.VL * s.filter_items,
            value=conv.word_format.padding if conv.word_format else 0,
        )
        places = [(row, column, row * conv.W + column) for _, row, column in sorted(phase.taps)]
        taps = np.array(places, np.int32)
        return made._replace(
            gather=gather_address(s.isa, np.dtype(np.int32), conv.stride_w, is_dense(conv)),
            gather_numbers=self._keep(np.array(numbers, np.int64)),
            gather_taps=self._keep(taps),
            gathered_at=int(self.job["padded_at"][0]),
        )

    def _table_of_rows(self, number: int) -> int:
        """Return an address: for each row of tiles that of its table, and its steps per channel."""
        s = self.schedule
        made: dict[bytes, tuple[int, int]] = {}
        phase, TH = s.conv.phases[number], s.tiling.shapes[number][0]
        if not skips_taps(s.conv, phase, TH):  # one table serves all rows
            live = tuple(range(len(phase.taps)))
            entry = self._keep(steps_table(s, number, live)), len(live)
            return self._keep(np.full((-(-phase.P // TH), 2), entry, np.int64))
        masks = live_taps(s.conv, phase, TH)
        table = np.empty((len(masks), 2), np.int64)
        # Rows of tiles that follow each other are alike, but for the first and the last.
        differ = np.flatnonzero((masks[1:] != masks[:-1]).any(axis=1)) + 1
        begins = [0, *map(int, differ)] if len(masks) else []
        for begin, end in zip(begins, [*begins[1:], len(masks)], strict=True):
            key = masks[begin].tobytes()
            if key not in made:
                live = tuple(map(int, np.flatnonzero(masks[begin])))
                made[key] = self._keep(steps_table(s, number, live)), len(live)
            table[begin:end] = made[key]
        return self._keep(table)

    def explain(self) -> dict[str, str]:
        """Return the decisions, for people."""
        s, kernel = self.schedule, self.kernels[0]
        assert isinstance(kernel, Microkernel)
        pixels = " or ".join(f"{TH} x {TW}" for TH, TW in dict.fromkeys(s.tiling.shapes))
        in_place = ", filters in place" if s.tiling.in_place else ""
        return {
            "instructions": s.isa.name,
            "vectors": f"{s.tiling.vectors}{in_place}",
            "microkernel": f"{kernel.MR} rows x {kernel.NV * s.VL} lanes",
            "tile": f"{pixels} pixels x {s.NR} filters",
            "source": f"padded bands for {s.band} rows" if s.window.padded else "in place",
            "blocks": f"{s.KC} channels x {s.NC // s.NR} panels of filters",
            "pieces": f"{s.conv.images * s.pieces} of the images, "
            f"{s.conv.groups * s.panels} panels",
            "workers": f"{s.workers}",
        }


def _schedule_fields(s: Schedule, add: bool) -> tuple[object, ...]:
    """Return the parts of the record that follow from the schedule alone."""
    conv, isa, dtype = s.conv, s.isa, s.conv.dtype
    out_item_bytes = conv.word_format.result_bytes if conv.word_format else dtype.itemsize
    packs = records.PACKED_FROM_TRANSPOSED if conv.transposed else records.PACKED_FROM_FORWARD
    filters_from = records.FILTERS_IN_PLACE if s.tiling.in_place else packs
    return (
        records.Problem(
            images=conv.images,
            H=conv.H,
            W=conv.W,
            groups=conv.groups,
            C=conv.C,
            K=conv.K,
            taps=conv.taps,
            itemsize=dtype.itemsize,
        ),
        records.Blocks(
            NR=s.NR,
            NC=s.NC,
            KC=s.KC,
            panels=s.panels,
            pieces=s.pieces,
            VL=s.VL,
            filters_from=filters_from,
            pixels_in_vectors=s.tiling.vectors != "filters",
            k_step=amx.SIZE if s.tiling.uses_amx else 1,
        ),
        records.SourceLayout(
            padded=s.window.padded,
            band=s.band,
            stride_h=conv.stride_h,
            stride_w=s.window.column_step,
            first_row=s.window.first_row,
            padded_rows=s.window.rows(s.band) if s.window.padded else 0,
            left=s.window.left,
            pitch=s.window.pitch,
            plane=s.plane,
            pad_bits=conv.word_format.padding if conv.word_format else 0,
        ),
        records.Result(
            out_plane=conv.out_plane,
            out_item_bytes=out_item_bytes,
            out_filter_bytes=out_item_bytes // conv.filters_per_item,
            phases=len(conv.phases),
            add=add,
        ),
        _copy_functions(isa, dtype, s.window.split, conv.taps if conv.transposed else 0),
    )


@lru_cache
def _copy_functions(isa: Isa, dtype: np.dtype, split: int, taps: int) -> records.CopyFunctions:
    """Return the functions that rearrange; `taps` of transposed filters, else 0."""
    return records.CopyFunctions(
        pad=pad_address(isa, dtype, split),
        transpose=transpose_address(isa, dtype),
        transpose_taps=transpose_taps_address(isa, dtype, taps) if taps else 0,
        prefetch=prefetch_address(isa, dtype),
    )


def _copy_items(s: Schedule) -> int:
    """Return the items of a copy of all packed filters."""
    items = s.conv.groups * s.panels * s.NR * s.filter_items
    return -(-(items + slack(s.isa, s.conv.dtype)) // COPY_ALIGN_ITEMS) * COPY_ALIGN_ITEMS


def _room_for_panels(s: Schedule) -> np.ndarray:
    """Return memory for a copy of all packed filters on each NUMA node.

    Each is packed by the workers of its node: their writes decide where it lies.
    """
    copies = max(s.nodes[: s.workers]) + 1
    # Of as many dimensions as filters, which is the kind of array kernels are compiled for.
    return np.empty((copies * _copy_items(s), 1, 1, 1), s.conv.dtype)
