"""The microkernel: MR rows of NV vectors of sums that stay in registers for the whole of k.

One generator, several ways to feed it.  At step k it loads NV vectors, broadcasts one item for each
of MR rows, and does MR x NV multiply-adds; or dot products, where an item is a word of several
numbers of fewer bits (`dots`).  Where the operands lie is data of the specification::

    vector v:     vector base    + columns[v] + k * vector_step     (or + table[k])
    broadcast i:  broadcast base + rows[i]    + k * broadcast_step  (or + table[k])

Where both take their offsets from the table, an entry is a pair.  So packed panels, rows of a
padded image and plain matrices are all read where they are: the taps of a filter are entries of the
table, and lowering costs one load of an offset per step.

What depends on the width of an image is no part of the specification, because every new width would
make new kernels: how many lanes the last vector of a row of pixels has, and how far rows of pixels
lie apart, are numbers in memory (`signatures.TileGeometry`).

Rows are what is broadcast: pixels where filters fill the vectors, filters where pixels do.  So MR
here is MR of the macro-kernel with filters in vectors, and its NR with pixels in them.

After Goto, van de Geijn, "Anatomy of high-performance matrix multiplication"; the broadcasts from
the image after Georganas et al., "Anatomy of high-performance deep learning convolutions on SIMD
architectures".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
from llvmlite import ir

from lowerconv.codegen import amx
from lowerconv.codegen.activation import RELU, Activation
from lowerconv.codegen.dots import WORDS, Words, dot_of
from lowerconv.codegen.emit import Emitter
from lowerconv.codegen.epilogue import Epilogue
from lowerconv.codegen.isa import LINE, Isa
from lowerconv.codegen.kernel import Kernel
from lowerconv.codegen.pixels import store_pixels
from lowerconv.codegen.signatures import Tile

FAR = 4  # pixels so far apart that a line is left alone


class Geometry(NamedTuple):
    """What a kernel has read of `TileGeometry`; None what it does not need."""

    lanes: ir.Value | None
    row: ir.Value | None
    out_row: ir.Value | None
    panels: amx.Panels | None = None


class Store(NamedTuple):
    """Where sums are stored, and what is done to them then."""

    out: ir.Value  #     address of the tile in the result
    ld_out: ir.Value  #  items from one row, or lane, to the next
    valid: ir.Value  #   rows, or lanes, that are stored
    epilogue: Epilogue
    add: bool  #         whether they are added to what is there
    geometry: Geometry


@dataclass(frozen=True)
class Microkernel(Kernel):
    """The specification of a register tile.

    Attributes
    ----------
    dtype : dtype
        Of the sums, which are stored as they are: float32, float64, or int32.
    rows : tuple of int
        Offset in items of each broadcast; there are MR of them.
    columns : tuple of int
        Offset in items of each vector; there are NV of them.
    broadcast_step, vector_step : int or None
        Items from one step to the next; None takes the offset from the table.
    lanes : tuple of int
        How many lanes of each vector exist; empty stands for all.
    tail : bool
        Whether the last vector of each row of pixels has the lanes that are said at run time; for
        store "rows", where the instruction set has masks.
    pixel_rows : tuple of int
        For store "rows": the row of pixels that each vector belongs to, where they are several;
        that many times `TileGeometry.row` and `out_row` are added to where it is read and stored.
    store : {"rows", "columns"}
        "rows": the lanes of a row are neighbours in the result.  "columns": the rows of a lane are,
        so the tile is transposed first.
    pixel_step : int
        Items from one pixel to the next in the result.
    prefetch_pixels : int
        Where not 0: the pixels are prefetched that many items ahead.
    result_rows : tuple of int
        For store "rows": which row of the result each row goes to; empty stands for 0, 1, 2, ...
    vector_places : tuple of int
        For store "rows": where in a row of the result each vector begins, in items; empty stands
        for one after the other.
    prefetch_vectors : int
        Where not 0: vectors are prefetched that many items ahead, because they come from a cache
        that is farther than L2, and hardware stops at the end of a page.
    activation : Activation
        The kind of what is applied to results last, where the mode has ``ACTIVATE``.
    words : Words or None
        What the operands' items hold; None: numbers of `dtype`.
    uses_amx : bool
        Whether sums are in tile registers, and operands lie as `amx` tells: `rows` and `columns`
        only count, and `broadcast_step` is that of the panel.

    Raises
    ------
    ValueError
        AMX is asked for where there is none, or where it has no products of `words`.
        `words` are none that there are dot products of, their sums are not of `dtype`, another
        activation than ReLU is asked for of integers, or a tail of vectors that have none.
    """

    name = "microkernel"
    signature: ClassVar[type[Any]] = Tile

    isa: Isa
    dtype: np.dtype
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    broadcast_step: int | None
    vector_step: int | None
    store: str
    lanes: tuple[int, ...] = ()
    tail: bool = False
    pixel_rows: tuple[int, ...] = ()
    pixel_step: int = 1
    prefetch_pixels: int = 0
    result_rows: tuple[int, ...] = ()
    vector_places: tuple[int, ...] = ()
    prefetch_vectors: int = 0
    activation: Activation = RELU
    words: Words | None = None
    uses_amx: bool = False

    def __post_init__(self) -> None:
        if self.uses_amx and not amx.has_tiles(self.isa, self.words):
            raise ValueError(
                f"uses_amx: got True for {self.words} on {self.isa.name}, expected words with AMX"
            )
        if self.words is not None and self.words not in WORDS:
            raise ValueError(f"words: got {self.words}, expected one of {WORDS}")
        if self.words is None and self.dtype.kind != "f":
            raise ValueError(f"dtype: got {self.dtype}, expected float32 or float64 without words")
        if self.words is not None and self.dtype != self.words.sums:
            raise ValueError(
                f"dtype: got {self.dtype}, expected {self.words.sums} for words {self.words}"
            )
        if self.activation != RELU and self.dtype.kind == "i":
            raise ValueError(f"activation: got {self.activation}, expected RELU for {self.dtype}")
        if self.tail and (self.lanes or self.store != "rows" or not self.isa.masks):
            raise ValueError('tail: got True, expected store "rows", no lanes, and masks')

    @property
    def MR(self) -> int:
        """Rows of the tile."""
        return len(self.rows)

    @property
    def NV(self) -> int:
        """Vectors of the tile."""
        return len(self.columns)

    @property
    def table_columns(self) -> int:
        """How many of the operands take their offsets from the table: a column for each."""
        return (self.vector_step is None) + (self.broadcast_step is None)

    @property
    def tails(self) -> tuple[bool, ...]:
        """Which vectors have the lanes that are said at run time."""
        rows = self.pixel_rows or (0,) * self.NV
        following = (*rows[1:], None)
        return tuple(self.tail and row != later for row, later in zip(rows, following, strict=True))

    def emit(self, e: Emitter) -> None:
        """Write the instructions of the function."""
        tile = e.arguments
        geometry = self._read_geometry(e)
        self._prefetch_result(e, tile.out, tile.ld_out, geometry)
        sums = self._loop_over_k(e, tile, geometry)
        epilogue = Epilogue(e, tile.mode, self.activation, tile.constants)
        store = self._store_rows if self.store == "rows" else self._store_columns
        epilogue.for_each_mode(
            lambda add: store(
                e, sums, Store(tile.out, tile.ld_out, tile.valid, epilogue, add, geometry)
            )
        )

    def _read_geometry(self, e: Emitter) -> Geometry:
        at, several = e.arguments.geometry, bool(self.pixel_rows)
        wanted = self.tail, several, several
        geometry = Geometry(*(e.load_i64(at, i) if want else None for i, want in enumerate(wanted)))
        if not self.uses_amx:
            return geometry
        return geometry._replace(
            panels=amx.Panels(*(e.load_i64(at, len(wanted) + i) for i in range(3)))
        )

    def _pixel_row(self, e: Emitter, start: ir.Value, v: int, step: ir.Value | None) -> ir.Value:
        """Return where the row of pixels of a vector begins, rows that are `step` items apart."""
        if step is None:
            return start
        return e.offset(start, e.builder.mul(step, e.constant(self.pixel_rows[v])))

    def _prefetch_result(
        self, e: Emitter, out: ir.Value, ld_out: ir.Value, geometry: Geometry
    ) -> None:
        """Prefetch the lines that the result goes to, so that they arrive while the sums run."""
        if self.pixel_step > FAR:
            return
        per_line = LINE // self.dtype.itemsize
        rows = self.pixel_rows or (0,) * self.NV
        if self.store == "rows":
            numbers = self.result_rows or tuple(range(self.MR))
            reach = e.lanes * self.pixel_step
            begins = [(self._vector_place(e, v), v) for v in range(self.NV)]
        else:
            numbers, begins = tuple(range(self.NV * e.lanes)), [(0, 0)]
            reach = self.MR * self.pixel_step
        steps = (*range(0, reach, per_line), reach - 1)
        items = {(rows[v], begin + step): v for begin, v in begins for step in steps}
        for number in numbers:
            start = e.offset(out, e.builder.mul(ld_out, e.constant(number)))
            for (_, item), v in sorted(items.items()):
                e.prefetch(e.offset(self._pixel_row(e, start, v, geometry.out_row), item), True, 3)

    def _prefetch_ahead(self, e: Emitter, row: ir.Value, itemsize: int, tiles: int) -> None:
        """Prefetch what the next tiles have of a row of the result, of items so large.

        Rows of tiles of AMX are more streams than hardware follows, and their sums take no time.
        """
        size = self.NV * e.lanes * itemsize
        for ahead in range(size, (1 + tiles) * size, LINE):
            e.prefetch(e.builder.add(row, e.constant(ahead)), True, 3)

    def _vector_place(self, e: Emitter, v: int) -> int:
        """Return where in a row of the result a vector begins."""
        return self.vector_places[v] if self.vector_places else v * e.lanes * self.pixel_step

    def _loop_over_k(
        self, e: Emitter, tile: Any, geometry: Geometry
    ) -> Sequence[Sequence[ir.Value]]:
        """Emit the loop over k; return the sums, by row and vector.

        `tile` are the arguments of the function, of the class `signature`.
        """
        if geometry.panels is not None and self.words is not None:
            filters, size = (tile.broadcasts, self.broadcast_step or 0), (self.MR, self.NV)
            return amx.tile_sums(
                e, self.words, size, tile.k, tile.vectors, filters, geometry.panels, tile.bias
            )
        if self.store == "rows":
            first = [e.broadcast(tile.bias, i) for i in range(self.MR)]
            starts = [first[i] for i in range(self.MR) for _ in range(self.NV)]
        else:
            first = [e.load(tile.bias, v * e.lanes) for v in range(self.NV)]
            starts = [first[v] for _ in range(self.MR) for v in range(self.NV)]
        dot, count = dot_of(self.isa, self.words), self.MR * self.NV
        if dot.corrects:
            starts += [e.zeros] * self.NV

        def step(index: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            vector, broadcast, *sums = carried
            vector_at, broadcast_at = vector, broadcast
            if self.vector_step is None:
                vector_at = e.offset(tile.vectors, self._entry(e, tile.table, index, 0))
            if self.broadcast_step is None:
                last = self._entry(e, tile.table, index, self.table_columns - 1)
                broadcast_at = e.offset(tile.broadcasts, last)
            if self.prefetch_pixels:
                if self.store == "rows":
                    for column in self.columns:
                        e.prefetch(e.offset(vector_at, column + self.prefetch_pixels), False, 3)
                else:
                    e.prefetch(e.offset(broadcast_at, self.prefetch_pixels), False, 3)
            if self.prefetch_vectors:
                per_line = LINE // self.dtype.itemsize
                for line in sorted({column // per_line for column in self.columns}):
                    place = e.offset(vector_at, line * per_line + self.prefetch_vectors)
                    e.prefetch(place, False, 3)
            loaded = [self._load(e, vector_at, v, geometry) for v in range(self.NV)]
            ready = [dot.ready_vector(e, vector_loaded) for vector_loaded in loaded]
            results = []
            for i, row in enumerate(self.rows):
                item = dot.ready_broadcast(e, e.broadcast(broadcast_at, row))
                for v, operand in enumerate(ready):
                    results.append(dot.add(e, sums[i * self.NV + v], operand, item))
            if dot.corrects:
                corrections = zip(sums[count:], ready, strict=True)
                results += [dot.correction(e, total, operand) for total, operand in corrections]
            vector = e.offset(vector, self.vector_step or 0)
            broadcast = e.offset(broadcast, self.broadcast_step or 0)
            return [vector, broadcast, *results]

        _, _, *sums = e.loop(tile.k, step, [tile.vectors, tile.broadcasts, *starts])
        if dot.corrects:
            sums = [e.builder.sub(sums[j], sums[count + j % self.NV]) for j in range(count)]
        return [sums[i * self.NV : (i + 1) * self.NV] for i in range(self.MR)]

    def _load(self, e: Emitter, base: ir.Value, v: int, geometry: Geometry) -> ir.Value:
        """Load a vector of a step."""
        base, column = self._pixel_row(e, base, v, geometry.row), self.columns[v]
        return e.load_first(base, column, self._lanes(e, v, geometry))

    def _lanes(self, e: Emitter, v: int, geometry: Geometry) -> int | ir.Value:
        """Return how many lanes of a vector exist."""
        if self.tails[v] and geometry.lanes is not None:
            return geometry.lanes
        return self.lanes[v] if self.lanes else e.lanes

    def _entry(self, e: Emitter, table: ir.Value, index: ir.Value, column: int) -> ir.Value:
        """Load an entry of step `index` from the table."""
        place = e.builder.mul(index, e.constant(self.table_columns))
        return e.entry(table, e.builder.add(place, e.constant(column)))

    def _store_rows(self, e: Emitter, sums: Sequence[Sequence[ir.Value]], to: Store) -> None:
        """Store lane j of row i at ``out + i * ld_out + j * pixel_step``."""
        for i, row in enumerate(sums):
            some = e.builder.icmp_signed("<", e.constant(i), to.valid)
            with e.builder.if_then(some, likely=True):
                number = self.result_rows[i] if self.result_rows else i
                target = self._row(e, to, number)
                for v, value in enumerate(row):
                    lanes = self._lanes(e, v, to.geometry)
                    at = self._target(e, target, v, to.geometry)
                    self._put(e, value, at, self._vector_place(e, v), lanes, to)

    def _store_columns(self, e: Emitter, sums: Sequence[Sequence[ir.Value]], to: Store) -> None:
        """Store lane f of row i at ``out + f * ld_out + i * pixel_step``."""
        builder, lanes = e.builder, e.lanes
        for v in range(self.NV):
            for i in range(0, self.MR, lanes):
                rows = [row[v] for row in sums[i : i + lanes]]
                filters = e.transpose(rows + [e.undefined] * (lanes - len(rows)))
                for lane, value in enumerate(filters):
                    number = v * lanes + lane
                    some = builder.icmp_signed("<", e.constant(number), to.valid)
                    with builder.if_then(some, likely=True):
                        target = self._row(e, to, number)
                        self._put(e, value, target, i * self.pixel_step, len(rows), to)

    def _row(self, e: Emitter, to: Store, number: int) -> ir.Value:
        """Return the address of a row of the result."""
        return e.offset(to.out, e.builder.mul(to.ld_out, e.constant(number)))

    def _target(self, e: Emitter, row: ir.Value, v: int, geometry: Geometry) -> ir.Value:
        """Return the address of a vector's row of pixels in a row of the result."""
        return self._pixel_row(e, row, v, geometry.out_row)

    def _put(
        self,
        e: Emitter,
        value: ir.Value,
        row: ir.Value,
        first: int,
        count: int | ir.Value,
        to: Store,
    ) -> None:
        """Store the first lanes of a vector in a row of the result, from item `first` on."""
        step = self.pixel_step
        store_pixels(e, value, row, first, count, epilogue=to.epilogue, add=to.add, step=step)


@lru_cache
def rows_max(isa: Isa, NV: int, words: Words | None = None) -> int:
    """Return the most rows of NV vectors whose sums stay in registers beside the operands.

    0 where not even one row would.
    """
    return max(0, min(2 * isa.rows // NV, dot_of(isa, words).rows(isa, NV)))
