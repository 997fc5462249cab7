"""The plane kernel where a row of the image fits one vector: nothing is lowered, all is unrolled.

A row is loaded once; what a column of taps reads of it is a shuffle, with zeros where the padding
is.  Rows that only the padding has are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from llvmlite import ir

from lowerconv.codegen.activation import RELU, Activation
from lowerconv.codegen.emit import Emitter
from lowerconv.codegen.epilogue import Epilogue
from lowerconv.codegen.isa import Isa
from lowerconv.codegen.kernel import Kernel
from lowerconv.codegen.pixels import store_pixels
from lowerconv.codegen.signatures import Plane

PRODUCTS_MAX = 2000  # vectors of products that are written out


@dataclass(frozen=True)
class SmallPlaneKernel(Kernel):
    """A kernel over one whole plane; called like `PlaneKernel`.

    Attributes
    ----------
    taps : tuple of (int, int, int)
        Number of the filter's tap, and the row and column of the source that pixel (0, 0) reads.
    H, P : int
        Rows of the source, and of pixels.
    W, Q : int or None
        Columns of the source and of pixels, which fit a vector; None: as many as are said at run
        time (`signatures.PlaneGeometry`, W as the pitch), for which there must be masks.
    stride_h, stride_w : int
        Rows and columns of the source from one pixel to the next.
    out_column : int
        Items of the result from one pixel to the next.
    together : int
        Rows of the result that are computed at a time.
    gradient : bool
        Whether the kernel adds up the gradient of the taps instead of the result.
    """

    name, signature = "plane", Plane

    isa: Isa
    dtype: np.dtype
    taps: tuple[tuple[int, int, int], ...]
    H: int
    P: int
    W: int | None
    Q: int | None
    stride_h: int
    stride_w: int
    out_column: int
    together: int
    gradient: bool = False
    activation: Activation = RELU

    def emit(self, e: Emitter) -> None:
        """Write the instructions of the function."""
        if self.gradient:
            self._gradient(e)
        else:
            self._result(e)

    def _steps(self, e: Emitter, first: int, last: int) -> Iterator[tuple[int, int, ir.Value]]:
        """Yield (pixel row, index of the tap, what the tap reads), row by row of the source."""
        plane, b = e.arguments, e.builder
        pixels, pitch = e.load_i64(plane.geometry, 0), e.load_i64(plane.geometry, 2)
        W, Q = (own or e.lanes for own in (self.W, self.Q))
        width = self.W or pitch
        for row in range(self.H):
            users = [
                (p, i)
                for p in range(first, last)
                for i, (_, tap_row, _) in enumerate(self.taps)
                if p * self.stride_h + tap_row == row
            ]
            if not users:
                continue
            whole = e.load_first(e.offset(plane.source, b.mul(pitch, e.constant(row))), 0, width)
            shifted: dict[int, ir.Value] = {}
            for p, i in users:
                column = self.taps[i][2]
                if column not in shifted:
                    places = [j * self.stride_w + column for j in range(e.lanes)]
                    lanes = [
                        place if 0 <= place < W and j < Q else e.lanes
                        for j, place in enumerate(places)
                    ]
                    value = e.shuffle(whole, e.zeros, lanes)
                    if self.gradient and not self.Q:  # of dy no pixel is there, but zeros
                        value = b.select(e.lanes_below(pixels), value, e.zeros)
                    shifted[column] = value
                yield p, i, shifted[column]

    def _result(self, e: Emitter) -> None:
        plane, b = e.arguments, e.builder
        pixels, out_row = self.Q or e.load_i64(plane.geometry, 0), e.load_i64(plane.geometry, 1)
        start = e.broadcast(plane.bias, 0)
        weights = [e.broadcast(plane.filter, tap) for tap, _, _ in self.taps]
        epilogue = Epilogue(e, plane.mode, self.activation, plane.constants)

        def store(sums: dict[int, ir.Value], add: bool) -> None:
            for p, value in sums.items():
                line, step = e.offset(plane.out, b.mul(out_row, e.constant(p))), self.out_column
                store_pixels(e, value, line, 0, pixels, epilogue=epilogue, add=add, step=step)

        for first in range(0, self.P, self.together):
            last = min(first + self.together, self.P)
            sums = dict.fromkeys(range(first, last), start)
            for p, i, value in self._steps(e, first, last):
                sums[p] = e.multiply_add(weights[i], value, sums[p])
            epilogue.for_each_mode(partial(store, sums))

    def _gradient(self, e: Emitter) -> None:
        """Add ``dy * x`` to the vectors of sums at `filter`; `out` is dy."""
        plane, b = e.arguments, e.builder
        pixels, out_row = self.Q or e.load_i64(plane.geometry, 0), e.load_i64(plane.geometry, 1)
        add = Epilogue(e, plane.mode).adds
        sums = [
            b.select(add, e.load(plane.filter, i * e.lanes), e.zeros) for i in range(len(self.taps))
        ]
        gradients: dict[int, ir.Value] = {}
        for p, i, value in self._steps(e, 0, self.P):
            if p not in gradients:
                line = e.offset(plane.out, b.mul(out_row, e.constant(p)))
                gradients[p] = e.load_first(line, 0, pixels)
            sums[i] = e.multiply_add(gradients[p], value, sums[i])
        for i, total in enumerate(sums):
            e.store(total, plane.filter, i * e.lanes)
