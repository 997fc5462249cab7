"""The weight gradient in tiles of AMX: its geometry, and the record that its loops read.

A pair of images is a plane of words (`ops.join_halves`), whose pixels are numbered along padded
rows: pixel (i, j) is number ``i * pitch + j``.  dw of a tap is the product of dy and x, x read some
pixels farther on; where dy has no pixel it is zero, so that whole planes are multiplied, one after
the other: all pixels of the batch are one long k.  The zeros that pad the right of a row are those
that pad the left of the next one.  Where the stride is not 1, x has a plane for each phase.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np

from lowerconv.codegen import amx
from lowerconv.codegen.amx import SIZE, configuration, configure_address
from lowerconv.codegen.amx_check import tiles_work
from lowerconv.codegen.dots import BF16
from lowerconv.codegen.isa import LINE, Isa
from lowerconv.codegen.microkernel import Microkernel
from lowerconv.codegen.packing import transpose_address
from lowerconv.codegen.signatures import TileGeometry
from lowerconv.conv import costs
from lowerconv.conv.executable import Array, Executable
from lowerconv.conv.phases import is_product
from lowerconv.conv.problem import FLOAT32, ConvProblem
from lowerconv.conv.words import tile_weights_nest as nest
from lowerconv.conv.words.tile_weights_nest import NR
from lowerconv.runtime.launch import bind_operands, launch
from lowerconv.runtime.records import fill
from lowerconv.runtime.team import TeamHandle
from lowerconv.runtime.workspace import Scratch

SLACK = 2 * SIZE  # words behind a buffer, that transposing may read
BLOCK_BYTES = 1 << 20  # of both operands, that stay in L2 while all taps pass


class Axis(NamedTuple):
    """Pixels of a phase of x along one axis: some zeros, then pixels, then zeros."""

    first: int  #  pixel of x
    pixels: int
    begin: int  #  where it lies
    reach: int  #  where taps read, at most


class WordPlanes(NamedTuple):
    """Planes of words: their size, and what taps read in them."""

    rows: int
    pitch: int
    phases: tuple[tuple[Axis, Axis], ...]
    taps: tuple[tuple[int, int], ...]  # phase, and the pixel that pixel 0 of dy reads
    x: tuple[int, int, int, int]  #      H, W, strides
    y: tuple[int, int]

    @property
    def plane(self) -> int:
        """Pixels of a plane, whole tiles."""
        return -(-self.rows * self.pitch // SIZE) * SIZE

    @property
    def rest(self) -> int:
        """Pixels that are read behind the last plane."""
        return -(-max(at for _, at in self.taps) // SIZE) * SIZE


def _axis(extent: int, out: int, stride: int, pad: int, phase: int, tap: int) -> Axis:
    """Return a phase: pixels ``stride * i + phase - pad``, of which taps read up to `tap`."""
    begin = max(0, -((phase - pad) // stride))
    end = max(begin, -(-(extent + pad - phase) // stride))
    return Axis(stride * begin + phase - pad, end - begin, begin, out - 1 + tap)


def _extent(axes: list[Axis], out: int) -> int:
    """Return the pixels of an axis: zeros at its end are those at the beginning of the next row."""
    return max(out, *(max(a.begin + a.pixels, a.reach + 1 - a.begin) for a in axes))


def word_planes(problem: ConvProblem) -> WordPlanes:
    """Return the planes of words of a problem."""
    g = problem.geometry
    if is_product(problem):
        H, W, P, Q = 1, problem.H * problem.W, 1, problem.P * problem.Q
    else:
        H, W, P, Q = problem.H, problem.W, problem.P, problem.Q
    rows = [divmod(r * g.dilation_h, g.stride_h) for r in range(g.R)]
    columns = [divmod(s * g.dilation_w, g.stride_w) for s in range(g.S)]

    def axes(taps, extent, out, stride, pad):
        most: dict[int, int] = {}
        for at, phase in taps:
            most[phase] = max(most.get(phase, 0), at)
        return {p: _axis(extent, out, stride, pad, p, tap) for p, tap in most.items()}

    down = axes(rows, H, P, g.stride_h, g.pad_top)
    across = axes(columns, W, Q, g.stride_w, g.pad_left)
    number = {both: i for i, both in enumerate(product(down, across))}
    pitch = _extent(list(across.values()), Q)
    taps = [
        (number[row_phase, column_phase], row * pitch + column)
        for row, row_phase in rows
        for column, column_phase in columns
    ]
    phases = tuple((down[r], across[c]) for r, c in number)
    sides = H, W, g.stride_h, g.stride_w
    return WordPlanes(_extent(list(down.values()), P), pitch, phases, tuple(taps), sides, (P, Q))


def takes(isa: Isa) -> bool:
    """Return whether an instruction set has the tiles."""
    return amx.has_tiles(isa, BF16) and tiles_work(isa, BF16)


def estimate(problem: ConvProblem) -> float:
    """Return the cost, in the unit of `conv.costs`."""
    planes, groups = word_planes(problem), problem.groups
    K, C, taps = problem.K // groups, problem.C // groups, problem.R * problem.S
    pairs = -(-problem.N // 2)
    steps, tiles = pairs * planes.plane // SIZE, -(-K // SIZE) * -(-C // SIZE)
    blocks = -(-steps // _block(planes, problem))
    multiplied = tiles * taps * (steps * costs.TILE_WEIGHTS + blocks * costs.CALL / 2)
    packed = steps * (K * costs.PIXELS_JOINED + len(planes.phases) * C * costs.PIXELS_TURNED)
    return groups * (multiplied + packed) + costs.PACKED * problem.K * C * taps


def _block(planes: WordPlanes, problem: ConvProblem) -> int:
    """Return the steps of k that are multiplied for all taps before the next ones."""
    channels = len(planes.phases) * problem.C
    return max(8, BLOCK_BYTES // (4 * SIZE * (problem.K + channels)))


class TileWeights(Executable):
    """A weight gradient of bits of bf16, in float32.

    Parameters
    ----------
    problem : ConvProblem
    isa : Isa
    threads : int
    """

    takes_slices = True
    is_capturable = True

    def __init__(self, problem: ConvProblem, isa: Isa, threads: int) -> None:
        super().__init__(threads)
        self._planes = planes = word_planes(problem)
        groups, taps = problem.groups, problem.R * problem.S
        K, C = problem.K // groups, problem.C // groups
        pairs = -(-problem.N // 2)
        steps, panels, blocks = pairs * planes.plane // SIZE, -(-K // NR), -(-C // SIZE)
        pixels = pairs * planes.plane + planes.rest
        places = nest.Places(*_places(planes, problem, threads, pixels, panels * steps))
        self.workspace_items = places.end // FLOAT32.itemsize
        self.job = np.zeros(1, nest.TILES_JOB)
        self.fields, self.address = self.job.view(np.int64), self.job.ctypes.data
        self._arrays: list[np.ndarray] = []
        H, W, stride_h, stride_w = planes.x
        phases = [
            (down.first, down.pixels, down.begin, across.first, across.pixels, across.begin)
            for down, across in planes.phases
        ]
        fill(
            self.job,
            nest.TilesProblem(
                images=problem.N,
                groups=groups,
                C=C,
                K=K,
                taps=taps,
                H=H,
                W=W,
                stride_h=stride_h,
                stride_w=stride_w,
                P=planes.y[0],
                Q=planes.y[1],
            ),
            nest.TilesOfPixels(
                pairs=pairs,
                pitch=planes.pitch,
                plane=planes.plane,
                pixels=pixels,
                steps=steps,
                block_steps=min(steps, _block(planes, problem)),
                panels=panels,
                blocks=blocks,
                phases=len(phases),
                phase_table=self._keep(np.array(phases, np.int64)),
                tap_table=self._keep(np.array(planes.taps, np.int64)),
            ),
            places,
            self._kernels(isa, K, C, pixels),
            nest.TilesWorkers(threads),
        )

    def _keep(self, array: np.ndarray) -> int:
        self._arrays.append(array)
        return array.ctypes.data

    def _kernels(self, isa: Isa, K: int, C: int, pixels: int) -> nest.TilesKernels:
        """Return the microkernels: of the last filters, of the last channels."""
        last_K, last_C = K - (-(-K // NR) - 1) * NR, C - (-(-C // NR) - 1) * NR

        def kernel(filters: int, channels: int) -> int:
            made = Microkernel(
                isa,
                FLOAT32,
                rows=tuple(range(filters)),
                columns=tuple(range(0, channels, SIZE)),
                broadcast_step=NR * SIZE,
                vector_step=None,
                store="rows",
                tail=channels % SIZE > 0,
                words=BF16,
                uses_amx=True,
            )
            self.kernels.append(made)
            return made.address()

        line = 4 * SIZE
        lanes_and_steps = TileGeometry(
            lanes=(C - 1) % SIZE + 1,
            row=0,
            out_row=0,
            line=line,
            column=pixels * line,
            block=SIZE * line,
        )
        return nest.TilesKernels(
            kernel=kernel(NR, NR),
            kernel_last_channels=kernel(NR, last_C),
            kernel_last_filters=kernel(last_K, NR),
            kernel_last=kernel(last_K, last_C),
            geometry=self._keep(np.array(lanes_and_steps, np.int64)),
            zeros=self._keep(np.zeros(NR, np.float32)),
            transpose=transpose_address(isa, FLOAT32),
            configure=configure_address(isa),
            configuration=self._keep(configuration()),
        )

    def run(
        self, team: TeamHandle, a: Array, b: Array, bias: Array, out: Array, workspace: Scratch
    ) -> None:
        """Sum the products of `a`, dy, and `b`, x: bits of bf16, over the pixels."""
        bind_operands(self.fields, b, a, bias, out, workspace.address)
        launch(team, nest.pack_address(), self.address, self.threads)
        launch(team, nest.multiply_address(), self.address, self.threads)
        if self._planes.taps[1:]:
            launch(team, nest.finish_address(), self.address, self.threads)

    def explain(self) -> dict[str, str]:
        """Return the decisions, for people."""
        planes, job = self._planes, self.job[0]
        phases = f", {len(planes.phases)} phases of x" if len(planes.phases) > 1 else ""
        return {
            "instructions": self.kernels[0].isa.name,
            "microkernel": f"{NR} filters x {NR} channels in tiles",
            "pixels": f"{job['pairs']} planes of {planes.plane}{phases}",
            "blocks": f"{job['block_steps'] * SIZE} pixels",
            "workers": f"{self.threads}",
        }


def _places(
    planes: WordPlanes, problem: ConvProblem, threads: int, pixels: int, panel_steps: int
) -> list[int]:
    """Return where in the workspace both operands, sums and workers' buffers begin, in bytes."""
    groups, taps = problem.groups, len(planes.taps)
    blocks = groups * -(-problem.C // groups // SIZE) * len(planes.phases)
    # A tile of channels reads whole blocks: the one behind the last has none.
    dy = groups * panel_steps * NR * SIZE
    x = blocks * pixels * SIZE
    sums = problem.K * (problem.C // groups) * taps if taps > 1 else 0
    buffer = SIZE * planes.plane + SLACK
    places = [0]
    for items in (dy, x, sums):
        places.append(places[-1] + -(-4 * items // LINE) * LINE)
    buffer_bytes = -(-4 * buffer // LINE) * LINE
    return [*places, buffer_bytes, places[-1] + threads * buffer_bytes]
