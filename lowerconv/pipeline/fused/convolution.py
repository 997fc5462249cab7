"""Decisions of the fused engine for forward and input gradient: feeding, tiles, blocks, workers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lowerconv.kernels.blocking import panel_bytes
from lowerconv.kernels.call import launch
from lowerconv.kernels.convolve import FORWARD, IN_PLACE, JOB, PACKED, TURNED, pack_address
from lowerconv.kernels.microkernel import Microkernel
from lowerconv.kernels.rearrange import (
    pad_address,
    slack,
    touch_address,
    transpose_address,
    turn_address,
)
from lowerconv.kernels.simd import Isa
from lowerconv.machine.workspace import LINE
from lowerconv.pipeline.fused.phases import Convolution
from lowerconv.pipeline.fused.tiling import Tiling, live_taps
from lowerconv.pipeline.fused.window import balanced, window

# Of a quarter of the L2 cache: packed filters, and beside them a band of the source.
WEIGHTS_SHARE = 2
BAND_SHARE = 1.25


@dataclass
class Layout:
    """All decisions for a convolution, and the job they make."""

    conv: Convolution
    isa: Isa
    threads: int
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
        self._choose_grid()
        self._build()

    def _choose_blocks(self) -> None:
        """Choose the channels summed at a time, the panels packed at a time, and the bands.

        All of them share the L2 cache.  Every block of panels lowers the source again; every block
        of channels but the first adds to what the one before has stored.  Nothing here depends on
        the number of threads, because blocks of channels round.
        """
        conv = self.conv
        self.window = window(conv, split=self.swap)
        P = max(phase.P for phase in conv.phases)
        TH = self.tiles[0][0]
        weights = int(WEIGHTS_SHARE * panel_bytes()) // self.item
        band_items = int(BAND_SHARE * panel_bytes()) // self.item
        plane = self.window.plane
        tiles = sum(self._tiles(i) for i in range(len(conv.phases))) * conv.images
        best = None
        for blocks in range(1, min(conv.channels, 64) + 1):
            channels = -(-conv.channels // blocks)
            panel = self.F * conv.taps * channels
            if panel > weights and blocks < conv.channels and not self.in_place:
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
            if best is None or lower + add < best[0]:
                best = lower + add, channels, at_once, band
        if best is None:  # even one channel is larger than its share
            best = 0.0, 1, 1, TH if self.window.lower else 0
        _, self.channel_block, self.panels_per_block, self.band = best
        self.panels_per_block = balanced(self.panels, self.panels_per_block)
        self.plane = plane(self.band)

    def _choose_grid(self) -> None:
        """Cut pieces and panels between the workers, least work for the busiest of them."""
        conv = self.conv
        if self.window.lower:
            P = max(phase.P for phase in conv.phases)
            self.pieces = -(-P // self.band)
        else:
            tiles = max(self._tiles(i) for i in range(len(conv.phases)))
            row = max(self._tiles_per_row(i) for i in range(len(conv.phases)))
            # Without lowering a piece is any number of tiles; with phases, of rows of tiles.
            unit = row if len(conv.phases) > 1 else 1
            wanted = max(1, -(-2 * self.threads // conv.images))
            self.piece_units = max(1, -(-tiles // unit // wanted))
            self.pieces = -(-(-(-tiles // unit)) // self.piece_units)
        panels, pieces = conv.groups * self.panels, conv.images * self.pieces
        # Sharing panels costs lowering again; sharing pieces costs packing again.
        best = None
        for across in range(1, min(self.threads, panels) + 1):
            along = min(self.threads // across, pieces)
            mine, theirs = -(-panels // across), -(-pieces // along)
            pack = (
                0.0
                if self.in_place or self.constant
                else 0.35 * mine * self.F * conv.channels * conv.taps
            )
            pixels = conv.images * conv.phases[0].P * conv.phases[0].Q / pieces
            lower = 0.5 * theirs * conv.channels * pixels if self.window.lower else 0.0
            work = mine * self.F * theirs * pixels * conv.channels * conv.taps / 32
            cost = pack + lower + work
            if best is None or cost < best[0]:
                best = cost, across, along
        assert best is not None
        _, self.grid_panels, self.grid_pieces = best

    def _tiles_per_row(self, number: int) -> int:
        phase, (_, TW) = self.conv.phases[number], self.tiles[number]
        return -(-phase.Q // TW)

    def _tiles(self, number: int) -> int:
        phase, (TH, _) = self.conv.phases[number], self.tiles[number]
        return -(-phase.P // TH) * self._tiles_per_row(number)

    def _kernels(self, number: int) -> list[Microkernel]:
        """Return the kernels of a phase: (pixels all or tail) x (panel full or last)."""
        conv, VL = self.conv, self.VL
        phase, (TH, TW) = conv.phases[number], self.tiles[number]
        rest = conv.results - (self.panels - 1) * self.F
        paired = self._paired(number)
        kernels = []
        for last in (False, True):
            for tail in (False, True):
                height, width = TH, TW
                if tail:
                    if TH > 1:
                        height = phase.P % TH or TH
                    else:
                        width = phase.Q % TW or TW
                if not self.swap:
                    NV = -(-rest // VL) if last else self.F // VL
                    rows = tuple(
                        i * conv.stride_h * self.window.pitch + j * conv.stride_w
                        for i in range(height)
                        for j in range(width)
                    )
                    columns = tuple(v * VL for v in range(NV))
                    kernels.append(
                        Microkernel(
                            self.isa, conv.dtype, rows, columns, None,
                            None if paired else self.F, "columns", (), phase.out_column,
                            0 if self.window.lower else TW * conv.stride_w,
                        )
                    )  # fmt: skip
                else:
                    F = rest if last else self.F
                    step = conv.channels * conv.taps if self.in_place else 1
                    pixels = [
                        (i, j, min(VL, width - j))
                        for i in range(height)
                        for j in range(0, width, VL)
                    ]
                    spots = tuple(i * phase.out_row + j * phase.out_column for i, j, _ in pixels)
                    kernels.append(
                        Microkernel(
                            self.isa, conv.dtype, tuple(i * step for i in range(F)),
                            tuple(i * conv.stride_h * self.window.pitch + j for i, j, _ in pixels),
                            None if paired else 1 if self.in_place else self.F, None, "rows",
                            tuple(count for _, _, count in pixels), phase.out_column,
                            0 if self.window.lower else TW, (), spots,
                        )
                    )  # fmt: skip
        return [kernels[0], kernels[1], kernels[2], kernels[3]]

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
            live = tuple(np.flatnonzero(mask))
            if live not in made:
                made[live] = self._table(number, live)
            rows.append((made[live].ctypes.data, len(live)))
        self._kept += made.values()
        return np.array(rows, np.int64).reshape(-1, 2)

    def _build(self) -> None:
        """Write the job, all of it but the addresses of a call."""
        conv, item = self.conv, self.item
        lines = lambda count: -(-count * item // LINE) * LINE  # noqa: E731
        spare = slack(self.isa, conv.dtype)
        packed = not self.in_place and not self.constant
        weights = self.panels_per_block * self.F * conv.taps * self.channel_block if packed else 0
        lowered = self.plane * self.channel_block if self.window.lower else 0
        self.bias_at = lines(weights + spare)
        self.lowered_at = self.bias_at + lines(self.panels_per_block * self.F + spare)
        self.scratch_bytes = self.lowered_at + lines(lowered + spare)
        self.workers = self.grid_panels * self.grid_pieces
        self.job = np.zeros(len(conv.phases), JOB)
        self._kept: list[np.ndarray] = []  # tables live as long as their addresses
        tables = [self._tables(i) for i in range(len(conv.phases))]
        self._kept += tables
        feed = IN_PLACE if self.in_place else TURNED if conv.turned else FORWARD
        self.packed: np.ndarray | None = None
        if self.constant and not self.in_place:
            items = conv.groups * self.panels * self.F * conv.channels * conv.taps
            self.packed = np.empty(items + spare, conv.dtype)
        common = dict(
            scratch_bytes=self.scratch_bytes, itemsize=item, images=conv.images,
            planes=conv.groups * conv.channels, H=conv.H, W=conv.W, stride_h=conv.stride_h,
            stride_w=self.window.column_step, groups=conv.groups, channels=conv.channels,
            channel_block=self.channel_block, taps=conv.taps, results=conv.results, F=self.F,
            VL=self.VL, panels=self.panels, panels_per_block=self.panels_per_block, feed=feed,
            swap=self.swap, pieces=self.pieces, lower=self.window.lower,
            pitch=self.window.pitch, plane=self.plane, left=self.window.left, first_row=self.window.first_row,
            out_plane=conv.out_plane, phases=len(conv.phases),
            pad=pad_address(self.isa, conv.dtype, self.window.split),
            transpose=transpose_address(self.isa, conv.dtype),
            touch=touch_address(self.isa, conv.dtype),
            turn=turn_address(self.isa, conv.dtype, conv.taps) if conv.turned else 0, grid_panels=self.grid_panels,
            grid_pieces=self.grid_pieces, lowered_at=self.lowered_at, bias_at=self.bias_at,
        )  # fmt: skip
        if self.window.lower:
            common |= dict(band=self.band, lowered_rows=self.window.rows(self.band))
        for number, phase in enumerate(conv.phases):
            TH, TW = self.tiles[number]
            kernels = self._kernels(number)
            self.kernels += [k for k in kernels if k not in self.kernels]
            per_row = self._tiles_per_row(number)
            if self.window.lower:
                per_piece = self.band // TH * per_row
            else:
                unit = per_row if len(conv.phases) > 1 else 1
                per_piece = self.piece_units * unit
            fields = common | dict(
                P=phase.P, Q=phase.Q, TH=TH, TW=TW, tiles_per_row=per_row,
                tiles=self._tiles(number), tiles_per_piece=per_piece,
                tables=tables[number].ctypes.data, source_offset=0, out_offset=phase.out_offset, out_row=phase.out_row,
                out_column=phase.out_column,
                kernel=kernels[0].address(), kernel_tail=kernels[1].address(),
                kernel_last=kernels[2].address(), kernel_last_tail=kernels[3].address(),
            )  # fmt: skip
            for name, value in fields.items():
                self.job[number][name] = value

    def pack(self, filters: int) -> None:
        """Pack the filters at an address into `packed`, and use that from now on."""
        assert self.packed is not None
        job = self.job[0]
        job["feed"] = TURNED if self.conv.turned else FORWARD
        job["filters"], job["target"] = filters, self.packed.ctypes.data
        launch(pack_address(), self.job.ctypes.data, self.workers)
        job["feed"] = PACKED

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
            "cores": f"{self.grid_panels} across filters x {self.grid_pieces} along pixels",
        }
