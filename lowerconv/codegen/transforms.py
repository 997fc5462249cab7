"""Winograd's transforms for F(4x4, 3x3) as generated code: vectors over channels, or over filters.

Four by four pixels of the result take 36 products instead of 144::

    Y = AT [ (G g GT) * (BT d B) ] A        d: 6x6 pixels, g: 3x3 taps, Y: 4x4 pixels

A vector holds the same pixel of VL channels, so that images of any size fill it, and no transform
moves anything across lanes: that is left to `planes_to_vectors` and `vectors_to_planes`, the copies
between planes of pixels and vectors of channels.

After Winograd, "Arithmetic complexity of computations" (1980) and Lavin, Gray, "Fast algorithms for
convolutional neural networks" (2016), section 4; the points of the interpolation are chosen as in
Barabasz et al., "Error analysis and improving the accuracy of Winograd convolution for deep neural
networks" (2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from math import prod

import numpy as np
from llvmlite import ir

from lowerconv.codegen.activation import RELU, Activation
from lowerconv.codegen.emit import Emitter
from lowerconv.codegen.epilogue import Epilogue
from lowerconv.codegen.isa import Isa
from lowerconv.codegen.kernel import kernel_address
from lowerconv.codegen.signatures import (
    PlanesToVectors,
    TransformFilters,
    TransformSource,
    TransformTarget,
    VectorsToPlanes,
)

TILE, R = 4, 3  #         pixels of the result, taps
ALPHA = TILE + R - 1  #   pixels that they read
POINTS_2D = ALPHA * ALPHA

# Where polynomials are evaluated, besides infinity.  In pairs, which share half of the work; with
# these the rounding errors are less than half of those with 0, +-1, +-2.
POINTS = (Fraction(0), Fraction(5, 8), Fraction(-5, 8), Fraction(3, 2), Fraction(-3, 2))
AHEAD = 8  # blocks that are prefetched ahead

Matrix = tuple[tuple[Fraction, ...], ...]


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """Return the coefficients, lowest first, of the polynomial with these roots."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        scaled = [-root * c for c in coefficients] + [Fraction(0)]
        coefficients = [a + b for a, b in zip(shifted, scaled, strict=True)]
    return coefficients


def matrices(m: int = TILE) -> tuple[Matrix, Matrix, Matrix]:
    """Return AT (m x 6), G (6 x (7 - m)) and BT (6 x 6), by Cook and Toom's construction."""
    r = ALPHA + 1 - m
    others = [[q for q in POINTS if q != p] for p in POINTS]
    AT = tuple((*(p**i for p in POINTS), Fraction(int(i == m - 1))) for i in range(m))
    G = tuple(
        tuple(p**i / prod((p - q for q in rest), start=Fraction(1)) for i in range(r))
        for p, rest in zip(POINTS, others, strict=True)
    )
    BT = tuple((*_polynomial(rest), Fraction(0)) for rest in others)
    last = tuple(Fraction(int(i == r - 1)) for i in range(r))
    return AT, (*G, last), (*BT, tuple(_polynomial(POINTS)))


def _sum(e: Emitter, terms: Sequence[tuple[Fraction, ir.Value]]) -> ir.Value:
    """Return the sum of some values, each times a constant."""
    terms = sorted((t for t in terms if t[0]), key=lambda term: term[0] != 1)
    factor, total = terms[0]
    if factor != 1:
        total = e.builder.fmul(_constant(e, factor), total)
    for factor, value in terms[1:]:
        if factor == 1:
            total = e.builder.fadd(total, value)
        elif factor == -1:
            total = e.builder.fsub(total, value)
        else:
            total = e.multiply_add(_constant(e, factor), value, total)
    return total


def _constant(e: Emitter, factor: Fraction) -> ir.Constant:
    return ir.Constant(e.vector, [float(factor)] * e.lanes)


