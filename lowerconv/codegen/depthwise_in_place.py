"""Depthwise convolution, and the gradient of its filters, of planes as they lie in memory."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from llvmlite import ir

from lowerconv.codegen.activation import RELU, Activation
from lowerconv.codegen.emit import Emitter
from lowerconv.codegen.epilogue import Epilogue
from lowerconv.codegen.planes import Geometry, InPlaceKernel, Readers, Rows, Values, Vector, where
from lowerconv.codegen.transposing import interleave

Sums: TypeAlias = dict[tuple[int, int], ir.Value]  # of rows of pixels and phases


@dataclass(frozen=True)
class ResultsInPlace(InPlaceKernel):
    """The results of a plane."""

    activation: Activation = RELU

    def emit(self, e: Emitter) -> None:
        """Write the instructions of the function."""
        plane, b = e.arguments, e.builder
        geometry = Geometry.read(e, plane.geometry)
        start = e.broadcast(plane.bias, 0)
        room = self.isa.registers - self.together * len(self.phases) - 8
        kept = {tap: e.broadcast(plane.filter, tap) for tap, _, _ in self.taps[: max(0, room)]}
        epilogue = Epilogue(e, plane.mode, self.activation, plane.constants)
        above, read = self._above, Rows.apart(e, geometry.W, self._height)
        written = Rows.apart(e, geometry.out_W, self.together * self.out_rows)

        def block(row: ir.Value, count: int, carried: Values) -> Values:
            line = b.mul(row, e.constant(self.stride_h))
            here = read.moved(plane.source, b.add(line, e.constant(above)))
            line = b.add(line, b.mul(plane.first, e.constant(self.stride_h)))
            lines = self._lines(e, geometry.H, line, count)
            out_row = b.mul(row, e.constant(self.out_rows))
            to = written.moved(plane.out, out_row)
            out_row = b.add(out_row, b.mul(plane.first, e.constant(self.out_rows)))

            def store(sums: Sums, target: ir.Value, vector: Vector, more: bool) -> None:
                for i in range(count):
                    for part, values in self._parts(sums, i):
                        number = b.add(out_row, e.constant(part))
                        exists: AbstractContextManager[Any] = nullcontext()
                        if part and count == 1:  # of the last pixels not all rows may exist
                            exists = b.if_then(b.icmp_signed("<", number, geometry.out_H))
                        with exists:
                            address = written.further(target, i * self.out_rows + part)
                            self._store(e, values, address, vector, epilogue, more)

            def body(vector: Vector, carried: Values) -> Values:
                at = e.offset(here, b.mul(vector.pixel, e.constant(self.stride_w)))
                target = e.offset(to, b.mul(vector.pixel, e.constant(self.out_columns)))
                if count > 1:
                    self._prefetch_source(read, at)
                    further = self.together * self.out_rows
                    written.prefetch(target, further, further, self.out_columns, write=True)
                sums = {(i, j): start for i in range(count) for j in range(len(self.phases))}

                def add(row: int, columns: Readers, values: list[ir.Value]) -> Values:
                    own = dict(zip(_keys(columns), values, strict=True))
                    pixels = self._read(e, read.further(at, row - above), list(columns), vector)
                    for pixel, readers in zip(pixels, columns.values(), strict=True):
                        for i, phase, tap in readers:
                            weight = kept[tap] if tap in kept else e.broadcast(plane.filter, tap)
                            own[i, phase] = e.multiply_add(weight, pixel, own[i, phase])
                    return list(own.values())

                for row, exists, columns in lines:
                    keys = _keys(columns)
                    values = [sums[key] for key in keys]
                    values = where(e, exists, values, partial(add, row, columns))
                    sums.update(zip(keys, values, strict=True))
                epilogue.for_each_mode(partial(store, sums, target, vector))
                return carried

            return self._columns(e, geometry, count > 1, body, carried)

        self._blocks(e, geometry, block, [])

    def _parts(self, sums: Sums, i: int) -> list[tuple[int, Values]]:
        """Return (row of the result, sums that are interleaved there) for each row of phases."""
        lines: dict[int, dict[int, ir.Value]] = {}
        for number, (row, column, _) in enumerate(self.phases):
            lines.setdefault(row, {})[column] = sums[i, number]
        return [(row, list(line.values())) for row, line in lines.items()]

    def _store(
        self,
        e: Emitter,
        values: Values,
        address: ir.Value,
        vector: Vector,
        epilogue: Epilogue,
        add: bool,
    ) -> None:
        """Interleave pixels; store them, or add them to what is there."""
        for v, piece in enumerate(interleave(e, values, self.out_columns)):
            at, mask = v * e.lanes, vector.stored[v] if vector.stored else None
            if add:
                there = e.load(address, at) if mask is None else e.masked_load(address, at, mask)
                piece = e.add(there, piece)
            piece = epilogue.apply(piece)
            if mask is None:
                e.store(piece, address, at)
            else:
                e.store_lanes(piece, e.address(address, at, e.vector), mask)


@dataclass(frozen=True)
class GradientInPlace(InPlaceKernel):
    """The gradient of some taps, of the one phase: ``dy * x`` is added to vectors at `filter`."""

    def emit(self, e: Emitter) -> None:
        """Write the instructions of the function; `out` is dy."""
        plane, b = e.arguments, e.builder
        geometry = Geometry.read(e, plane.geometry)
        taps = [tap for tap, _, _ in self.taps]
        adds = Epilogue(e, plane.mode).adds
        sums = [
            b.select(adds, e.load(plane.filter, i * e.lanes), e.zeros) for i in range(len(taps))
        ]
        above, read = self._above, Rows.apart(e, geometry.W, self._height)
        gradients = Rows.apart(e, geometry.out_W, self.together)

        def block(row: ir.Value, count: int, carried: Values) -> Values:
            line = b.mul(row, e.constant(self.stride_h))
            here = read.moved(plane.source, b.add(line, e.constant(above)))
            line = b.add(line, b.mul(plane.first, e.constant(self.stride_h)))
            lines = self._lines(e, geometry.H, line, count)
            begin = gradients.moved(plane.out, row)

            def body(vector: Vector, carried: Values) -> Values:
                at = e.offset(here, b.mul(vector.pixel, e.constant(self.stride_w)))
                here_dy = e.offset(begin, vector.pixel)
                if count > 1:
                    self._prefetch_source(read, at)
                    gradients.prefetch(here_dy, self.together, self.together, 1)
                sums, values = dict(zip(taps, carried, strict=True)), []
                mask = vector.stored[0] if vector.stored else None
                for i in range(count):
                    place = gradients.further(here_dy, i)
                    values.append(
                        e.load(place, 0) if mask is None else e.masked_load(place, 0, mask)
                    )

                def add(row: int, columns: Readers, own: Values) -> Values:
                    found = dict(zip(_taps(columns), own, strict=True))
                    pixels = self._read(e, read.further(at, row - above), list(columns), vector)
                    for pixel, readers in zip(pixels, columns.values(), strict=True):
                        for i, _, tap in readers:
                            total = e.multiply_add(values[i], pixel, found[tap])
                            # Beyond dy a pixel may be anything, which 0 does not always undo.
                            found[tap] = b.select(mask, total, found[tap]) if mask else total
                    return list(found.values())

                for row, exists, columns in lines:
                    keys = _taps(columns)
                    own = [sums[key] for key in keys]
                    own = where(e, exists, own, partial(add, row, columns))
                    sums.update(zip(keys, own, strict=True))
                return list(sums.values())

            return self._columns(e, geometry, count > 1, body, carried)

        for i, total in enumerate(self._blocks(e, geometry, block, sums)):
            e.store(total, plane.filter, i * e.lanes)


def _keys(columns: Readers) -> list[tuple[int, int]]:
    """Return the rows of pixels and phases that read some columns."""
    return sorted({(i, phase) for readers in columns.values() for i, phase, _ in readers})


def _taps(columns: Readers) -> list[int]:
    """Return the taps that read some columns."""
    return sorted({tap for readers in columns.values() for _, _, tap in readers})
