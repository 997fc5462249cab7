"""Decisions of the fused engine for the weight gradient: tiles of taps, blocks, splits, workers."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import numpy as np

from lowerconv.codegen.isa import Isa
from lowerconv.codegen.microkernel import Microkernel, rows_max, step_time
from lowerconv.codegen.packing import pad_address, slack, touch_address, transpose_address
from lowerconv.conv.blas.blocking import panel_bytes
from lowerconv.conv.lowering import Convolution, forward_convolution
from lowerconv.conv.macrokernel_weights import JOB, TILE
from lowerconv.conv.partition import LAUNCH
from lowerconv.conv.problem import ConvProblem
from lowerconv.conv.schedule import OFFSET_MAX
from lowerconv.conv.window import balanced, window
from lowerconv.copying import not_copied
from lowerconv.runtime.launch import write
from lowerconv.runtime.workspace import LINE, scratch_stride

# Shares of a quarter of the L2 cache.
PANEL_SHARE = 0.4  #  a panel of transposed dy, long enough that calls of the microkernel are few
PANELS_SHARE = 1.5  # all panels of a block
SUMS_SHARE = 1.0  #   the sums of a block, which every piece adds to
BAND_SHARE = 1.0  #   the lowered rows of x
PARTIAL_BYTES = 512 * 1024  # of all splits together
NVS = (1, 2, 3)  # vectors of filters in a tile
ONE_PIECE = 16  # pixels of a batch that are one piece
TASKS = 32  # wanted, so that many cores find work


def _parts(extent: int, size: int) -> list[int]:
    """Return the sizes of the parts that `extent` is cut into."""
    return [min(size, extent - begin) for begin in range(0, extent, size)]


@not_copied("copy the ConvPlan that it is a part of")
class Correlation:
    """All decisions for a weight gradient, and the job they make."""

    def __init__(
        self, problem: ConvProblem, isa: Isa, nodes: tuple[int, ...], NV: int | None = None
    ) -> None:
        self.isa, self.nodes, self.threads = isa, nodes, len(nodes)
        self.options = NVS if NV is None else (NV,)
        self.dtype, self.item = problem.dtype, problem.dtype.itemsize
        self.VL = isa.lanes(problem.dtype)
        self.conv: Convolution = forward_convolution(problem)
        # A 1x1 filter at stride 1 makes dw a plain product whose rows are channels: with those in
        # the lanes, tiles go to dw as they are.  The operands then change places.
        plain = problem.R * problem.S == 1 and problem.stride == (1, 1)
        self.swap = plain and not any(map(any, problem.padding))
        if self.swap:
            conv = self.conv
            self.conv = replace(conv, channels=conv.results, results=conv.channels)
        self.R, self.S = (1, 1) if problem.R * problem.S == 1 else (problem.R, problem.S)
        self.taps = self.R * self.S
        self.dw_items = problem.K * (problem.C // problem.groups) * self.taps
        self.kernels: list[Microkernel] = []
        # So few pixels that every sum is complete at once.
        (phase,) = self.conv.phases
        few = ONE_PIECE
        self.straight = self.swap or self.conv.images * phase.P * phase.Q <= few
        self._choose_tile()
        self._choose_blocks()
        self.image_step = self.conv.groups * self.conv.channels * self.conv.H * self.conv.W
        self._build()

    def _choose_tile(self) -> None:
        """Choose the tile: taps of one row of the filter and of some channels, NV vectors."""
        vectors = -(-self.conv.results // self.VL)
        options = {NV: rows_max(self.isa, NV) for NV in self.options}
        pixels = self.conv.phases[0].P * self.conv.phases[0].Q
        best = None
        for NV, most in options.items():
            if vectors < NV and len(options) > 1:
                continue
            shape = self._shape(most)
            panels = [NV] * (vectors // NV) + [vectors % NV] * (vectors % NV > 0)
            deep, high, wide = shape
            # Beside its steps a tile is called, begun, and written.
            cost = sum(
                step_time(c * r * s, width, self.isa)
                + (150 + 3 * c * r * s * width) / min(pixels, 200)
                for c in _parts(self.conv.channels, deep)
                for r in _parts(self.R, high)
                for s in _parts(self.S, wide)
                for width in panels
            )
            if best is None or cost < best[0]:
                best = cost, NV, shape
        assert best is not None
        _, self.NV, self.shape = best
        self.F = self.NV * self.VL
        self.panels = -(-self.conv.results // self.F)

    def _shape(self, most: int) -> tuple[int, int, int]:
        """Return (channels, rows, columns) of taps that a tile of at most `most` rows holds.

        They are all of one row of the filter, so that pixels whose row the padding hides are left
        out; but neighbours in dw where tiles go straight there.
        """
        if self.straight and self.taps <= most:
            return balanced(self.conv.channels, most // self.taps), self.R, self.S
        if self.straight and most >= self.S:
            return 1, balanced(self.R, most // self.S), self.S
        if most >= self.S and not self.straight:
            return balanced(self.conv.channels, most // self.S), 1, self.S
        return 1, 1, balanced(self.S, most)

    def _choose_blocks(self) -> None:
        conv = self.conv
        (phase,) = conv.phases
        self.P, self.Q = phase.P, phase.Q
        self.window = window(conv)
        self.lower = self.window.lower
        unit = self.shape[0]
        # A flat image has one row: bands then are parts of it, as rows of a step of their own.
        self.flat = self.P == 1 and not self.lower and conv.stride_w == 1 and conv.H == 1
        if self.flat:
            self.Q, self.P = 1, self.Q
        quarter = panel_bytes() // self.item
        pixels = int(PANEL_SHARE * quarter) // self.F
        if self.straight and not self.swap:
            pixels = conv.images * self.P * self.Q
        self.band = balanced(self.P, max(1, min(self.P, pixels // self.Q)))
        self.together = 1
        if self.band == self.P:
            self.together = balanced(conv.images, max(1, pixels // (self.P * self.Q)))
        self.pieces = -(-self.P // self.band)
        if self.together > 1:
            self.pieces = -(-conv.images // self.together)
        self.plane = self.window.plane(self.band)
        size = self.F * self.together * self.band * self.Q
        self.panels_per_block = balanced(
            self.panels, max(1, min(self.panels, int(PANELS_SHARE * quarter) // size))
        )
        room = int(SUMS_SHARE * quarter) // (self.panels_per_block * self.F * self.taps)
        if self.lower:
            room = min(room, int(BAND_SHARE * quarter) // (self.plane * self.together))
        # As many splits of the sum as many cores need, whatever their number here: splits round.
        pieces = self.pieces * (conv.images if self.together == 1 else 1)
        largest = max(unit, min(conv.channels, room) // unit * unit)
        others = conv.groups * self._panel_blocks
        blocks = ceil(conv.channels / largest)
        self.splits = 1
        if blocks * others < TASKS and (self.swap or not self.straight):
            partial = self.dw_items * self.item
            wanted = ceil(TASKS / (blocks * others))
            most = max(1, min(PARTIAL_BYTES // partial, pieces // 2, wanted))
            self.splits = 2 ** (most.bit_length() - 1)  # which most numbers of cores divide

        def busiest(block: int) -> float:
            """Return the time of the worker with most tasks: tiles, and gathering dy for each."""
            tasks = ceil(ceil(conv.channels / block) * others * self.splits / self.threads)
            filters = self.panels_per_block * self.F
            return tasks * filters * (block * self.taps / self.VL + 1.0 + 60 / self.band / self.Q)

        sizes = {
            min(largest, ceil(conv.channels / parts / unit) * unit)
            for parts in range(1, 4 * self.threads + blocks + 1)
        }
        block = min(sorted(sizes, reverse=True), key=busiest)
        self.channel_block = min(conv.channels, block)
        self.channel_blocks = ceil(conv.channels / self.channel_block)
        tasks = self.channel_blocks * others * self.splits
        self.workers = max(1, min(self.threads, tasks))
        # So little to do that threads would take longer to start.
        if self.dw_items * conv.images * self.P * self.Q / self.VL < LAUNCH:
            self.workers = 1

    @property
    def _panel_blocks(self) -> int:
        return -(-self.panels // self.panels_per_block)

    def _kernel(self, offsets: tuple[int, ...], places: tuple[int, ...], last: bool) -> int:
        """Return the address of the microkernel of a tile."""
        vectors = -(-self.conv.results // self.VL)
        NV = vectors - (self.panels - 1) * self.NV if last else self.NV
        columns = tuple(v * self.VL for v in range(NV))
        rest = self.conv.results % self.VL or self.VL
        lanes = (self.VL,) * (NV - 1) + (rest,)
        kernel = Microkernel(
            self.isa, self.dtype, offsets, columns, None, None if self.paired else self.F,
            "columns" if self.straight and not self.swap else "rows",
            lanes=lanes if self.swap and last else (),
            places=() if self.straight else places,
        )  # fmt: skip
        if kernel not in self.kernels:
            self.kernels.append(kernel)
        return kernel.address()

    def _table(self, r: int, images: int, rows: int) -> np.ndarray:
        """Return the steps of row r of the filter: how many, then where dy and x are.

        Pixels of rows that the padding hides from this row of the filter are left out; in a band
        of a larger image all pixels stay, because its place in the image is not known here.
        """
        conv = self.conv
        step = conv.stride_h if not self.flat else 1
        pitch = self.window.pitch if not self.flat else 1
        image, row, column = np.ogrid[:images, :rows, : self.Q]
        if self.paired:
            at = self._row_of_tap(r) + np.arange(rows) * step
            row = row[:, (at >= 0) & (at < conv.H)]
        size = self.channel_block * self.plane if self.lower else self.image_step
        source = image * size + row * step * pitch + column * conv.stride_w
        if source.size and source.max() > OFFSET_MAX:
            raise MemoryError(
                f"fused: {self.together} images of {size:,} items, offsets count to {OFFSET_MAX:,}"
            )
        pixel = ((image * self.band + row) * self.Q + column) * self.F
        parts = [pixel, source] if self.paired else [source]
        pairs = np.stack([np.broadcast_to(part, source.shape) for part in parts], axis=-1)
        head = np.array([source.size], np.int64).view(np.int32)
        table = np.concatenate([head, np.ascontiguousarray(pairs, np.int32).ravel()])
        self._kept.append(table)
        return table

    def _row_of_tap(self, r: int) -> int:
        """Return the row of x, relative to pixel row 0, that row r of the filter reads."""
        (phase,) = self.conv.phases
        return phase.taps[r * self.S][1]

    def _tiles(self, channels: int, tables: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Return the tiles of a block of channels."""
        (phase,) = self.conv.phases
        where = {tap: self.window.place(row, column) for tap, row, column in phase.taps}
        deep, high, wide = self.shape
        channel_step = self.conv.results if self.swap else self.taps
        tiles = []
        for r in range(0, self.R, high):
            for c in range(0, channels, deep):
                for s in range(0, self.S, wide):
                    taps = [
                        (channel, row * self.S + column)
                        for channel in range(c, min(c + deep, channels))
                        for row in range(r, min(r + high, self.R))
                        for column in range(s, min(s + wide, self.S))
                    ]
                    sources = [channel * self.plane + where[tap] for channel, tap in taps]
                    targets = [channel * channel_step + tap for channel, tap in taps]
                    offsets = tuple(source - sources[0] for source in sources)
                    places = tuple(target - targets[0] for target in targets)
                    tiles.append(
                        (
                            sources[0], targets[0], len(taps),
                            self._kernel(offsets, places, False),
                            self._kernel(offsets, places, True),
                            *(table.ctypes.data for table in tables[r]),
                        )
                    )  # fmt: skip
        return np.array(tiles, TILE)

    def _build(self) -> None:
        """Write the job, all of it but the addresses of a call."""
        conv, item = self.conv, self.item

        def lines(count: int) -> int:
            return -(-(count + slack(self.isa, self.dtype)) * item // LINE) * LINE

        panels = self.panels_per_block * self.F * self.together * self.band * self.Q
        lowered = self.plane * self.channel_block * self.together if self.lower else 0
        sums = self.panels_per_block * self.F * self.channel_block * self.taps
        lowered_at = lines(panels)
        sums_at = lowered_at + lines(lowered)
        own = sums_at + lines(0 if self.straight else sums)
        self.scratch_bytes = scratch_stride(own, self.nodes)
        self.partial_bytes = lines(self.splits * self.dw_items) if self.splits > 1 else 0
        last = conv.channels - (self.channel_blocks - 1) * self.channel_block
        self._kept: list[np.ndarray] = []  # tables live as long as their addresses
        whole = self.pieces == 1 or self.together > 1
        self.paired = whole and self.lower and self.R > 1 and self.shape[1] == 1
        short = conv.images % self.together if self.together > 1 else 1
        rows = self.P % self.band or self.band
        tables = [
            (
                self._table(r, self.together, self.band),
                self._table(r, short or self.together, rows),
            )
            for r in range(self.R)
        ]
        self._tile_arrays = [
            self._tiles(self.channel_block, tables),
            self._tiles(last, tables),
        ]
        self._zeros = np.zeros(max(self.F, 64), self.dtype)
        self.job = np.zeros(1, JOB)
        step = conv.channels * self.taps
        write(
            self.job,
            scratch_bytes=self.scratch_bytes, itemsize=item, zeros=self._zeros.ctypes.data,
            images=conv.images, groups=conv.groups, channels=conv.channels, results=conv.results,
            taps=self.taps, H=conv.H, W=conv.W, stride_h=1 if self.flat else conv.stride_h,
            P=self.P, Q=self.Q, together=self.together, pieces=self.pieces, band=self.band,
            lower=self.window.lower, first_row=self.window.first_row,
            lowered_rows=self.window.rows(self.band), left=self.window.left,
            pitch=1 if self.flat else self.window.pitch, plane=self.plane,
            splits=self.splits, channel_block=self.channel_block,
            channel_blocks=self.channel_blocks, panels_per_block=self.panels_per_block,
            panel_blocks=self._panel_blocks, F=self.F, VL=self.VL, panels=self.panels,
            dw_items=self.dw_items, group_step=conv.results * step,
            panel_step=self.F if self.swap else self.F * step,
            channel_step=conv.results if self.swap else self.taps,
            out_step=conv.results if self.swap else step, by_rows=self.swap,
            tiles=self._tile_arrays[0].ctypes.data, tile_count=len(self._tile_arrays[0]),
            last_tiles=self._tile_arrays[1].ctypes.data, last_tile_count=len(self._tile_arrays[1]),
            straight=self.straight, pad=pad_address(self.isa, self.dtype),
            transpose=transpose_address(self.isa, self.dtype),
            touch=touch_address(self.isa, self.dtype), workers=self.workers,
            lowered_at=lowered_at, sums_at=sums_at,
            partial_at=self.workers * self.scratch_bytes,
        )  # fmt: skip

    def place_images(self, step: int) -> None:
        """Read images that lie `step` items apart: where pieces have several, tables know it."""
        if step != self.image_step and self.together > 1 and not self.lower:
            self.image_step = step
            self._build()

    def explain(self) -> dict[str, str]:
        """Return the decisions, for people."""
        kernel = self.kernels[0]
        pieces = f"{self.band} rows" if self.together == 1 else f"{self.together} images"
        lines = {
            "instructions": self.isa.name,
            "microkernel": f"{kernel.MR} taps x {kernel.NV * self.VL} filters",
            "pixels": f"pieces of {pieces}, {'lowered' if self.lower else 'in place'}",
            "blocks": f"{self.channel_block} channels x {self.panels_per_block} panels of filters",
            "tasks": f"{self.channel_blocks * self._panel_blocks * self.conv.groups * self.splits}"
            f" on {self.workers} cores",
        }
        if self.splits > 1:
            lines["splits"] = f"{self.splits} partial sums over the pixels"
        return lines
