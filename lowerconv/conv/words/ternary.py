"""A convolution of bytes with ternary filters, executable: sums of what the filters select."""

from __future__ import annotations

from collections.abc import Hashable
from math import ceil

import numpy as np

from lowerconv.codegen.signatures import TileGeometry
from lowerconv.codegen.stored_sums import store_kernel
from lowerconv.codegen.ternary import (
    BITS,
    PAIR_BYTES,
    PAIRS_MAX,
    PIXEL,
    TernaryKernel,
    WideningKernel,
)
from lowerconv.conv.executable import Array, Options, RecordExecutable
from lowerconv.conv.records import Requantization
from lowerconv.conv.words import ternary_nest
from lowerconv.conv.words.filters import PER_WORD
from lowerconv.conv.words.ternary_schedule import TernarySchedule
from lowerconv.ops.ternary_codes import sign_planes
from lowerconv.runtime.launch import bind_operands, launch
from lowerconv.runtime.records import fill
from lowerconv.runtime.team import TeamHandle
from lowerconv.runtime.workspace import Scratch, scratch_stride

MIDDLE = 128  # what is subtracted from unsigned bytes


class Ternary(RecordExecutable):
    """A convolution by masks of weights; see `conv.words.ternary_nest`.

    Attributes
    ----------
    schedule : TernarySchedule
    job : ndarray of `ternary_nest.TERNARY_JOB`
    """

    schedule: TernarySchedule

    def __init__(self, schedule: TernarySchedule, options: Options) -> None:
        super().__init__(schedule, options, np.zeros(1, ternary_nest.TERNARY_JOB))
        workers = self._workers()
        fill(self.job, *self._sizes(), self._tables(), self._result(), workers)
        self.workspace_items = schedule.workers * workers.scratch_bytes // 4
        self._loops = ternary_nest.ternary_address()

    def run(
        self, team: TeamHandle, a: Array, b: Array, bias: Array, out: Array, workspace: Scratch
    ) -> None:
        """Convolve the words `a` with the masks `b`."""
        bind_operands(self.fields, a, b, bias, out, workspace.address)
        launch(team, self._loops, self.address, self.schedule.workers)

    def prepack(self, team: TeamHandle, w: Array, workspace: Scratch) -> Array:
        """Return the masks of ternary filters in words, and what sums start from.

        ::

            masks   uint64, (filters, pairs, 2)    bit i of pair j: whether weight 64 j + i is 1, -1
            starts  int64, (filters,)              128 times the sum of the weights, of pixels "u8"
        """
        codes = w.view(np.int8).reshape(*w.shape, PER_WORD).transpose(0, 1, 4, 2, 3)
        rows = codes.reshape(len(w), -1)
        planes = sign_planes(rows)
        bits = np.zeros((2, len(w), self.schedule.mask_pairs * BITS // 8), np.uint8)
        bits[..., : planes.shape[2]] = planes
        masks = np.ascontiguousarray(np.moveaxis(bits.view("<u8").astype(np.uint64), 0, -1))
        starts = self._is_unsigned * MIDDLE * rows.sum(axis=1, dtype=np.int64)
        # Of as many dimensions as filters, which is the kind of array kernels are compiled for.
        whole = np.concatenate([masks.view(np.int64).ravel(), starts])
        return whole.view(np.float32).reshape(-1, 1, 1, 1)

    def packed_key(self) -> Hashable:
        """Return what decides the layout of the masks."""
        return "masks", self._is_unsigned

    def set_requantization(self, requantization: Requantization) -> None:
        """Write where the scales are that sums are requantized with."""
        fill(self.job, requantization)

    @property
    def _is_unsigned(self) -> bool:
        word_format = self.schedule.conv.word_format
        assert word_format is not None
        return word_format.pixels == "u8"

    def _sizes(self) -> tuple[object, ...]:
        """Return the parts of the record that follow from the schedule alone."""
        s, conv = self.schedule, self.schedule.conv
        (phase,), word_format = conv.phases, conv.word_format
        assert word_format is not None
        flip = 0 if self._is_unsigned else MIDDLE
        top, _, left, _ = conv.reach
        return (
            ternary_nest.TernaryProblem(
                images=conv.images,
                groups=conv.groups,
                channel_words=conv.C,
                K=conv.K,
                H=conv.H,
                W=conv.W,
                P=phase.P,
                Q=phase.Q,
                stride_h=conv.stride_h,
                stride_w=conv.stride_w,
                flip=flip,
                padding=((word_format.padding & 0xFF) ^ flip) - MIDDLE,
                mask_pairs=s.mask_pairs,
            ),
            ternary_nest.TernaryBlocks(
                band=s.band,
                columns=s.columns,
                bands=s.bands,
                column_blocks=s.column_blocks,
                task_filters=s.task_filters,
                filter_blocks=s.filter_blocks,
                first_row=top,
                first_column=left,
                splits=len(s.remainders),
                rows=s.rows,
                pitch=s.pitch,
                plane=s.plane,
                tile=s.NV * s.lanes,
                VL=s.lanes,
                TW=s.TW,
                sums_row=s.sums_row,
            ),
        )

    def _tables(self) -> ternary_nest.TernaryTables:
        """Return the tables, and the emitted functions."""
        s, conv = self.schedule, self.schedule.conv
        word_format = conv.word_format
        assert word_format is not None
        # All blocks of columns but the last are whole pieces.
        width, tail = s.TW, self._last_columns % s.TW or s.TW
        rest = conv.K % PER_WORD or PER_WORD
        result = word_format.result, word_format.residual
        stores = {
            (rows, columns): store_kernel(s.isa, *result, rows, columns)
            for rows in (PER_WORD, rest)
            for columns in (width, tail)
        }
        geometry = np.array(
            [TileGeometry((size - 1) % s.VL + 1, 0, 0) for size in (width, tail)], np.int64
        )
        at = self._keep(geometry)
        return ternary_nest.TernaryTables(
            remainders=self._keep(np.array(s.remainders, np.int64)),
            offsets=self._keep(self._offsets()),
            starts=conv.groups * conv.K * s.mask_pairs * PAIR_BYTES,
            widen=WideningKernel(s.isa, conv.stride_w).address(),
            kernels=self._keep(self._kernels()),
            store=stores[PER_WORD, width].address(),
            store_tail=stores[PER_WORD, tail].address(),
            store_last=stores[rest, width].address(),
            store_last_tail=stores[rest, tail].address(),
            geometry=at,
            geometry_tail=at + geometry.strides[0],
        )

    def _result(self) -> ternary_nest.TernaryResult:
        """Return where sums go."""
        s, conv = self.schedule, self.schedule.conv
        assert conv.word_format is not None
        return ternary_nest.TernaryResult(
            padded_filters=s.panels * PER_WORD,
            out_plane=conv.out_plane,
            out_filter_bytes=conv.word_format.result_bytes // conv.filters_per_item,
        )

    def _workers(self) -> ternary_nest.TernaryWorkers:
        """Return how many workers there are, and where their parts of the scratch are."""
        s = self.schedule
        own = s.pixel_bytes + s.task_filters * s.sums_row * ternary_nest.SUM_BYTES
        return ternary_nest.TernaryWorkers(
            workers=s.workers,
            scratch_bytes=scratch_stride(own, s.nodes),
            sums_at=s.pixel_bytes,
        )

    @property
    def _last_columns(self) -> int:
        """Columns of the last block of a row."""
        s = self.schedule
        return s.conv.phases[0].Q - (s.column_blocks - 1) * s.columns

    def _kernels(self) -> np.ndarray:
        """Return the addresses of kernels by their vectors; 0 where none is needed."""
        s = self.schedule
        table = np.zeros(s.NV + 1, np.int64)
        last_band = s.conv.phases[0].P - (s.bands - 1) * s.band
        for band in {s.band, last_band}:
            for columns in {s.columns, self._last_columns}:
                vectors = ceil(s.pixels(band, columns) / s.lanes)
                for count in {min(vectors, s.NV), vectors % s.NV or s.NV}:
                    table[count] = TernaryKernel(s.isa, count).address()
        return table

    def _offsets(self) -> np.ndarray:
        """Return for each weight the bytes to the pixel that it reads; zeros up to whole masks."""
        s, conv = self.schedule, self.schedule.conv
        (phase,) = conv.phases
        top, _, left, _ = conv.reach
        within = np.empty(conv.taps, np.int64)
        for tap, row, column in phase.taps:
            (down, i), (across, j) = (
                divmod(place - first, stride)
                for place, first, stride in (
                    (row, top, conv.stride_h),
                    (column, left, conv.stride_w),
                )
            )
            within[tap] = s.remainders.index((i, j)) * s.plane + down * s.pitch + across
        channel = np.arange(conv.C * PER_WORD)[:, None] * (len(s.remainders) * s.plane)
        offsets = ((channel + within) * PIXEL.itemsize).ravel()
        table = np.zeros(s.mask_pairs * BITS, np.int32)
        table[: offsets.size] = offsets
        return table

    def explain(self) -> dict[str, str]:
        """Return the decisions, for people."""
        s = self.schedule
        return {
            "instructions": s.isa.name,
            "vectors": "pixels",
            "microkernel": f"1 row x {s.NV * s.lanes} lanes",
            "tile": f"{s.NV * s.lanes} pixels x 1 filter",
            "source": f"widened to 16 bits, {s.band} x {s.columns} pixels of the result",
            "blocks": f"{PAIRS_MAX * BITS} weights x {s.task_filters} filters",
            "pieces": f"{s.conv.images * s.bands * s.column_blocks} of the images, "
            f"{s.conv.groups * s.filter_blocks} of the filters",
            "workers": f"{s.workers}",
        }
