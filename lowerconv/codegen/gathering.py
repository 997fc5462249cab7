"""Lowering some pixels at a time: panels ``[k][16 pixels]`` of an image, for tiles of AMX.

Pixels are counted along the rows of the result, one row after the other, so that a panel may have
pixels of several rows.  Row ``channel * taps + tap`` of a panel is what they read there; what lies
outside the image is `value`.  Rows behind the last one, up to whole tiles, are zeros.

It is im2col of a few pixels, that stay in the caches while all filters pass.  Where rows of the
result are as long as those of the image, and no pixel is left out, neighbouring pixels read
neighbours in memory whatever their rows: a tap of a vector is a load, with a mask of what is inside
the image.  Else each run of pixels of one row is such a load, and a masked store; vectors inside
the image need no masks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, reduce

import numpy as np
from llvmlite import ir

from lowerconv.codegen.amx import SIZE
from lowerconv.codegen.emit import I32, Emitter
from lowerconv.codegen.isa import Isa
from lowerconv.codegen.kernel import kernel_address
from lowerconv.codegen.signatures import Gather, GatherNumbers
from lowerconv.copying import not_copied

UNROLLED = 4  # channels of a turn


@not_copied("emit the function again")
class _Gathering:
    """Writes ``gather``, for pixels whose columns are `step` apart."""

    def __init__(self, e: Emitter, step: int) -> None:
        self.e, self.step = e, step
        self.source, self.first, self.pixels, self.target, at, self.taps_at = e.arguments
        self.numbers = GatherNumbers(
            *(e.load_i64(at, i) for i in range(len(GatherNumbers._fields)))
        )
        self.zero, self.one, self.lanes = (e.constant(x) for x in (0, 1, e.lanes))
        self.around = e.splat(e.builder.trunc(self.numbers.value, e.scalar))

    def emit(self, dense: bool) -> None:
        """Write it; `dense`: rows of the result are as long as those of the image."""
        e, b = self.e, self.e.builder
        k = b.mul(self.numbers.channels, self.numbers.taps)

        def panel(t: ir.Value, _: list[ir.Value]) -> None:
            begin = b.mul(t, self.lanes)
            to = e.offset(self.target, b.mul(t, self.numbers.panel))
            fill = self._dense if dense else self._runs
            fill(b.add(self.first, begin), b.sub(self.pixels, begin), to)

            def nothing(i: ir.Value, _: list[ir.Value]) -> None:
                e.store(e.zeros, e.offset(to, b.mul(b.add(k, i), self.lanes)), 0)

            e.loop(b.and_(b.sub(self.zero, k), e.constant(SIZE - 1)), nothing)

        e.loop(b.sdiv(b.add(self.pixels, e.constant(e.lanes - 1)), self.lanes), panel)

    def _least(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.e.builder.select(self.e.builder.icmp_signed("<", x, y), x, y)

    def _most(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.e.builder.select(self.e.builder.icmp_signed(">", x, y), x, y)

    def _up(self, x: ir.Value) -> ir.Value:
        """Return ``ceil(x / step)``."""
        e, step = self.e, self.step
        if step == 1:
            return x
        shifted = e.builder.add(x, e.constant(step * 2**40 + step - 1))  # so that it is positive
        return e.builder.sub(e.builder.udiv(shifted, e.constant(step)), e.constant(2**40))

    def _entry(self, tap: ir.Value, i: int) -> ir.Value:
        """Return the row that pixel 0 reads, the column, or ``row * W + column``."""
        e = self.e
        return e.entry(
            self.taps_at, e.builder.add(e.builder.mul(tap, e.constant(3)), e.constant(i))
        )

    def _channels(
        self, place: ir.Value, to: ir.Value, tap: ir.Value, copy: Callable[..., None]
    ) -> None:
        """Write ``copy(there, goal)`` of what a tap reads, for all channels."""
        e, b, numbers = self.e, self.e.builder, self.numbers
        plane, next_row = b.mul(numbers.H, numbers.W), b.mul(numbers.taps, self.lanes)

        def channel(_: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            there, here = carried
            copy(there, e.address(here, 0, e.vector))
            return [e.offset(there, plane), e.offset(here, next_row)]

        def several(_: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            for _ in range(UNROLLED):
                carried = channel(self.zero, carried)
            return carried

        whole = b.sdiv(numbers.channels, e.constant(UNROLLED))
        rest = b.srem(numbers.channels, e.constant(UNROLLED))
        begin = [e.offset(self.source, place), e.offset(to, b.mul(tap, self.lanes))]
        e.loop(rest, channel, e.loop(whole, several, begin))

    def _dense(self, p0: ir.Value, count: ir.Value, to: ir.Value) -> None:
        """Write a panel whose pixels read neighbours in memory."""
        e, b, numbers = self.e, self.e.builder, self.numbers

        def same(x: ir.Value) -> ir.Value:
            return e.splat(b.trunc(x, I32))

        Q, W, H = (same(x) for x in (numbers.Q, numbers.W, numbers.H))
        row0, column0 = b.sdiv(p0, numbers.Q), b.srem(p0, numbers.Q)

        def wrap(_: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            rows, columns = carried
            over = b.icmp_signed(">=", columns, Q)
            following = b.add(rows, e.splat(e.constant(1, I32))), b.sub(columns, Q)
            return [b.select(over, x, y) for x, y in zip(following, carried, strict=True)]

        turns = b.sdiv(b.add(column0, e.constant(e.lanes - 1)), numbers.Q)
        begin = [same(row0), b.add(same(column0), e.lane_numbers(e.lanes))]
        rows, columns = e.loop(turns, wrap, begin)

        def tap(number: ir.Value, _: list[ir.Value]) -> None:
            down, across = (same(self._entry(number, i)) for i in range(2))
            # What is negative is large.
            read = b.and_(
                b.icmp_unsigned("<", b.add(rows, down), H),
                b.icmp_unsigned("<", b.add(columns, across), W),
            )

            def copy(there: ir.Value, goal: ir.Value) -> None:
                value = e.load_lanes(e.address(there, 0, e.vector), read, self.around)
                b.store(value, goal, align=4)

            self._channels(b.add(p0, self._entry(number, 2)), to, number, copy)

        e.loop(numbers.taps, tap)

    def _runs(self, p0: ir.Value, count: ir.Value, to: ir.Value) -> None:
        """Write a panel by runs of pixels of one row."""
        e, b, numbers = self.e, self.e.builder, self.numbers
        count = self._least(self.lanes, count)
        row0 = b.sdiv(p0, numbers.Q)
        last = b.sdiv(b.sub(b.add(p0, count), self.one), numbers.Q)

        def run(s: ir.Value, _: list[ir.Value]) -> None:
            row = b.add(row0, s)
            column = b.sub(p0, b.mul(row, numbers.Q))  # of lane 0, were it there
            begin = self._most(self.zero, b.sub(self.zero, column))
            end = self._least(count, b.sub(numbers.Q, column))
            y, x = b.mul(row, numbers.stride_h), b.mul(column, e.constant(self.step))
            # The loads of a vector may reach beyond its last pixel.
            reach = b.add(x, e.constant(self.step * e.lanes - 1))
            conditions = [
                b.icmp_signed("<=", self.zero, column),
                b.icmp_signed("==", end, self.lanes),
                b.icmp_signed("<=", self.zero, b.add(y, numbers.top)),
                b.icmp_signed("<", b.add(y, numbers.bottom), numbers.H),
                b.icmp_signed("<=", self.zero, b.add(x, numbers.left)),
                b.icmp_signed("<", b.add(reach, numbers.right), numbers.W),
            ]
            with b.if_else(reduce(b.and_, conditions)) as (within, across):
                with within:
                    self._inside(b.add(b.mul(y, numbers.W), x), to)
                with across:
                    self._across((y, x), (begin, end), to)

        e.loop(b.add(b.sub(last, row0), self.one), run)

    def _inside(self, pixel: ir.Value, to: ir.Value) -> None:
        """Write a whole vector, inside the image."""
        e, b = self.e, self.e.builder

        def tap(number: ir.Value, _: list[ir.Value]) -> None:
            def copy(there: ir.Value, goal: ir.Value) -> None:
                loaded = [e.load(there, v * e.lanes) for v in range(self.step)]
                b.store(every(e, loaded, self.step), goal, align=4)

            self._channels(b.add(pixel, self._entry(number, 2)), to, number, copy)

        e.loop(self.numbers.taps, tap)

    def _across(
        self, pixel: tuple[ir.Value, ir.Value], run: tuple[ir.Value, ir.Value], to: ir.Value
    ) -> None:
        """Write a run of lanes; some of what they read may be outside the image."""
        e, b, step, numbers = self.e, self.e.builder, self.step, self.numbers
        begin, end = run
        kept = e.lanes_between(begin, end, e.lanes)

        def tap(number: ir.Value, _: list[ir.Value]) -> None:
            y, x = (b.add(at, self._entry(number, i)) for i, at in enumerate(pixel))
            inside = b.icmp_unsigned("<", y, numbers.H)
            low = self._most(begin, self._up(b.sub(self.zero, x)))
            high = self._least(end, self._up(b.sub(numbers.W, x)))
            high = b.select(inside, high, low)
            place = b.select(inside, b.add(b.mul(y, numbers.W), x), self.zero)
            read = e.lanes_between(low, high, e.lanes)
            item = b.mul(low, e.constant(step))
            stop = b.add(b.mul(b.sub(high, self.one), e.constant(step)), self.one)
            parts = []
            for v in range(step):
                shift = e.constant(v * e.lanes)
                parts.append(e.lanes_between(b.sub(item, shift), b.sub(stop, shift), e.lanes))

            def copy(there: ir.Value, goal: ir.Value) -> None:
                loaded = [e.masked_load(there, v * e.lanes, mask) for v, mask in enumerate(parts)]
                value = b.select(read, every(e, loaded, step), self.around)
                e.store_lanes(value, goal, kept)

            self._channels(place, to, number, copy)

        e.loop(numbers.taps, tap)


def every(e: Emitter, values: list[ir.Value], step: int) -> ir.Value:
    """Return every `step`-th lane of some vectors set side by side, as many as `step`."""
    if step == 1:
        return values[0]
    wanted = [divmod(i * step, e.lanes) for i in range(e.lanes)]
    picked = e.shuffle(values[0], values[1], [v * e.lanes + j if v < 2 else 0 for v, j in wanted])
    for part in range(2, step):
        choice = [e.lanes + j if v == part else i for i, (v, j) in enumerate(wanted)]
        picked = e.shuffle(picked, values[part], choice)
    return picked


def _gather(e: Emitter, step: int, dense: bool) -> None:
    """Emit ``gather``."""
    _Gathering(e, step).emit(dense)


@lru_cache
def gather_address(isa: Isa, dtype: np.dtype, step: int, dense: bool) -> int:
    """Return the address of ``gather``, compiled for a distance of columns.

    `dense` asks for distances of 1, and rows of the result as long as those of the image.
    """
    return kernel_address(Gather, _gather, isa, dtype, step, dense)
