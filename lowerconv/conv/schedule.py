"""Decisions of the fused engine for forward and input gradient: feeding, tiles, blocks, workers."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil

import numpy as np

from lowerconv.codegen.isa import Isa
from lowerconv.codegen.microkernel import Microkernel
from lowerconv.codegen.packing import (
    pad_address,
    slack,
    touch_address,
    transpose_address,
    turn_address,
)
from lowerconv.conv.blas.blocking import panel_bytes
from lowerconv.conv.lowering import Convolution
from lowerconv.conv.macrokernel import FORWARD, IN_PLACE, JOB, PACKED, TURNED, pack_address
from lowerconv.conv.partition import best
from lowerconv.conv.tiling import PACKED as PACK_PRICE
from lowerconv.conv.tiling import Tiling, live_taps
from lowerconv.conv.window import balanced, window
from lowerconv.copying import not_copied
from lowerconv.runtime.launch import launch, write
from lowerconv.runtime.team import Handle
from lowerconv.runtime.workspace import LINE, scratch_stride

# Of a quarter of the L2 cache: packed filters, and beside them a band of the source.
WEIGHTS_SHARE = 2
BAND_SHARE = 1.25
PAGE = 4096  # items: copies of packed filters lie on pages of their own
STREAM = 32  # steps that packed filters are prefetched ahead: a page of 4 KiB
OFFSET_MAX = 2**31 - 1  # items, that a table of steps can count


@not_copied("copy the ConvPlan that it is a part of")
@dataclass
class Layout:
    """All decisions for a convolution, and the job they make."""

    conv: Convolution
    isa: Isa
    nodes: tuple[int, ...]  # the NUMA node of each thread, from 0
    tiling: Tiling
    constant: bool = False
    kernels: list[Microkernel] = field(default_factory=list)

    def __post_init__(self) -> None:
        conv, isa = self.conv, self.isa
        self.VL = isa.lanes(conv.dtype)
        self.item = conv.dtype.itemsize
        self.swap = self.tiling.feed == "pixels"
        self.in_place = self.tiling.in_place
        self.F, self.tiles = self.tiling.F, self.tiling.shapes
        self.panels = -(-conv.results // self.F)
        self._choose_blocks()
        self._choose_partition()
        self._build()

    def _choose_blocks(self) -> None:
        """Choose the channels summed at a time, the panels packed at a time, and the bands.

        All of them share the L2 cache.  Every block of panels lowers the source again; every block
        of channels but the first adds to what the one before has stored.  Nothing here depends on
        the number of threads, because blocks of channels round.
        """
        conv = self.conv
        self.window = window(conv, self.VL if self.swap else 0)
        if self.window.lower:
            # A band has the same rows of pixels in all phases, so it is cut by the same tiles.
            rows = min(TH for TH, _ in self.tiles)
            self.tiles = tuple((rows, TW) for _, TW in self.tiles)
        P = max(phase.P for phase in conv.phases)
        TH = self.tiles[0][0]
        weights = int(WEIGHTS_SHARE * panel_bytes()) // self.item
        band_items = int(BAND_SHARE * panel_bytes()) // self.item
        plane = self.window.plane
        tiles = sum(self._tiles(i) for i in range(len(conv.phases))) * conv.images
        counts = [*range(1, 65), *(2**i for i in range(7, 31))]
        cheapest = None
        for channels in sorted({-(-conv.channels // n) for n in counts}, reverse=True):
            blocks = -(-conv.channels // channels)
            panel = self.F * conv.taps * channels
            if channels > 1 and (
                (panel > weights and not self.in_place)
                or max(panel, plane(TH) * channels) > OFFSET_MAX
            ):
                continue
            at_once = max(1, min(self.panels, weights // panel))
            passes = -(-self.panels // at_once)
            band = 0
            lower = 0.1 * passes * conv.images * conv.channels * conv.H * conv.W / self.VL
            if self.window.lower:
                if plane(TH) * channels > band_items and channels > 1:
                    continue
                band = TH
                while band < P and plane(band + TH) * channels <= band_items:
                    band += TH
                band = min(-(-balanced(P, band) // TH) * TH, band)
                rows = -(-P // band) * self.window.rows(band)
                row = 10 + 4 * self.window.pitch / self.VL
                lower = passes * conv.images * conv.channels * rows * row
            add = (blocks - 1) * tiles * self.panels * (100 + 4 * self.F)
            if cheapest is None or lower + add < cheapest[0]:
                cheapest = lower + add, channels, at_once, band
        assert cheapest is not None  # one channel always passes
        _, self.channel_block, self.panels_per_block, self.band = cheapest
        self.panels_per_block = balanced(self.panels, self.panels_per_block)
        self.plane = plane(self.band)
        if self.plane * self.channel_block > OFFSET_MAX:
            raise MemoryError(
                f"fused: a plane of {self.plane:,} items, offsets count to {OFFSET_MAX:,}"
            )

    def _choose_partition(self) -> None:
        """Cut images to pieces, and share pieces and panels out: the busiest worker least so."""
        conv, threads = self.conv, len(self.nodes)
        P = max(phase.P for phase in conv.phases)
        TH = self.tiles[0][0]
        panels = conv.groups * self.panels
        tiles = max(self._tiles(i) for i in range(len(conv.phases)))
        row = max(self._tiles_per_row(i) for i in range(len(conv.phases)))
        # Pieces are rows of tiles where they are lowered or have phases, else any number of tiles.
        per_unit = row if self.window.lower or len(conv.phases) > 1 else 1
        units = ceil(tiles / per_unit)
        most = self.band // TH if self.window.lower else units
        fewest = ceil(units / most)
        sizes = {ceil(units / min(units, fewest + more)) for more in range(4 * threads)}
        sizes = sizes if conv.images * fewest < 8 * threads else {ceil(units / fewest)}
        # Times, in multiply-adds of one vector.
        work = self.tiling.cost / (conv.images * panels)
        items = self.F * conv.channels * conv.taps
        pack = 0.0 if self.in_place or self.constant else PACK_PRICE * items
        options = []
        for size in sorted(sizes, reverse=True):
            lower = 0.0
            if self.window.lower:
                lines = self.window.rows(min(size * TH, P))
                lower = conv.channels * lines * (10 + 4 * self.window.pitch / self.VL)
            pieces = ceil(units / size)
            options.append((conv.images * pieces, work * size / units, lower))
        number, self.partition = best(panels, self.nodes, self.panels_per_block, pack, options)
        size = sorted(sizes, reverse=True)[number]
        self.pieces = ceil(units / size)
        self.piece_units = size
        if self.window.lower:
            self.band = size * TH
        self.workers = len(self.partition)

    def _tiles_per_row(self, number: int) -> int:
        phase, (_, TW) = self.conv.phases[number], self.tiles[number]
        return -(-phase.Q // TW)

    def _tiles(self, number: int) -> int:
        phase, (TH, _) = self.conv.phases[number], self.tiles[number]
        return -(-phase.P // TH) * self._tiles_per_row(number)

    def _kernels(self, number: int) -> list[Microkernel]:
        """Return the kernels of a phase: (panel full, last) x (pixels all, tail)."""
        phase, (TH, TW) = self.conv.phases[number], self.tiles[number]
        rest = self.conv.results - (self.panels - 1) * self.F
        if TH > 1:
            tail = (phase.P % TH or TH, TW)
        else:
            tail = (TH, phase.Q % TW or TW)
        make = self._pixel_kernel if self.swap else self._filter_kernel
        return [make(number, F, *size) for F in (self.F, rest) for size in ((TH, TW), tail)]

    def _filter_kernel(self, number: int, F: int, height: int, width: int) -> Microkernel:
        """Return the kernel with vectors of F filters and height x width pixels broadcast."""
        conv, pitch = self.conv, self.window.pitch
        rows = (i * conv.stride_h * pitch for i in range(height))
        return Microkernel(
            self.isa,
            conv.dtype,
            rows=tuple(row + j * conv.stride_w for row in rows for j in range(width)),
            columns=tuple(range(0, F, self.VL)),
            broadcast_step=None,
            vector_step=None if self._paired(number) else self.F,
            store="columns",
            pixel_step=conv.phases[number].out_column,
            ahead=0 if self.window.lower else self.tiles[number][1] * conv.stride_w,
            stream=STREAM * self.F,
        )

    def _pixel_kernel(self, number: int, F: int, height: int, width: int) -> Microkernel:
        """Return the kernel with vectors of height x width pixels and F filters broadcast."""
        conv, phase = self.conv, self.conv.phases[number]
        row_step = conv.stride_h * self.window.pitch
        filter_step = conv.channels * conv.taps if self.in_place else 1
        step = 1 if self.in_place else self.F
        vectors = [(i, j) for i in range(height) for j in range(0, width, self.VL)]
        return Microkernel(
            self.isa,
            conv.dtype,
            rows=tuple(i * filter_step for i in range(F)),
            columns=tuple(i * row_step + j for i, j in vectors),
            broadcast_step=None if self._paired(number) else step,
            vector_step=None,
            store="rows",
            lanes=tuple(min(self.VL, width - j) for _, j in vectors),
            pixel_step=phase.out_column,
            ahead=0 if self.window.lower else self.tiles[number][1],
            spots=tuple(i * phase.out_row + j * phase.out_column for i, j in vectors),
        )

    def _paired(self, number: int) -> bool:
        """Return whether steps leave out some of the filter's taps, so that panels need offsets."""
        phase = self.conv.phases[number]
        live = live_taps(self.conv, phase, self.tiles[number][0])
        return len(phase.taps) < self.conv.taps or not live.all()

    def _table(self, number: int, live: tuple[int, ...]) -> np.ndarray:
        """Return the offsets of the steps (channel, live tap): in the source, in the panel."""
        conv = self.conv
        taps = [conv.phases[number].taps[i] for i in live]
        channel = np.arange(self.channel_block)[:, None]
        where = np.array([self.window.place(row, column) for _, row, column in taps], np.int64)
        source = channel * self.plane + where
        if not self._paired(number):
            return np.ascontiguousarray(source, np.int32)
        step = 1 if self.in_place else self.F
        filters = channel * conv.taps + np.array([tap for tap, _, _ in taps], np.int64)
        pair = [filters * step, source] if not self.swap else [source, filters * step]
        return np.ascontiguousarray(np.stack(pair, axis=-1), np.int32)

    def _tables(self, number: int) -> np.ndarray:
        """Return, for each row of tiles, the address of its table and its steps per channel."""
        made: dict[tuple[int, ...], np.ndarray] = {}
        rows = []
        for mask in live_taps(self.conv, self.conv.phases[number], self.tiles[number][0]):
            live = tuple(map(int, np.flatnonzero(mask)))
            if live not in made:
                made[live] = self._table(number, live)
            rows.append((made[live].ctypes.data, len(live)))
        self._kept += made.values()
        return np.array(rows, np.int64).reshape(-1, 2)

    def _build(self) -> None:
        """Write the job, all of it but the addresses of a call."""
        conv, isa, item = self.conv, self.isa, self.item
        spare = slack(isa, conv.dtype)

        def lines(items: int) -> int:
            return -(-(items + spare) * item // LINE) * LINE

        keeps = not self.in_place and self.constant
        packs = not self.in_place and not self.constant
        weights = self.panels_per_block * self.F * conv.taps * self.channel_block
        bias_at = lines(weights) if packs else 0
        lowered_at = bias_at + lines(self.panels_per_block * self.F)
        lowered = lines(self.plane * self.channel_block) if self.window.lower else 0
        self.scratch_bytes = scratch_stride(lowered_at + lowered, self.nodes)
        items = conv.groups * self.panels * self.F * conv.channels * conv.taps
        # Of as many dimensions as filters, which is the kind of array kernels are compiled for.
        # A copy for every NUMA node, packed by its own workers: their writes decide where it lies.
        copies = max(self.nodes[: self.workers]) + 1
        size = -(-(items + spare) // PAGE) * PAGE
        self.packed = np.empty((copies * size, 1, 1, 1), conv.dtype) if keeps else None
        crews = [
            (
                size * item * node,
                self.nodes[:worker].count(node),
                self.nodes[: self.workers].count(node),
            )
            for worker, node in enumerate(self.nodes[: self.workers])
        ]
        self._crews = np.array(crews, np.int64)
        # For every worker: where its rectangles begin, and all rectangles.
        counts = [0, *(len(rectangles) for rectangles in self.partition)]
        begins = np.cumsum(counts) * 4 + len(counts)
        flat = [number for part in self.partition for rectangle in part for number in rectangle]
        self._rectangles = np.array([*begins, *flat], np.int64)
        self.job = np.zeros(len(conv.phases), JOB)
        write(
            self.job,
            scratch_bytes=self.scratch_bytes, itemsize=item, images=conv.images,
            H=conv.H, W=conv.W, stride_h=conv.stride_h,
            stride_w=self.window.column_step, groups=conv.groups, channels=conv.channels,
            channel_block=self.channel_block, taps=conv.taps, results=conv.results, F=self.F,
            VL=self.VL, panels=self.panels, panels_per_block=self.panels_per_block,
            feed=IN_PLACE if self.in_place else TURNED if conv.turned else FORWARD,
            swap=self.swap, pieces=self.pieces, band=self.band, lower=self.window.lower,
            lowered_rows=self.window.rows(self.band) if self.window.lower else 0,
            pitch=self.window.pitch, plane=self.plane, left=self.window.left,
            first_row=self.window.first_row, out_plane=conv.out_plane, phases=len(conv.phases),
            pad=pad_address(isa, conv.dtype, self.window.split),
            transpose=transpose_address(isa, conv.dtype),
            touch=touch_address(isa, conv.dtype),
            turn=turn_address(isa, conv.dtype, conv.taps) if conv.turned else 0,
            rectangles=self._rectangles.ctypes.data, workers=self.workers,
            crews=self._crews.ctypes.data,
            lowered_at=lowered_at, bias_at=bias_at,
        )  # fmt: skip
        self._kept: list[np.ndarray] = []  # tables live as long as their addresses
        for number, phase in enumerate(conv.phases):
            TH, TW = self.tiles[number]
            kernels = self._kernels(number)
            self.kernels += kernels
            per_row = self._tiles_per_row(number)
            rows = self.window.lower or len(conv.phases) > 1  # pieces are whole rows of tiles
            tables = self._tables(number)
            self._kept.append(tables)
            write(
                self.job[number : number + 1],
                P=phase.P, Q=phase.Q, TH=TH, TW=TW, tiles_per_row=per_row,
                tiles=self._tiles(number),
                tiles_per_piece=self.piece_units * (per_row if rows else 1),
                tables=tables.ctypes.data, out_offset=phase.out_offset, out_row=phase.out_row,
                out_column=phase.out_column,
                kernel=kernels[0].address(), kernel_tail=kernels[1].address(),
                kernel_last=kernels[2].address(), kernel_last_tail=kernels[3].address(),
            )  # fmt: skip

    def pack(self, team: Handle, filters: int) -> None:
        """Pack the filters at an address into `packed`, and use that from now on."""
        assert self.packed is not None
        feed = TURNED if self.conv.turned else FORWARD
        write(self.job, feed=feed, filters=filters, target=self.packed.ctypes.data)
        launch(team, pack_address(), self.job.ctypes.data, self.workers)
        write(self.job, feed=PACKED)

    def explain(self) -> dict[str, str]:
        """Return the decisions, for people."""
        kernel = self.kernels[0]
        pixels = " or ".join(f"{TH} x {TW}" for TH, TW in dict.fromkeys(self.tiles))
        return {
            "instructions": self.isa.name,
            "feed": f"{self.tiling.feed} in vectors"
            + (", filters in place" if self.in_place else ""),
            "microkernel": f"{kernel.MR} rows x {kernel.NV * self.VL} lanes",
            "tile": f"{pixels} pixels x {self.F} filters",
            "source": f"bands of {self.band} rows, lowered" if self.window.lower else "in place",
            "blocks": f"{self.channel_block} channels x {self.panels_per_block} panels of filters",
            "pieces": f"{self.conv.images * self.pieces} of the images, "
            f"{self.conv.groups * self.panels} panels",
            "cores": f"{self.workers}",
        }
