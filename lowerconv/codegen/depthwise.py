"""The plane kernel of depthwise convolution: rows of one plane, nothing packed.

With one channel in a group there is nothing to reuse but the pixels themselves: several rows of the
result are computed together, so that a loaded vector serves all taps of its column that read it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from llvmlite import ir

from lowerconv.codegen.activation import RELU, Activation
from lowerconv.codegen.emit import Emitter
from lowerconv.codegen.epilogue import Epilogue
from lowerconv.codegen.isa import Isa
from lowerconv.codegen.kernel import Kernel
from lowerconv.codegen.pixels import store_pixels
from lowerconv.codegen.planes import Rows
from lowerconv.codegen.signatures import Plane


@dataclass(frozen=True)
class PlaneKernel(Kernel):
    """A kernel over a band of one plane, padded or not, for instruction sets without masks.

    With masks `planes.InPlaceKernel` goes over planes as they are.  Both are called alike, and read
    `signatures.PlaneGeometry`.

    The rows of the source lie at a distance that is known when the kernel is made, because more
    pointers than registers would take as long as the sums; `Window.pitch` has few values.

    Attributes
    ----------
    taps : tuple of (int, int)
        Number of the filter's tap, and where pixel (0, 0) reads it.
    row_step : int
        Items of the source from one row of pixels to the next.
    out_column : int
        Items of the result from one pixel to the next.
    rest : int
        Pixels of a row beyond whole vectors.
    together : int
        Rows of the result that are computed at a time.
    gradient : bool
        Whether the kernel adds up the gradient of the taps instead of the result.
    """

    name, signature = "plane", Plane

    isa: Isa
    dtype: np.dtype
    taps: tuple[tuple[int, int], ...]
    row_step: int
    out_column: int
    rest: int
    together: int
    gradient: bool = False
    activation: Activation = RELU

    def emit(self, e: Emitter) -> None:
        """Write the instructions of the function."""
        if self.gradient:
            self._gradient(e)
        else:
            self._result(e)

    def _columns(self, e: Emitter, Q: ir.Value, body, carried: list[ir.Value]) -> list[ir.Value]:
        """Run ``body(first pixel, lanes, carried)`` over the vectors of a row."""
        b, VL = e.builder, e.constant(e.lanes)

        def vector(index: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            return body(b.mul(index, VL), e.lanes, carried)

        whole = b.sdiv(Q, VL)
        done = b.mul(whole, VL)
        carried = e.loop(whole, vector, carried)
        return body(done, self.rest, carried) if self.rest else carried

    def _result(self, e: Emitter) -> None:
        plane, b = e.arguments, e.builder
        Q, out_row = e.load_i64(plane.geometry, 0), e.load_i64(plane.geometry, 1)
        start = e.broadcast(plane.bias, 0)
        few = len(self.taps) <= self.isa.registers - 8
        weights = {tap: e.broadcast(plane.filter, tap) for tap, _ in self.taps} if few else {}
        epilogue = Epilogue(e, plane.mode, self.activation, plane.constants)
        written = Rows.apart(e, out_row, self.together)

        def block(first: ir.Value, count: int) -> None:
            here = e.offset(plane.source, b.mul(first, e.constant(self.row_step)))
            to = e.offset(plane.out, b.mul(first, out_row))

            def body(pixel: ir.Value, lanes: int, _: list[ir.Value]) -> list[ir.Value]:
                at = e.offset(here, pixel)
                loaded: dict[int, ir.Value] = {}
                sums = [start] * count
                for tap, place in self.taps:
                    weight = weights[tap] if few else e.broadcast(plane.filter, tap)
                    for i in range(count):
                        offset = place + i * self.row_step
                        if offset not in loaded:
                            loaded[offset] = e.load_first(at, offset, lanes)
                        sums[i] = e.multiply_add(weight, loaded[offset], sums[i])
                target = e.offset(to, b.mul(pixel, e.constant(self.out_column)))

                def store(add: bool) -> None:
                    for i, value in enumerate(sums):
                        line, step = written.further(target, i), self.out_column
                        store_pixels(
                            e, value, line, 0, lanes, epilogue=epilogue, add=add, step=step
                        )

                epilogue.for_each_mode(store)
                return []

            self._columns(e, Q, body, [])

        together = self.together
        blocks = b.sdiv(plane.rows, e.constant(together))

        def many(index: ir.Value, _: list[ir.Value]) -> None:
            block(b.mul(index, e.constant(together)), together)

        e.loop(blocks, many)
        done = b.mul(blocks, e.constant(together))

        def one(index: ir.Value, _: list[ir.Value]) -> None:
            block(b.add(done, index), 1)

        e.loop(b.sub(plane.rows, done), one)

    def _gradient(self, e: Emitter) -> None:
        """Add ``dy * x`` to the vectors of sums at `filter`; `out` is dy."""
        plane, b = e.arguments, e.builder
        Q, out_row = e.load_i64(plane.geometry, 0), e.load_i64(plane.geometry, 1)
        add = Epilogue(e, plane.mode).adds
        sums = [
            b.select(add, e.load(plane.filter, i * e.lanes), e.zeros) for i in range(len(self.taps))
        ]

        def row(index: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            here = e.offset(plane.source, b.mul(index, e.constant(self.row_step)))
            gradient = e.offset(plane.out, b.mul(index, out_row))

            def body(pixel: ir.Value, lanes: int, sums: list[ir.Value]) -> list[ir.Value]:
                value = e.load_first(e.offset(gradient, pixel), 0, lanes)
                at = e.offset(here, pixel)
                return [
                    e.multiply_add(value, e.load_first(at, place, lanes), total)
                    for total, (_, place) in zip(sums, self.taps, strict=True)
                ]

            return self._columns(e, Q, body, sums)

        for i, total in enumerate(e.loop(plane.rows, row, sums)):
            e.store(total, plane.filter, i * e.lanes)