def _pairs(lines: Sequence[Sequence[Fraction]]) -> list[tuple[int, int]]:
    """Return the lines that differ from each other in signs only."""
    numbers = range(len(lines))
    return [
        (i, j)
        for i in numbers
        for j in numbers[i + 1 :]
        if lines[i] != lines[j] and list(map(abs, lines[i])) == list(map(abs, lines[j]))
    ]


def _product(e: Emitter, matrix: Matrix, values: Sequence[ir.Value]) -> list[ir.Value]:
    """Return the product of a matrix with a column; lines for points +p and -p share their work."""
    matrix, values = _fold(e, matrix, values)
    results: dict[int, ir.Value] = {}
    for i, j in _pairs(matrix):
        terms = list(zip(matrix[i], matrix[j], values, strict=True))
        even = [(a, value) for a, b, value in terms if a and a == b]
        odd = [(a, value) for a, b, value in terms if a and a == -b]
        if even and odd:
            lead = odd[-1][0]
            common, signed = _sum(e, even), _sum(e, [(a / lead, value) for a, value in odd])
            results[i] = _sum(e, [(Fraction(1), common), (lead, signed)])
            results[j] = _sum(e, [(Fraction(1), common), (-lead, signed)])
    for i, row in enumerate(matrix):
        if i not in results:
            results[i] = _sum(e, list(zip(row, values, strict=True)))
    return [results[i] for i in range(len(matrix))]


def _fold(e: Emitter, matrix: Matrix, values: Sequence[ir.Value]) -> tuple[Matrix, list[ir.Value]]:
    """Replace pairs of columns by their sum and their difference, where there are fewer rows."""
    columns = list(zip(*matrix, strict=True))
    values = list(values)
    pairs = _pairs(columns) if len(matrix) < len(columns) else []
    for i, j in pairs:
        a, b = values[i], values[j]
        values[i], values[j] = e.builder.fadd(a, b), e.builder.fsub(a, b)
        same = [x == y for x, y in zip(columns[i], columns[j], strict=True)]
        first, zero = columns[i], Fraction(0)
        columns[i] = tuple(x if s else zero for x, s in zip(first, same, strict=True))
        columns[j] = tuple(zero if s else x for x, s in zip(first, same, strict=True))
    return tuple(zip(*columns, strict=True)), values


def _transform_source(e: Emitter, matrix: Matrix) -> None:
    """Emit ``transform_source``: BT d B of `count` tiles that follow each other in a row.

    Pixels are vectors, `pitch` items from one row to the next, tiles four pixels apart; point i of
    tile t goes to ``target + i * step + t * VL``.  A `matrix` of four columns, instead of BT's six,
    takes tiles of 4x4 pixels.
    """
    source, pitch, count, target, step = e.arguments
    b = e.builder
    extent = len(matrix[0])
    lines = [b.mul(pitch, e.constant(i)) for i in range(extent)]
    spots = [b.mul(step, e.constant(i)) for i in range(POINTS_2D)]

    def tile(index: ir.Value, _: list[ir.Value]) -> None:
        begin = e.offset(source, b.mul(index, e.constant(TILE * e.lanes)))
        to = e.offset(target, b.mul(index, e.constant(e.lanes)))
        # A few rows of the result at a time: all that they need stays in registers.
        paired = [i for pair in _pairs(matrix) for i in pair]
        groups = [(i,) for i in range(ALPHA) if i not in paired] + _pairs(matrix)
        for group in groups:
            rows = tuple(matrix[i] for i in group)
            half = []
            for j in range(extent):
                column = [
                    e.load(e.offset(begin, lines[i]), j * e.lanes)
                    if any(row[i] for row in rows)
                    else e.undefined
                    for i in range(extent)
                ]
                half.append(_product(e, rows, column))
            for number, i in enumerate(group):
                for j, value in enumerate(_product(e, matrix, [column[number] for column in half])):
                    e.store(value, e.offset(to, spots[i * ALPHA + j]), 0)

    e.loop(count, tile)


