"""The two copies of the fused engine: padding an image, and transposing into a panel.

Both store full vectors and let the next store overwrite the slack of the one before, so that short
rows cost no more than an instruction or two; the end of a buffer needs `slack` items to spare.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from llvmlite import ir

from lowerconv.codegen.emit import I64, Emitter
from lowerconv.codegen.isa import LINE, Isa
from lowerconv.codegen.kernel import kernel_address
from lowerconv.codegen.signatures import Pad, Prefetch, SumLanes, Transpose, TransposeTaps
from lowerconv.codegen.transposing import pick

AHEAD = 8  # blocks that are prefetched ahead


def slack(isa: Isa, dtype: np.dtype) -> int:
    """Return the items beyond the end of a buffer that the copies may write."""
    return 2 * isa.lanes(dtype)


def _of_bits(e: Emitter, bits: ir.Value) -> ir.Value:
    """Return a vector of the item whose bits are the lowest ones of a 64-bit integer."""
    kind = ir.IntType(8 * e.dtype.itemsize)
    item = bits if kind == I64 else e.builder.trunc(bits, kind)
    return e.splat(item if kind == e.scalar else e.builder.bitcast(item, e.scalar))


def _fill(e: Emitter, value: ir.Value, begin: ir.Value, count: ir.Value) -> None:
    """Store a vector `count` times, one after the other."""

    def one(j: ir.Value, _: list[ir.Value]) -> None:
        e.store(value, e.offset(begin, e.builder.mul(j, e.constant(e.lanes))), 0)

    e.loop(count, one)


def _pad(e: Emitter) -> None:
    """Emit ``pad``: rows ``first .. first + rows`` of a plane, with `value` around it.

    The plane at `source` has H rows of W items, `ld_source` apart.  Every row becomes `left` such
    values, its W items and more of them up to `pitch`; rows outside the plane are all of them.
    """
    source, ld_source, H, W, first, rows, left, target, pitch, value = e.arguments
    b, around = e.builder, _of_bits(e, value)
    lanes = e.constant(e.lanes)
    whole = b.sdiv(W, lanes)
    rest = b.srem(W, lanes)
    mask = e.lanes_below(rest)
    more = b.add(lanes, e.constant(-1))
    left_vectors = b.sdiv(b.add(left, more), lanes)
    data_end = b.add(left, b.mul(b.sdiv(b.add(W, more), lanes), lanes))
    right_vectors = b.sdiv(b.add(b.sub(pitch, data_end), more), lanes)
    row_vectors = b.sdiv(b.add(pitch, more), lanes)

    def row(index: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
        (to,) = carried
        number = b.add(first, index)
        inside = b.icmp_unsigned("<", number, H)  # a negative one is a large one

        with b.if_else(inside, likely=True) as (copying, clearing):
            with copying:
                _fill(e, around, to, left_vectors)
                begin = e.offset(source, b.mul(number, ld_source))
                data = e.offset(to, left)

                def one(j: ir.Value, _: list[ir.Value]) -> None:
                    item = b.mul(j, lanes)
                    e.store(e.load(begin, item), data, item)

                e.loop(whole, one)
                with b.if_then(b.icmp_signed(">", rest, e.constant(0)), likely=True):
                    item = b.mul(whole, lanes)
                    rest_of_row = e.load_lanes(e.address(begin, item, e.vector), mask, around)
                    e.store(rest_of_row, data, item)
                _fill(e, around, e.offset(to, data_end), right_vectors)
            with clearing:
                _fill(e, around, to, row_vectors)
        return [e.offset(to, pitch)]

    e.loop(rows, row, [target])


def _pad_phases(e: Emitter, step: int) -> None:
    """Emit ``pad`` for columns read `step` apart: every row is split by the column's remainder.

    A row becomes `step` segments of ``pitch / step`` items; segment f holds columns f, f + step,
    ... of the padded row, so that neighbours among the pixels are neighbours in memory.  `left` is
    a multiple of `step`, and a segment has room for whole vectors of the row.
    """
    source, ld_source, H, W, first, rows, left, target, pitch, value = e.arguments
    b, around = e.builder, _of_bits(e, value)
    lanes, stride = e.constant(e.lanes), e.constant(step)
    together = e.constant(e.lanes * step)  # columns that are split at a time
    segment = b.sdiv(pitch, stride)
    before = b.sdiv(left, stride)
    more = e.constant(e.lanes - 1)
    whole, rest = b.sdiv(W, together), b.srem(W, together)
    some = b.icmp_signed(">", rest, e.constant(0))
    blocks = b.add(whole, b.zext(some, I64))
    data_end = b.add(before, b.mul(blocks, lanes))
    left_vectors = b.sdiv(b.add(before, more), lanes)
    right_vectors = b.sdiv(b.add(b.sub(segment, data_end), more), lanes)
    row_vectors = b.sdiv(b.add(pitch, more), lanes)

    def split(values: list[ir.Value], data: ir.Value, block: ir.Value) -> None:
        """Store every `step`-th lane of some vectors at the same place of each segment."""
        for phase in range(step):
            picked = pick(e, values, phase)
            to = e.offset(data, b.mul(segment, e.constant(phase)))
            e.store(picked, e.offset(to, b.mul(block, lanes)), 0)

    def row(index: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
        (to,) = carried
        number = b.add(first, index)
        with b.if_else(b.icmp_unsigned("<", number, H), likely=True) as (copying, clearing):
            with copying:
                begin = e.offset(source, b.mul(number, ld_source))
                data = e.offset(to, before)
                for phase in range(step):  # padding first: it spills into what follows
                    here = e.offset(to, b.mul(segment, e.constant(phase)))
                    _fill(e, around, here, left_vectors)
                    _fill(e, around, e.offset(here, data_end), right_vectors)

                def block(j: ir.Value, _: list[ir.Value]) -> None:
                    at = b.mul(j, together)
                    values = [e.load(e.offset(begin, at), v * e.lanes) for v in range(step)]
                    split(values, data, j)

                e.loop(whole, block)
                with b.if_then(some):
                    at = b.mul(whole, together)
                    values = []
                    for v in range(step):
                        mask = e.lanes_below(b.sub(rest, e.constant(v * e.lanes)))
                        place = e.address(e.offset(begin, at), v * e.lanes, e.vector)
                        values.append(e.load_lanes(place, mask, around))
                    split(values, data, whole)
            with clearing:
                _fill(e, around, to, row_vectors)
        return [e.offset(to, pitch)]

    e.loop(rows, row, [target])


def _transpose(e: Emitter) -> None:
    """Emit ``transpose``: ``target[j * ld_target + i] = source[i * ld_source + j]``.

    For j below `columns` and i below `lanes`, at most VL; rows from `rows` on are taken as zeros.
    """
    source, ld_source, rows, columns, target, ld_target, lanes = e.arguments
    b = e.builder
    VL = e.constant(e.lanes)
    last = b.sub(rows, e.constant(1))
    live, starts = [], []
    for i in range(e.lanes):
        exists = b.icmp_signed("<", e.constant(i), rows)
        number = b.select(exists, e.constant(i), last)
        live.append(exists)
        starts.append(e.offset(source, b.mul(number, ld_source)))
    full_rows = b.icmp_signed("==", rows, VL)
    full_lanes = b.icmp_signed("==", lanes, VL)
    whole = b.sdiv(columns, VL)
    rest = b.srem(columns, VL)

    def block(index: ir.Value, _: list[ir.Value]) -> None:
        at = b.mul(index, VL)
        to = e.offset(target, b.mul(at, ld_target))
        for start in starts:  # so many rows are more streams than hardware follows
            e.prefetch(e.offset(start, b.add(at, e.constant(AHEAD * e.lanes))), False, 3)
        with b.if_else(b.and_(full_rows, full_lanes), likely=True) as (fast, careful):
            with fast:
                values = [e.load(start, at) for start in starts]
                for j, value in enumerate(e.transpose(values)):
                    e.store(value, e.offset(to, b.mul(ld_target, e.constant(j))), 0)
            with careful:
                values = [
                    b.select(exists, e.load(start, at), e.zeros)
                    for exists, start in zip(live, starts, strict=True)
                ]
                for j, value in enumerate(e.transpose(values)):
                    place = e.offset(to, b.mul(ld_target, e.constant(j)))
                    e.store_below(value, place, 0, lanes)

    e.loop(whole, block)
    with b.if_then(b.icmp_signed(">", rest, e.constant(0))):
        at = b.mul(whole, VL)
        mask = e.lanes_below(rest)
        to = e.offset(target, b.mul(at, ld_target))
        values = [
            b.select(exists, e.masked_load(start, at, mask), e.zeros)
            for exists, start in zip(live, starts, strict=True)
        ]
        for j, value in enumerate(e.transpose(values)):
            with b.if_then(b.icmp_signed("<", e.constant(j), rest), likely=True):
                place = e.offset(to, b.mul(ld_target, e.constant(j)))
                e.store_below(value, place, 0, lanes)


def _transpose_taps(e: Emitter, taps: int) -> None:
    """Emit ``transpose_taps``: filters ``[channel][lane][tap]`` become ``[channel][tap][lane]``.

    `rows` lanes exist, the others up to `lanes` become zeros; channels are `ld_source` and
    `ld_target` items apart, taps of the target `width`.
    """
    source, ld_source, rows, channels, target, ld_target, width, lanes = e.arguments
    b = e.builder
    last = b.sub(rows, e.constant(1))
    whole = b.icmp_signed("==", rows, e.constant(e.lanes))

    def emit(clamped: bool) -> None:
        def channel(index: ir.Value, _: list[ir.Value]) -> None:
            begin = e.offset(source, b.mul(index, ld_source))
            to = e.offset(target, b.mul(index, ld_target))
            later = e.offset(begin, b.mul(ld_source, e.constant(AHEAD)))
            for item in range(0, e.lanes * taps, LINE // e.dtype.itemsize):
                e.prefetch(e.offset(later, item), False, 3)
            for tap in range(0, taps, e.lanes):
                count = min(e.lanes, taps - tap)
                values = []
                for i in range(e.lanes):
                    if clamped:
                        exists = b.icmp_signed("<", e.constant(i), rows)
                        number = b.select(exists, e.constant(i), last)
                        start = e.offset(begin, b.mul(number, e.constant(taps)))
                        values.append(b.select(exists, e.load(start, tap, count), e.zeros))
                    else:
                        values.append(e.load(begin, i * taps + tap, count))
                for j, value in enumerate(e.transpose(values)[:count]):
                    place = e.offset(to, b.mul(width, e.constant(tap + j)))
                    if clamped:
                        e.store_below(value, place, 0, lanes)
                    else:
                        e.store(value, place, 0)

        e.loop(channels, channel)

    with b.if_else(whole, likely=True) as (fast, careful):
        with fast:
            emit(False)
        with careful:
            emit(True)


def _prefetch(e: Emitter) -> None:
    """Emit ``prefetch``: ask for `lines` cache lines at each of some places `step` bytes apart."""
    address, count, step, lines = e.arguments
    b = e.builder

    def place(index: ir.Value, _: list[ir.Value]) -> None:
        begin = b.add(address, b.mul(index, step))

        def line(number: ir.Value, _: list[ir.Value]) -> None:
            e.prefetch(b.add(begin, b.mul(number, e.constant(LINE))), False, 2)

        e.loop(lines, line)

    e.loop(count, place)


def _sum_lanes(e: Emitter) -> None:
    """Emit ``sum_lanes``: ``target[i]`` is the sum of the lanes of vector i at `vectors`."""
    vectors, count, target = e.arguments
    b = e.builder
    lanes = e.constant(e.lanes)
    last = b.sub(count, e.constant(1))

    def block(index: ir.Value, _: list[ir.Value]) -> None:
        first = b.mul(index, lanes)
        rows = []
        for i in range(e.lanes):
            number = b.add(first, e.constant(i))
            exists = b.icmp_signed("<", number, count)
            number = b.select(exists, number, last)  # read again, and not stored
            rows.append(e.load(vectors, b.mul(number, lanes)))
        sums = e.transpose(rows)
        while len(sums) > 1:
            sums = [b.fadd(sums[i], sums[i + 1]) for i in range(0, len(sums), 2)]
        e.store_below(sums[0], target, first, b.sub(count, first))

    e.loop(b.sdiv(b.add(count, e.constant(e.lanes - 1)), lanes), block)


@lru_cache
def sum_lanes_address(isa: Isa, dtype: np.dtype) -> int:
    """Return the address of ``sum_lanes``."""
    return kernel_address(SumLanes, _sum_lanes, isa, dtype)


@lru_cache
def prefetch_address(isa: Isa, dtype: np.dtype) -> int:
    """Return the address of ``prefetch``."""
    return kernel_address(Prefetch, _prefetch, isa, dtype)


@lru_cache
def transpose_taps_address(isa: Isa, dtype: np.dtype, taps: int) -> int:
    """Return the address of ``transpose_taps``, compiled for a dtype and a number of taps."""
    return kernel_address(TransposeTaps, _transpose_taps, isa, dtype, taps)


@lru_cache
def pad_address(isa: Isa, dtype: np.dtype, step: int = 1) -> int:
    """Return the address of ``pad``, compiled for a dtype and a distance of columns."""
    if step == 1:
        return kernel_address(Pad, _pad, isa, dtype)
    return kernel_address(Pad, _pad_phases, isa, dtype, step)


@lru_cache
def transpose_address(isa: Isa, dtype: np.dtype) -> int:
    """Return the address of ``transpose``, compiled for a dtype."""
    return kernel_address(Transpose, _transpose, isa, dtype)
