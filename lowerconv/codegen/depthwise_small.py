"""The plane kernel where a row of the image fits one vector: nothing is lowered, all is unrolled.

A row is loaded once; what a column of taps reads of it is a shuffle, with zeros where the padding
is.  Rows that only the padding has are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from llvmlite import ir

from lowerconv.codegen.emit import Emitter
from lowerconv.codegen.epilogue import Epilogue, Function
from lowerconv.codegen.isa import Isa
from lowerconv.codegen.kernel import Kernel
from lowerconv.codegen.microkernel import store_pixels
from lowerconv.codegen.signatures import Plane

PRODUCTS_MAX = 2000  # vectors of products that are written out


@dataclass(frozen=True)
class SmallPlaneKernel(Kernel):
    """A kernel over one whole plane; called like `PlaneKernel`.

    Attributes
    ----------
    taps : tuple of (int, int, int)
        Number of the filter's tap, and the row and column of the source that pixel (0, 0) reads.
    H, W : int
        Rows and columns of the source; W fits a vector.
    P, Q : int
        Rows and columns of pixels; Q fits a vector.
    stride_h, stride_w : int
        Rows and columns of the source from one pixel to the next.
    out_row, out_column : int
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
    W: int
    P: int
    Q: int
    stride_h: int
    stride_w: int
    out_row: int
    out_column: int
    together: int
    gradient: bool = False
    function: Function | None = None

    def emit(self, e: Emitter) -> None:
        """Write ``plane(source, filter, bias, out, rows, mode)``."""
        if self.gradient:
            self._gradient(e)
        else:
            self._result(e)

    def _steps(self, e: Emitter, first: int, last: int) -> Iterator[tuple[int, int, ir.Value]]:
        """Yield (pixel row, index of the tap, what the tap reads), row by row of the source."""
        source = e.arguments[0]
        for row in range(self.H):
            users = [
                (p, i)
                for p in range(first, last)
                for i, (_, tap_row, _) in enumerate(self.taps)
                if p * self.stride_h + tap_row == row
            ]
            if not users:
                continue
            whole = e.load(source, row * self.W, self.W)
            shifted: dict[int, ir.Value] = {}
            for p, i in users:
                column = self.taps[i][2]
                if column not in shifted:
                    places = [j * self.stride_w + column for j in range(e.lanes)]
                    lanes = [
                        place if 0 <= place < self.W and j < self.Q else e.lanes
                        for j, place in enumerate(places)
                    ]
                    shifted[column] = e.shuffle(whole, e.zeros, lanes)
                yield p, i, shifted[column]

    def _result(self, e: Emitter) -> None:
        _, filter_, bias, out, _, mode = e.arguments
        b = e.builder
        start = e.broadcast(bias, 0)
        weights = [e.broadcast(filter_, tap) for tap, _, _ in self.taps]
        epilogue = Epilogue(e, mode, self.function)
        for first in range(0, self.P, self.together):
            last = min(first + self.together, self.P)
            sums = dict.fromkeys(range(first, last), start)
            for p, i, value in self._steps(e, first, last):
                sums[p] = e.multiply_add(weights[i], value, sums[p])
            with b.if_else(epilogue.adds, likely=False) as (adding, plain):
                for branch, more in ((adding, True), (plain, False)):
                    with branch:
                        for p, value in sums.items():
                            spot = p * self.out_row
                            step = self.out_column
                            store_pixels(
                                e, value, out, spot, self.Q, epilogue=epilogue, add=more, step=step
                            )

    def _gradient(self, e: Emitter) -> None:
        """Add ``dy * x`` to the vectors of sums at `filter`; `out` is dy."""
        _, filter_, _, dy, _, mode = e.arguments
        b = e.builder
        add = Epilogue(e, mode).adds
        sums = [b.select(add, e.load(filter_, i * e.lanes), e.zeros) for i in range(len(self.taps))]
        gradients: dict[int, ir.Value] = {}
        for p, i, value in self._steps(e, 0, self.P):
            if p not in gradients:
                gradients[p] = e.load(dy, p * self.out_row, self.Q)
            sums[i] = e.multiply_add(gradients[p], value, sums[i])
        for i, total in enumerate(sums):
            e.store(total, filter_, i * e.lanes)
