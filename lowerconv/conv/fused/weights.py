"""The weight gradient on its macro-kernel: microkernels, tables of pixels, and the record."""

from __future__ import annotations

from itertools import product

import numpy as np

from lowerconv.codegen.microkernel import Microkernel
from lowerconv.codegen.packing import pad_address, prefetch_address, transpose_address
from lowerconv.conv import macrokernel_weights as nest
from lowerconv.conv.executable import Array, Options, RecordExecutable
from lowerconv.conv.schedule import OFFSET_MAX
from lowerconv.conv.schedule_weights import WeightSchedule
from lowerconv.runtime.launch import bind_operands, launch
from lowerconv.runtime.records import fill
from lowerconv.runtime.team import TeamHandle
from lowerconv.runtime.workspace import Scratch, scratch_stride

ROWS_MAX = 64  # of a tile of any instruction set
LAYOUTS = 8  # of images, whose tables are kept


class WeightGrad(RecordExecutable):
    """A weight gradient by tiles of taps.

    Attributes
    ----------
    schedule : WeightSchedule
    job : ndarray of `macrokernel_weights.WEIGHT_JOB`
        Of images that follow each other.
    """

    schedule: WeightSchedule

    def __init__(self, schedule: WeightSchedule, options: Options) -> None:
        super().__init__(schedule, options, np.zeros(1, nest.WEIGHT_JOB))
        s = schedule
        zeros = np.zeros(max(s.NR, ROWS_MAX), s.conv.dtype)
        self.arrays.append(zeros)
        workers = _workers(s, zeros)
        fill(self.job, *_schedule_fields(s), workers)
        self.arrays += self._fill_tiles(self.job, s.image_step)
        self._layouts = {s.image_step: (self.fields, self.address, self.arrays)}
        # Pieces of several images in place: their tables know how far apart images lie.
        self._by_layout = s.pieces.together > 1 and not s.window.padded
        own = s.workers * workers.scratch_bytes
        self.workspace_items = (own + _partial_bytes(s)) // s.conv.dtype.itemsize

    def run(
        self, team: TeamHandle, a: Array, b: Array, bias: Array, out: Array, workspace: Scratch
    ) -> None:
        """Sum the products of `a`, dy, and `b`, x, over the pixels."""
        # `filters` are what fills the vectors, `source` what is broadcast.
        s = self.schedule
        source, filters = (a, b) if s.channels_in_vectors else (b, a)
        fields, address = self.fields, self.address
        if self._by_layout:
            step = source.strides[0] // source.itemsize
            fields, address, _ = self._layouts.get(step) or self._new_layout(step)
        bind_operands(fields, source, filters, self.no_bias, out, workspace.address)
        launch(team, nest.weights_address(), address, s.workers)
        if s.splits > 1:
            launch(team, nest.add_splits_address(), address, s.workers)

    def _new_layout(self, step: int) -> tuple[np.ndarray, int, list[np.ndarray]]:
        """Return the record for images of x that lie `step` items apart; the latest are kept."""
        if len(self._layouts) >= LAYOUTS:
            self._layouts.clear()
        job = self.job.copy()
        arrays = [job, *self._fill_tiles(job, step)]
        self._layouts[step] = made = job.view(np.int64), job.ctypes.data, arrays
        return made

    def _fill_tiles(self, job: np.ndarray, step: int) -> list[np.ndarray]:
        """Write where the tiles are, for images of x that lie `step` items apart; return them."""
        s = self.schedule
        last = s.conv.C - (s.channel_blocks - 1) * s.channel_block
        tables = [self._tables(r, step) for r in range(s.R)]
        tiles = self._tiles(s.channel_block, tables)
        last_tiles = self._tiles(last, tables)
        job["tiles"], job["tile_count"] = tiles.ctypes.data, len(tiles)
        job["last_tiles"], job["last_tile_count"] = last_tiles.ctypes.data, len(last_tiles)
        return [*(table for pair in tables for table in pair), tiles, last_tiles]

    def _tables(self, r: int, image_step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the steps of row r of the filter, for whole pieces and for the last one."""
        s = self.schedule
        together, band = s.pieces.together, s.pieces.band
        short = s.conv.images % together if together > 1 else 1
        rows = s.pieces.P % band or band
        whole = _table(s, r, together, band, image_step)
        return whole, _table(s, r, short or together, rows, image_step)

    def _tiles(self, channels: int, tables: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Return the tiles of a block of channels."""
        s = self.schedule
        (phase,) = s.conv.phases
        where = {tap: s.window.place(row, column) for tap, row, column in phase.taps}
        _, deep, high, wide = s.tile
        step = s.conv.K if s.channels_in_vectors else s.taps
        tiles = []
        begins = product(range(0, s.R, high), range(0, channels, deep), range(0, s.S, wide))
        for r, c, first in begins:
            taps = [
                (channel, row * s.S + column)
                for channel in range(c, min(c + deep, channels))
                for row in range(r, min(r + high, s.R))
                for column in range(first, min(first + wide, s.S))
            ]
            sources = [channel * s.plane + where[tap] for channel, tap in taps]
            targets = [channel * step + tap for channel, tap in taps]
            offsets = tuple(source - sources[0] for source in sources)
            result_rows = tuple(target - targets[0] for target in targets)
            made = (self._kernel(offsets, result_rows, last) for last in (False, True))
            kernel, kernel_last = made
            table, table_short = (table.ctypes.data for table in tables[r])
            tiles.append(
                nest.TapTileRecord(
                    source=sources[0],
                    target=targets[0],
                    rows=len(taps),
                    kernel=kernel,
                    kernel_last=kernel_last,
                    table=table,
                    table_short=table_short,
                )
            )
        return np.array(tiles, nest.TAP_TILE)

    def _kernel(self, offsets: tuple[int, ...], result_rows: tuple[int, ...], last: bool) -> int:
        """Return the address of the microkernel of a tile, of the last panel or another."""
        s = self.schedule
        vectors = -(-s.conv.K // s.VL)
        NV = vectors - (s.panels - 1) * s.tile.NV if last else s.tile.NV
        lanes = (s.VL,) * (NV - 1) + (s.conv.K % s.VL or s.VL,)
        kernel = Microkernel(
            s.isa,
            s.conv.dtype,
            rows=offsets,
            columns=tuple(v * s.VL for v in range(NV)),
            broadcast_step=None,
            vector_step=None if s.needs_offsets else s.NR,
            store="columns" if s.straight and not s.channels_in_vectors else "rows",
            lanes=lanes if s.channels_in_vectors and last else (),
            result_rows=() if s.straight else result_rows,
            words=s.conv.words("filters"),
        )
        if kernel not in self.kernels:
            self.kernels.append(kernel)
        return kernel.address()

    def explain(self) -> dict[str, str]:
        """Return the decisions, for people."""
        s, kernel = self.schedule, self.kernels[0]
        assert isinstance(kernel, Microkernel)
        together = s.pieces.together
        pieces = f"{s.pieces.band} rows" if together == 1 else f"{together} images"
        tasks = s.channel_blocks * s.panel_blocks * s.conv.groups * s.splits
        lines = {
            "instructions": s.isa.name,
            "microkernel": f"{kernel.MR} taps x {kernel.NV * s.VL} filters",
            "pixels": f"pieces of {pieces}, {'padded' if s.window.padded else 'in place'}",
            "task": f"{s.channel_block} channels x {s.NC // s.NR} panels of filters",
            "tasks": f"{tasks} on {s.workers} workers",
        }
        if s.splits > 1:
            lines["splits"] = f"{s.splits} partial sums over the pixels"
        return lines


def _table(s: WeightSchedule, r: int, images: int, rows: int, image_step: int) -> np.ndarray:
    """Return the steps of row r of the filter: how many, then where dy and x are.

    Pixels of rows that the padding hides from this row of the filter are left out; in a band of a
    larger image all pixels stay, because its place in the image is not known here.
    """
    conv, pieces = s.conv, s.pieces
    step, pitch = (1, 1) if pieces.flat else (conv.stride_h, s.window.pitch)
    image, row, column = np.ogrid[:images, :rows, : pieces.Q]
    if s.needs_offsets:
        (phase,) = conv.phases
        at = phase.taps[r * s.S][1] + np.arange(rows) * step
        row = row[:, (at >= 0) & (at < conv.H)]
    size = s.channel_block * s.plane if s.window.padded else image_step
    source = image * size + row * step * pitch + column * conv.stride_w
    if source.size and source.max() > OFFSET_MAX:
        raise MemoryError(
            f"fused: {pieces.together} images of {size:,} items, offsets count to {OFFSET_MAX:,}"
        )
    pixel = ((image * pieces.band + row) * pieces.Q + column) * s.NR
    parts = [pixel, source] if s.needs_offsets else [source]
    pairs = np.stack([np.broadcast_to(part, source.shape) for part in parts], axis=-1)
    head = np.array([source.size], np.int64).view(np.int32)
    return np.concatenate([head, np.ascontiguousarray(pairs, np.int32).ravel()])


def _partial_bytes(s: WeightSchedule) -> int:
    """Return the bytes of all partial sums."""
    return s.line_bytes(s.splits * s.dw_items) if s.splits > 1 else 0


def _schedule_fields(s: WeightSchedule) -> tuple[object, ...]:
    """Return the parts of the record that follow from the schedule alone."""
    conv, pieces = s.conv, s.pieces
    row = conv.C * s.taps
    return (
        nest.WeightProblem(
            images=conv.images,
            groups=conv.groups,
            C=conv.C,
            K=conv.K,
            taps=s.taps,
            H=conv.H,
            W=conv.W,
            P=pieces.P,
            Q=pieces.Q,
            stride_h=1 if pieces.flat else conv.stride_h,
            itemsize=conv.dtype.itemsize,
            dw_items=s.dw_items,
        ),
        nest.WeightBlocks(
            NR=s.NR,
            NC=s.NC,
            VL=s.VL,
            panel_blocks=s.panel_blocks,
            channel_block=s.channel_block,
            channel_blocks=s.channel_blocks,
            splits=s.splits,
            together=pieces.together,
            pieces=pieces.number,
            band=pieces.band,
        ),
        nest.WeightPadding(
            padded=s.window.padded,
            first_row=s.window.first_row,
            padded_rows=s.window.rows(pieces.band),
            left=s.window.left,
            pitch=1 if pieces.flat else s.window.pitch,
            plane=s.plane,
        ),
        nest.WeightResult(
            group_step=conv.K * row,
            filter_step=1 if s.channels_in_vectors else row,
            channel_step=conv.K if s.channels_in_vectors else s.taps,
            ld_out=conv.K if s.channels_in_vectors else row,
            by_rows=s.channels_in_vectors,
            straight=s.straight,
            tiles=0,
            tile_count=0,
            last_tiles=0,
            last_tile_count=0,
        ),
    )


def _workers(s: WeightSchedule, zeros: np.ndarray) -> nest.WeightWorkers:
    """Return the emitted functions, and where each worker's parts of the scratch begin."""
    isa, dtype, pieces = s.isa, s.conv.dtype, s.pieces
    padded_at = s.line_bytes(s.NC * pieces.together * pieces.band * pieces.Q)
    padded = s.plane * s.channel_block * pieces.together if s.window.padded else 0
    sums_at = padded_at + s.line_bytes(padded)
    own = sums_at + s.line_bytes(0 if s.straight else s.NC * s.channel_block * s.taps)
    scratch_bytes = scratch_stride(own, s.nodes)
    return nest.WeightWorkers(
        pad=pad_address(isa, dtype),
        transpose=transpose_address(isa, dtype),
        prefetch=prefetch_address(isa, dtype),
        zeros=zeros.ctypes.data,
        workers=s.workers,
        scratch_bytes=scratch_bytes,
        padded_at=padded_at,
        sums_at=sums_at,
        partial_at=s.workers * scratch_bytes,
    )