def _transform_target(e: Emitter, matrix: Matrix) -> None:
    """Emit ``transform_target``: AT m A of `count` tiles, the last one first.

    Point i of tile t is at ``source + i * step + t * width``; pixels go to `target`, `row` items
    from one row to the next, `advance` from one tile to the next.  All are stored: those of the
    last tile beyond the end of a row are overwritten when the first tile, or the next row, is
    stored.
    """
    source, step, width, count, target, row, advance = e.arguments
    b = e.builder
    spots = [b.mul(step, e.constant(i)) for i in range(POINTS_2D)]

    def tile(index: ir.Value, _: list[ir.Value]) -> None:
        number = b.sub(b.sub(count, e.constant(1)), index)
        begin = e.offset(source, b.mul(number, width))
        to = e.offset(target, b.mul(number, advance))
        half = []
        for j in range(ALPHA):
            column = [e.load(e.offset(begin, spots[i * ALPHA + j]), 0) for i in range(ALPHA)]
            half.append(_product(e, matrix, column))
        for i in range(len(matrix)):
            line = e.offset(to, b.mul(row, e.constant(i)))
            for j, value in enumerate(_product(e, matrix, [column[i] for column in half])):
                e.store(value, line, j * e.lanes)

    e.loop(count, tile)


def _transform_filters(e: Emitter, transposed: bool) -> None:
    """Emit ``transform_filters``: G g GT of `count` channels, a vector of filters each.

    Tap i of channel c is at ``source + (9 c + i) * width``; point i goes to ``target + i * step +
    c * width``.  `transposed` filters are rotated by 180 degrees, as for the input gradient.
    """
    source, count, width, target, step = e.arguments
    b = e.builder
    G = matrices()[1]
    taps = [b.mul(width, e.constant(i)) for i in range(R * R)]
    if transposed:
        taps.reverse()
    spots = [b.mul(step, e.constant(i)) for i in range(POINTS_2D)]

    def channel(index: ir.Value, _: list[ir.Value]) -> None:
        at = b.mul(index, width)
        begin = e.offset(source, b.mul(at, e.constant(R * R)))
        to = e.offset(target, at)
        half = []
        for j in range(R):
            column = [e.load(e.offset(begin, taps[i * R + j]), 0) for i in range(R)]
            half.append(_product(e, G, column))
        for i in range(ALPHA):
            for j, value in enumerate(_product(e, G, [column[i] for column in half])):
                e.store(value, e.offset(to, spots[i * ALPHA + j]), 0)

    e.loop(count, channel)


def _planes_to_vectors(e: Emitter) -> None:
    """Emit ``planes_to_vectors``: `pixels` pixels of `rows` planes become vectors of VL channels.

    Plane i begins at ``source + i * step``, those from `rows` on count as zeros; pixel j becomes
    the vector at ``target + places[j]`` (items, 32-bit).
    """
    source, step, rows, pixels, places, target = e.arguments
    b = e.builder
    VL = e.constant(e.lanes)
    whole, rest = b.sdiv(pixels, VL), b.srem(pixels, VL)
    last = b.sub(rows, e.constant(1))
    exists = [b.icmp_signed("<", e.constant(i), rows) for i in range(e.lanes)]
    starts = [
        e.offset(source, b.mul(step, b.select(some, e.constant(i), last)))
        for i, some in enumerate(exists)
    ]

    def place(number: ir.Value) -> ir.Value:
        return e.offset(target, e.entry(places, number))

    def block(index: ir.Value, _: list[ir.Value]) -> None:
        at = b.mul(index, VL)
        for start in starts:
            e.prefetch(e.offset(start, b.add(at, e.constant(AHEAD * e.lanes))), False, 3)
        values = [
            b.select(some, e.load(start, at), e.zeros)
            for some, start in zip(exists, starts, strict=True)
        ]
        for j, value in enumerate(e.transpose(values)):
            e.store(value, place(b.add(at, e.constant(j))), 0)

    e.loop(whole, block)
    with b.if_then(b.icmp_signed(">", rest, e.constant(0))):
        at = b.mul(whole, VL)
        mask = e.lanes_below(rest)
        values = [
            b.select(some, e.masked_load(start, at, mask), e.zeros)
            for some, start in zip(exists, starts, strict=True)
        ]
        for j, value in enumerate(e.transpose(values)):
            with b.if_then(b.icmp_signed("<", e.constant(j), rest), likely=True):
                e.store(value, place(b.add(at, e.constant(j))), 0)


