"""The plane kernel of depthwise convolution: rows of one plane, nothing packed.

With one channel in a group there is nothing to reuse but the pixels themselves: several rows of the
result are computed together, so that a loaded vector serves all taps of its column that read it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from llvmlite import ir

from lowerconv.codegen.emit import Emitter
from lowerconv.codegen.epilogue import Epilogue, Function
from lowerconv.codegen.isa import Isa
from lowerconv.codegen.kernel import Kernel
from lowerconv.codegen.microkernel import store_pixels
from lowerconv.codegen.signatures import Plane


@dataclass(frozen=True)
class PlaneKernel(Kernel):
    """A kernel over a band of one plane.

    Attributes
    ----------
    taps : tuple of (int, int)
        Number of the filter's tap, and where pixel (0, 0) reads it.
    Q : int
        Pixels of a row.
    row_step, column_step : int
        Items of the source from one pixel to the next.
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
    taps: tuple[tuple[int, int], ...]
    Q: int
    row_step: int
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

    def _columns(self, e: Emitter, body, carried: list[ir.Value]) -> list[ir.Value]:
        """Run ``body(first pixel, lanes, carried)`` over the vectors of a row."""

        def vector(index: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            return body(e.builder.mul(index, e.constant(e.lanes)), e.lanes, carried)

        whole, rest = divmod(self.Q, e.lanes)
        carried = e.loop(e.constant(whole), vector, carried)
        if rest:
            carried = body(e.constant(whole * e.lanes), rest, carried)
        return carried

    def _result(self, e: Emitter) -> None:
        source, filter_, bias, out, rows, mode = e.arguments
        b = e.builder
        start = e.broadcast(bias, 0)
        few = len(self.taps) <= self.isa.registers - 8
        weights = {tap: e.broadcast(filter_, tap) for tap, _ in self.taps} if few else {}
        epilogue = Epilogue(e, mode, self.function)

        def block(first: ir.Value, count: int) -> None:
            here = e.offset(source, b.mul(first, e.constant(self.row_step)))
            to = e.offset(out, b.mul(first, e.constant(self.out_row)))

            def body(pixel: ir.Value, lanes: int, _: list[ir.Value]) -> list[ir.Value]:
                at = e.offset(here, pixel)
                loaded: dict[int, ir.Value] = {}
                sums = [start] * count
                for tap, place in self.taps:
                    weight = weights[tap] if few else e.broadcast(filter_, tap)
                    for i in range(count):
                        offset = place + i * self.row_step
                        if offset not in loaded:
                            loaded[offset] = e.load(at, offset, lanes)
                        sums[i] = e.multiply_add(weight, loaded[offset], sums[i])
                target = e.offset(to, b.mul(pixel, e.constant(self.out_column)))
                with b.if_else(epilogue.adds, likely=False) as (adding, plain):
                    for branch, more in ((adding, True), (plain, False)):
                        with branch:
                            for i, value in enumerate(sums):
                                spot = i * self.out_row
                                step = self.out_column
                                store_pixels(
                                    e,
                                    value,
                                    target,
                                    spot,
                                    lanes,
                                    epilogue=epilogue,
                                    add=more,
                                    step=step,
                                )
                return []

            self._columns(e, body, [])

        together = self.together
        blocks = b.sdiv(rows, e.constant(together))

        def many(index: ir.Value, _: list[ir.Value]) -> None:
            block(b.mul(index, e.constant(together)), together)

        e.loop(blocks, many)
        done = b.mul(blocks, e.constant(together))

        def one(index: ir.Value, _: list[ir.Value]) -> None:
            block(b.add(done, index), 1)

        e.loop(b.sub(rows, done), one)

    def _gradient(self, e: Emitter) -> None:
        """Add ``dy * x`` to the vectors of sums at `filter`; `out` is dy."""
        source, filter_, _, dy, rows, mode = e.arguments
        b = e.builder
        add = Epilogue(e, mode).adds
        sums = [b.select(add, e.load(filter_, i * e.lanes), e.zeros) for i in range(len(self.taps))]

        def row(index: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            here = e.offset(source, b.mul(index, e.constant(self.row_step)))
            gradient = e.offset(dy, b.mul(index, e.constant(self.out_row)))

            def body(pixel: ir.Value, lanes: int, sums: list[ir.Value]) -> list[ir.Value]:
                value = e.load(gradient, pixel, lanes)
                at = e.offset(here, pixel)
                return [
                    e.multiply_add(value, e.load(at, place, lanes), total)
                    for total, (_, place) in zip(sums, self.taps, strict=True)
                ]

            return self._columns(e, body, sums)

        for i, total in enumerate(e.loop(rows, row, sums)):
            e.store(total, filter_, i * e.lanes)
