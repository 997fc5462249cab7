"""How kernels go over planes as they lie in memory: no padding is copied, nothing is split.

What taps read beside a row are lanes that masks leave out; rows outside the plane are left out too.
Columns that a stride sets apart are picked from whole vectors.  Widths and heights are numbers at
run time: a kernel serves images of all sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
from llvmlite import ir

from lowerconv.codegen.emit import I32, Emitter
from lowerconv.codegen.isa import Isa
from lowerconv.codegen.kernel import Kernel
from lowerconv.codegen.signatures import Plane
from lowerconv.codegen.transposing import pick

Taps: TypeAlias = tuple[tuple[int, int, int], ...]  # as of `conv.phases.Phase`
Values: TypeAlias = list[ir.Value]
Readers: TypeAlias = dict[int, list[tuple[int, int, int]]]  # of columns: pixel row, phase, tap


class Geometry(NamedTuple):
    """What a kernel reads of `signatures.PlaneGeometry`, in their order."""

    Q: ir.Value
    out_row: ir.Value
    W: ir.Value
    H: ir.Value
    out_W: ir.Value
    out_H: ir.Value

    @classmethod
    def read(cls, e: Emitter, address: ir.Value) -> Geometry:
        """Return those at an address."""
        return cls(*(e.load_i64(address, i) for i in range(len(cls._fields))))


class Rows(NamedTuple):
    """Rows at one distance; few take a register, as instructions multiply with 2, 4 and 8."""

    e: Emitter
    odd: dict[int, ir.Value]

    @classmethod
    def apart(cls, e: Emitter, items: ir.Value, count: int) -> Rows:
        """Return `count` rows that begin `items` items apart."""
        step = e.builder.mul(items, e.constant(e.dtype.itemsize))
        return cls(e, {n: e.builder.mul(step, e.constant(n)) for n in range(1, max(2, count), 2)})

    def further(self, address: ir.Value, rows: int) -> ir.Value:
        """Return the address `rows` rows after an address."""
        if not rows:
            return address
        b, twos = self.e.builder, (rows & -rows).bit_length() - 1
        return b.add(address, b.shl(self.odd[rows >> twos], self.e.constant(twos)))

    def moved(self, address: ir.Value, rows: ir.Value) -> ir.Value:
        """Return the address `rows` rows after an address; `rows` is known at run time."""
        return self.e.builder.add(address, self.e.builder.mul(rows, self.odd[1]))

    def prefetch(
        self, address: ir.Value, first: int, count: int, vectors: int, write: bool = False
    ) -> None:
        """Ask for some vectors of each of `count` rows that begin `first` rows further on.

        The hardware's prefetchers do not follow that many short rows.
        """
        begin = self.moved(address, self.e.constant(first))
        for row in range(count):
            for v in range(vectors):
                place = self.e.offset(self.further(begin, row), v * self.e.lanes)
                self.e.prefetch(place, write, 3)


class Vector(NamedTuple):
    """A vector of pixels: the number of the first, and masks where not all that is read exists.

    Those of the vectors that are read, by their first column and number; and of those stored.
    """

    pixel: ir.Value
    read: dict[tuple[int, int], ir.Value]
    stored: Values


class Line(NamedTuple):
    """A row of the source: whether it exists, and who reads its columns.

    Each has blocks of code of its own: in long ones LLVM moves loads so far ahead of their use
    that registers do not suffice.
    """

    row: int
    exists: ir.Value
    columns: Readers


@dataclass(frozen=True)
class InPlaceKernel(Kernel):
    """What kernels over rows of one plane are made from; they take masks.

    Attributes
    ----------
    phases : tuple of (row, column, taps)
        Pixels of the result that are computed side by side, all with the same pixels of the source:
        what is added to their row and column, and their taps (`conv.phases.Phase`).
    stride_h, stride_w : int
        Rows and columns of the source from one pixel to the next.
    out_rows, out_columns : int
        Likewise of the result.
    together : int
        Rows of pixels that are computed at a time.
    """

    name, signature = "plane", Plane

    isa: Isa
    dtype: np.dtype
    phases: tuple[tuple[int, int, Taps], ...]
    stride_h: int
    stride_w: int
    out_rows: int
    out_columns: int
    together: int

    @property
    def taps(self) -> Taps:
        """Those of all phases."""
        return tuple(each for _, _, taps in self.phases for each in taps)

    @property
    def _above(self) -> int:
        """The first row that taps read, relative to that of their pixel."""
        return min((row for _, row, _ in self.taps), default=0)

    @property
    def _height(self) -> int:
        """The rows of the source that rows of pixels read together."""
        last = max((row for _, row, _ in self.taps), default=0)
        of_one = max(last - self._above + 1, self.stride_h)  # and what lies between them
        return of_one + (self.together - 1) * self.stride_h

    def _starts(self) -> dict[int, int]:
        """Return for every column that is read, the first one of the vectors it is picked from."""
        starts: dict[int, int] = {}
        start = None
        for column in sorted({column for _, _, column in self.taps}):
            if start is None or column - start >= self.stride_w:
                start = column
            starts[column] = start
        return starts

    def _columns(
        self,
        e: Emitter,
        geometry: Geometry,
        several: bool,
        body: Callable[[Vector, Values], Values],
        carried: Values,
    ) -> Values:
        """Run `body` over the vectors of a row, without masks inside where rows are `several`."""
        b, VL, starts = e.builder, e.lanes, sorted(set(self._starts().values())) or [0]
        wide = VL * self.stride_w
        vectors = b.sdiv(b.add(geometry.Q, e.constant(VL - 1)), e.constant(VL))
        W, out_W = (e.splat(b.trunc(number, I32)) for number in (geometry.W, geometry.out_W))

        def lanes(begin: ir.Value, further: int, end: ir.Value) -> ir.Value:
            """Return the mask of the lanes from 0 to before `end`, numbered from `begin` on."""
            lane = ir.Constant(ir.VectorType(I32, VL), [further + i for i in range(VL)])
            return b.icmp_unsigned("<", b.add(begin, lane), end)

        def masked(index: ir.Value, carried: Values) -> Values:
            pixel = b.mul(index, e.constant(VL))
            number = b.trunc(pixel, I32)
            column = e.splat(b.mul(number, e.constant(self.stride_w, I32)))
            to = e.splat(b.mul(number, e.constant(self.out_columns, I32)))
            read = {
                (start, v): lanes(column, start + v * VL, W)
                for start in starts
                for v in range(self.stride_w)
            }
            masks = [lanes(to, v * VL, out_W) for v in range(self.out_columns)]
            return body(Vector(pixel, read, masks), carried)

        def plain(index: ir.Value, carried: Values) -> Values:
            return body(Vector(b.mul(index, e.constant(VL)), {}, []), carried)

        if not several:
            return e.loop(vectors, masked, carried)
        first = e.constant(max(0, -(starts[0] // wide)))
        source_end = b.sdiv(b.sub(geometry.W, e.constant(starts[-1])), e.constant(wide))
        out_end = b.sdiv(geometry.out_W, e.constant(VL * self.out_columns))
        end = b.select(b.icmp_signed("<", source_end, out_end), source_end, out_end)

        def either(index: ir.Value, carried: Values) -> Values:
            inside = b.and_(b.icmp_signed(">=", index, first), b.icmp_signed("<", index, end))
            return choose(
                e, inside, partial(plain, index, carried), partial(masked, index, carried)
            )

        return e.loop(vectors, either, carried)

    def _read(self, e: Emitter, at: ir.Value, columns: list[int], vector: Vector) -> Values:
        """Return what some columns of taps read of a row of the source."""
        starts, loaded = self._starts(), {}
        for start in {starts[column]: None for column in columns}:
            loaded[start] = [
                e.masked_load(at, start + v * e.lanes, vector.read[start, v])
                if vector.read
                else e.load(at, start + v * e.lanes)
                for v in range(self.stride_w)
            ]
        return [pick(e, loaded[starts[column]], column - starts[column]) for column in columns]

    def _prefetch_source(self, read: Rows, at: ir.Value) -> None:
        """Ask for what the next rows of pixels read, in this plane or the next one."""
        read.prefetch(at, self._height, self.together * self.stride_h, self.stride_w)

    def _lines(self, e: Emitter, H: ir.Value, line: ir.Value, count: int) -> list[Line]:
        """Return the rows of the source that `count` rows of pixels read.

        Pixel row 0 reads row `line` of the source in taps at row 0.
        """
        found: dict[int, Readers] = {}
        for i in range(count):
            for number, (_, _, taps) in enumerate(self.phases):
                for tap, row, column in taps:
                    readers = found.setdefault(row + i * self.stride_h, {})
                    readers.setdefault(column, []).append((i, number, tap))
        return [
            Line(
                row,
                e.builder.icmp_unsigned("<", e.builder.add(line, e.constant(row)), H),
                dict(sorted(found[row].items())),
            )
            for row in sorted(found)
        ]

    def _blocks(
        self,
        e: Emitter,
        geometry: Geometry,
        block: Callable[[ir.Value, int, Values], Values],
        carried: Values,
    ) -> Values:
        """Run ``block(first row, rows, carried)`` over rows of pixels, several and then single."""
        first, rows = e.arguments.first, e.arguments.rows
        b, together, number = e.builder, e.constant(self.together), self.out_rows
        whole = rows  # with all phases
        if number > 1:
            whole = b.sub(b.sdiv(geometry.out_H, e.constant(number)), first)
            whole = b.select(b.icmp_signed("<", whole, rows), whole, rows)
        blocks = b.sdiv(whole, together)
        done = b.mul(blocks, together)

        def many(index: ir.Value, carried: Values) -> Values:
            return block(b.mul(index, together), self.together, carried)

        def one(index: ir.Value, carried: Values) -> Values:
            return block(b.add(done, index), 1, carried)

        carried = e.loop(blocks, many, carried)
        return e.loop(b.sub(rows, done), one, carried)


def choose(
    e: Emitter, condition: ir.Value, yes: Callable[[], Values], no: Callable[[], Values]
) -> Values:
    """Run one of two functions, and return what it returns: as many values as the other."""
    found = []
    with e.builder.if_else(condition) as branches:
        for branch, function in zip(branches, (yes, no), strict=True):
            with branch:
                found.append((function(), e.builder.block))
    (first, after_yes), (second, after_no) = found
    values = []
    for one, other in zip(first, second, strict=True):
        value = e.builder.phi(one.type)
        value.add_incoming(one, after_yes)
        value.add_incoming(other, after_no)
        values.append(value)
    return values


def where(
    e: Emitter, condition: ir.Value, values: Values, change: Callable[[Values], Values]
) -> Values:
    """Return ``change(values)`` where a condition holds, else `values`."""
    return choose(e, condition, lambda: change(values), lambda: values)