def _vectors_to_planes(e: Emitter, activation: Activation) -> None:
    """Emit ``vectors_to_planes``: `pixels` vectors of VL filters become pixels of `rows` planes.

    Plane i begins at ``target + i * step``.  A vector of biases is added, then what is there
    (`mode`), then comes the activation.
    """
    source, pixels, rows, target, step, bias, mode, constants = e.arguments
    b = e.builder
    VL = e.constant(e.lanes)
    epilogue = Epilogue(e, mode, activation, constants)
    first = e.load(bias, 0)
    whole, rest = b.sdiv(pixels, VL), b.srem(pixels, VL)

    def planes(values: list[ir.Value], at: ir.Value, count: ir.Value | None) -> None:
        def store(value: ir.Value, line: ir.Value) -> None:
            value = epilogue.apply(value)
            if count is None:
                e.store(value, line, at)
            else:
                e.store_below(value, line, at, count)

        for i, value in enumerate(e.transpose(values)):
            with b.if_then(b.icmp_signed("<", e.constant(i), rows), likely=True):
                line = e.offset(target, b.mul(step, e.constant(i)))
                with b.if_else(epilogue.adds, likely=False) as (adding, plain):
                    with adding:
                        if count is None:
                            there = e.load(line, at)
                        else:
                            there = e.masked_load(line, at, e.lanes_below(count))
                        store(b.fadd(there, value), line)
                    with plain:
                        store(value, line)

    def block(index: ir.Value, _: list[ir.Value]) -> None:
        at = b.mul(index, VL)
        begin = e.offset(source, b.mul(at, VL))
        values = [b.fadd(e.load(begin, j * e.lanes), first) for j in range(e.lanes)]
        planes(values, at, None)

    e.loop(whole, block)
    with b.if_then(b.icmp_signed(">", rest, e.constant(0))):
        at = b.mul(whole, VL)
        begin = e.offset(source, b.mul(at, VL))
        values = []
        for j in range(e.lanes):
            exists = b.icmp_signed("<", e.constant(j), rest)
            number = b.select(exists, e.constant(j * e.lanes), e.constant(0))
            values.append(b.fadd(e.load(begin, number), first))
        planes(values, at, rest)


@lru_cache
def transform_source_address(isa: Isa, dtype: np.dtype, extent: int = ALPHA) -> int:
    """Return the address of ``transform_source``, for tiles of 6x6 pixels or of 4x4 (of dy)."""
    matrix = matrices()[2] if extent == ALPHA else matrices(R)[1]
    return kernel_address(TransformSource, _transform_source, isa, dtype, matrix)


@lru_cache
def transform_target_address(isa: Isa, dtype: np.dtype, m: int = TILE) -> int:
    """Return the address of ``transform_target``, for 4x4 pixels or for 3x3 taps."""
    matrix = matrices(m)[0]
    return kernel_address(TransformTarget, _transform_target, isa, dtype, matrix)


@lru_cache
def transform_filters_address(isa: Isa, dtype: np.dtype, transposed: bool) -> int:
    """Return the address of ``transform_filters``."""
    return kernel_address(TransformFilters, _transform_filters, isa, dtype, transposed)


@lru_cache
def planes_to_vectors_address(isa: Isa, dtype: np.dtype) -> int:
    """Return the address of ``planes_to_vectors``."""
    return kernel_address(PlanesToVectors, _planes_to_vectors, isa, dtype)


@lru_cache
def vectors_to_planes_address(isa: Isa, dtype: np.dtype, activation: Activation = RELU) -> int:
    """Return the address of ``vectors_to_planes``."""
    return kernel_address(VectorsToPlanes, _vectors_to_planes, isa, dtype, activation)
