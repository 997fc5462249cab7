"""How LLVM IR is written, wherever it is: `Builder` for any code, `Emitter` for vector kernels.

A `Builder` also stands around numba's own `ir.IRBuilder`, for what is written inside an intrinsic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from llvmlite import ir

from lowerconv.codegen.isa import Isa
from lowerconv.codegen.transposing import transpose
from lowerconv.copying import not_copied

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
VOID = ir.VoidType()


def new_function(
    name: str, arguments: Sequence[str], result: ir.Type = VOID, module: ir.Module | None = None
) -> ir.IRBuilder:
    """Begin a function of 64-bit integers with these names, in a module of its own or in one."""
    kind = ir.FunctionType(result, [I64] * len(arguments))
    function = ir.Function(module or ir.Module(name), kind, name)
    for argument, text in zip(function.args, arguments, strict=True):
        argument.name = text
    return ir.IRBuilder(function.append_basic_block("entry"))


def item_bytes(item: ir.Type) -> int:
    """Return the size of an item of a vector."""
    return int(item.intrinsic_name[1:]) // 8  # such as f32


@not_copied("begin another function with `new_function`")
class Builder:
    """Writes instructions; the plain ones, such as additions, are its `builder`'s.

    Parameters
    ----------
    builder : ir.IRBuilder
        Stands where the next instruction goes: that of a `new_function`, or numba's.
    """

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder
        self.module: ir.Module = builder.module
        self.signature: Callable[..., Any] = lambda *arguments: list(arguments)

    @property
    def arguments(self) -> Any:
        """Those of the function: a list, or by the names of a signature."""
        return self.signature(*self.builder.function.args)

    def constant(self, value: int, kind: ir.IntType = I64) -> ir.Constant:
        """Return an integer, of 64 bits by default."""
        return ir.Constant(kind, value)

    def pointer(self, address: ir.Value, kind: ir.Type = I64) -> ir.Value:
        """Return an address, which is an integer, as a pointer to `kind`."""
        return self.builder.inttoptr(address, kind.as_pointer())

    def call(
        self,
        address: ir.Value,
        values: Sequence[ir.Value],
        result: ir.Type = VOID,
        fixed: int | None = None,
    ) -> ir.Value:
        """Call the function at an address; arguments beyond the first `fixed` are variable ones."""
        kinds = [value.type for value in values[:fixed]]
        kind = ir.FunctionType(result, kinds, var_arg=fixed is not None)
        return self.builder.call(self.pointer(address, kind), values)

    def call_named(self, name: str, values: Sequence[ir.Value], result: ir.Type = VOID) -> ir.Value:
        """Call a function of LLVM or of the system."""
        kind = ir.FunctionType(result, [value.type for value in values])
        function = self.module.globals.get(name) or ir.Function(self.module, kind, name)
        return self.builder.call(function, values)

    def read(self, pointer: ir.Value) -> ir.Value:
        """Load a 32-bit integer that another thread writes with `write`."""
        return self.builder.load_atomic(pointer, "acquire", 4)

    def write(self, value: ir.Value, pointer: ir.Value) -> None:
        """Store a 32-bit integer: who reads it also sees what was stored before."""
        self.builder.store_atomic(value, pointer, "release", 4)

    def prefetch(self, address: ir.Value, write: bool, level: int) -> None:
        """Ask for the cache line at an address: 3 is the nearest cache, 2 the next."""
        pointer = self.pointer(address, I8)
        name = "llvm.prefetch.p0" + ("" if str(pointer.type) == "ptr" else "i8")
        numbers = [self.constant(number, I32) for number in (int(write), level, 1)]
        self.call_named(name, [pointer, *numbers])

    def splat(self, value: ir.Value, lanes: int) -> ir.Value:
        """Return a vector with `value` in every lane."""
        kind = ir.VectorType(value.type, lanes)
        undefined = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(undefined, value, self.constant(0, I32))
        return self.shuffle(first, undefined, [0] * lanes)

    def shuffle(self, a: ir.Value, b: ir.Value, lanes: Sequence[int]) -> ir.Value:
        """Return chosen lanes of two vectors set side by side."""
        mask = ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes))
        return self.builder.shuffle_vector(a, b, mask)

    def lane_numbers(self, lanes: int) -> ir.Constant:
        """Return the vector of 32-bit integers 0, 1, 2, ..."""
        return ir.Constant(ir.VectorType(I32, lanes), list(range(lanes)))

    def lanes_between(self, first: ir.Value, last: ir.Value, lanes: int) -> ir.Value:
        """Return the mask of the lanes from `first` to before `last`, which may lie outside."""
        builder, sides = self.builder, []
        for value in (first, last):  # 64-bit numbers are cut to what a lane's number can be
            low, high = (self.constant(bound, value.type) for bound in (0, lanes))
            value = builder.select(builder.icmp_signed("<", value, low), low, value)
            value = builder.select(builder.icmp_signed(">", value, high), high, value)
            sides.append(self.splat(builder.trunc(value, I32), lanes))
        numbers = self.lane_numbers(lanes)
        return builder.and_(
            builder.icmp_signed(">=", numbers, sides[0]),
            builder.icmp_signed("<", numbers, sides[1]),
        )

    def load_lanes(self, pointer: ir.Value, mask: ir.Value, other: ir.Value) -> ir.Value:
        """Load the lanes of a vector that `mask` selects; elsewhere they are those of `other`."""
        name, size = self._masked("load", other.type, pointer)
        return self.call_named(name, [pointer, size, mask, other], other.type)

    def store_lanes(self, value: ir.Value, pointer: ir.Value, mask: ir.Value) -> None:
        """Store the lanes of a vector that `mask` selects."""
        name, size = self._masked("store", value.type, pointer)
        self.call_named(name, [value, pointer, size, mask])

    def store_run(self, value: ir.Value, pointer: ir.Value, first: int, last: int) -> None:
        """Store the lanes ``first .. last`` of a vector where they belong, in whole vectors."""
        item = value.type.element
        start = self.builder.bitcast(pointer, item.as_pointer())
        while first < last:
            size = 1 << (last - first).bit_length() - 1
            lane = self.constant(first)
            part = self.builder.extract_element(value, lane)
            if size > 1:
                part = self.shuffle(value, value, range(first, first + size))
            target = self.builder.gep(start, [lane], source_etype=item)
            target = self.builder.bitcast(target, part.type.as_pointer())
            self.builder.store(part, target, align=item_bytes(item))
            first += size

    def store_first(self, value: ir.Value, pointer: ir.Value, count: ir.Value) -> None:
        """Store the first lanes of a vector, any number of them, without a mask."""
        builder, item, lanes = self.builder, value.type.element, value.type.count
        every = builder.icmp_signed(">=", count, self.constant(lanes, count.type))
        with builder.if_else(every, likely=True) as (whole, parts):
            with whole:
                builder.store(value, pointer, align=item_bytes(item))
            with parts:
                start = builder.bitcast(pointer, item.as_pointer())
                zero = self.constant(0, count.type)
                left = builder.select(builder.icmp_signed("<", count, zero), zero, count)
                done, size = zero, lanes // 2
                while size:
                    bit = builder.and_(left, self.constant(size, count.type))
                    some = builder.icmp_signed("!=", bit, zero)
                    with builder.if_then(some):
                        target = builder.gep(start, [done], source_etype=item)
                        target = builder.bitcast(target, value.type.as_pointer())
                        self.store_run(value, target, 0, size)
                    others = [(lane + size) % lanes for lane in range(lanes)]
                    value = builder.select(some, self.shuffle(value, value, others), value)
                    done, size = builder.add(done, bit), size // 2

    def _masked(self, what: str, kind: ir.VectorType, pointer: ir.Value) -> tuple[str, ir.Value]:
        """Return LLVM's name of a masked load or store, and the size of an item in bytes."""
        vector = f"v{kind.count}{kind.element.intrinsic_name}"
        name = f"llvm.masked.{what}.{vector}.p0" + ("" if str(pointer.type) == "ptr" else vector)
        return name, self.constant(item_bytes(kind.element), I32)

    def block(self, name: str) -> ir.Block:
        """Return a new block of the function."""
        return self.builder.append_basic_block(name)

    def loop(
        self,
        count: ir.Value,
        body: Callable[[ir.Value, list[ir.Value]], Sequence[ir.Value] | None],
        carried: Sequence[ir.Value] = (),
    ) -> list[ir.Value]:
        """Run ``body(i, carried)`` for i in range(count); return what the last turn carried."""
        builder = self.builder
        before = builder.block
        head, after = self.block("loop"), self.block("after")
        empty = builder.icmp_signed("<=", count, self.constant(0))
        builder.cbranch(empty, after, head)
        builder.position_at_end(head)
        index = builder.phi(I64)
        phis = [builder.phi(value.type) for value in carried]
        results = body(index, list(phis)) or ()
        following = builder.add(index, self.constant(1))
        end = builder.block
        index.add_incoming(self.constant(0), before)
        index.add_incoming(following, end)
        for phi, value, result in zip(phis, carried, results, strict=True):
            phi.add_incoming(value, before)
            phi.add_incoming(result, end)
        builder.cbranch(builder.icmp_signed("<", following, count), head, after)
        builder.position_at_end(after)
        final = []
        for value, result in zip(carried, results, strict=True):
            phi = builder.phi(value.type)
            phi.add_incoming(value, before)
            phi.add_incoming(result, end)
            final.append(phi)
        return final

    def finish(self, result: ir.Value | None = None) -> ir.Module:
        """End the function and return its module."""
        if result is None:
            self.builder.ret_void()
        else:
            self.builder.ret(result)
        return self.module


class Emitter(Builder):
    """Writes one kernel: vectors of an instruction set, at addresses counted in items.

    Parameters
    ----------
    builder : ir.IRBuilder
        Of a `new_function`.
    isa, dtype
        What the function is generated for.

    Attributes
    ----------
    lanes : int
        VL, the items of a vector.
    scalar, vector : ir.Type
        Of an item, and of a vector of them.
    zeros, undefined : ir.Constant
        Vectors.
    """

    def __init__(self, builder: ir.IRBuilder, isa: Isa, dtype: np.dtype) -> None:
        super().__init__(builder)
        self.isa, self.dtype, self.lanes = isa, dtype, isa.lanes(dtype)
        self.scalar: ir.Type = ir.FloatType() if dtype.itemsize == 4 else ir.DoubleType()
        if dtype.kind == "i":
            self.scalar = ir.IntType(8 * dtype.itemsize)
        self.vector = ir.VectorType(self.scalar, self.lanes)
        self.zeros = ir.Constant(self.vector, [0 if dtype.kind == "i" else 0.0] * self.lanes)
        self.undefined = ir.Constant(self.vector, ir.Undefined)

    @classmethod
    def function(cls, name: str, signature: type[Any], isa: Isa, dtype: np.dtype) -> Emitter:
        """Begin a function ``void name(int64...)`` of a signature (`codegen.signatures`)."""
        builder = new_function(name, signature._fields)
        builder.function.attributes.add("nounwind")
        if isa.scalable:  # an attribute that llvmlite does not list
            granules = isa.bits // 128
            set.add(builder.function.attributes, f"vscale_range({granules},{granules})")
        e = cls(builder, isa, dtype)
        e.signature = signature
        return e

    def address(self, base: ir.Value, items: int | ir.Value, kind: ir.Type) -> ir.Value:
        """Return a pointer to `kind`, `items` elements of the dtype beyond the address `base`."""
        pointer = self.pointer(base, self.scalar)
        if isinstance(items, int):
            items = self.constant(items)
        pointer = self.builder.gep(pointer, [items], source_etype=self.scalar)
        return self.builder.bitcast(pointer, kind.as_pointer())

    def offset(self, base: ir.Value, items: int | ir.Value) -> ir.Value:
        """Return the address `items` elements of the dtype beyond `base`."""
        size = self.constant(self.dtype.itemsize)
        if isinstance(items, int):
            return self.builder.add(base, self.constant(items * self.dtype.itemsize))
        return self.builder.add(base, self.builder.mul(items, size))

    def load(self, base: ir.Value, items: int | ir.Value, valid: int | None = None) -> ir.Value:
        """Load a vector (the first `valid` lanes of it, zeros beyond); no alignment is assumed."""
        if valid is None or valid == self.lanes:
            pointer = self.address(base, items, self.vector)
            return self.builder.load(pointer, align=self.dtype.itemsize, typ=self.vector)
        return self.masked_load(base, items, self.first_lanes(valid))

    def load_first(self, base: ir.Value, items: int, count: int | ir.Value) -> ir.Value:
        """Load the first lanes of a vector, zeros beyond; their number may be known at run time."""
        if isinstance(count, int):
            return self.load(base, items, count)
        return self.masked_load(base, items, self.lanes_below(count))

    def masked_load(self, base: ir.Value, items: int | ir.Value, mask: ir.Value) -> ir.Value:
        """Load the lanes that `mask` selects, zeros elsewhere."""
        return self.load_lanes(self.address(base, items, self.vector), mask, self.zeros)

    def store(
        self,
        value: ir.Value,
        base: ir.Value,
        items: int | ir.Value,
        valid: int | ir.Value | None = None,
    ) -> None:
        """Store a vector, or its first `valid` lanes; their number may be known at run time."""
        if isinstance(valid, ir.Value):
            self.store_below(value, base, items, valid)
            return
        valid = self.lanes if valid is None else valid
        self.store_chosen(value, base, items, [lane < valid for lane in range(self.lanes)])

    def store_chosen(
        self, value: ir.Value, base: ir.Value, items: int | ir.Value, chosen: Sequence[bool]
    ) -> None:
        """Store some lanes of a vector."""
        pointer = self.address(base, items, self.vector)
        if all(chosen):
            self.builder.store(value, pointer, align=self.dtype.itemsize)
        elif self.isa.masks:
            self.store_lanes(value, pointer, self.mask(chosen))
        else:
            for some, lanes in groupby(range(self.lanes), key=chosen.__getitem__):
                first, *more = lanes
                if some:
                    self.store_run(value, pointer, first, first + len(more) + 1)

    def store_below(
        self, value: ir.Value, base: ir.Value, items: int | ir.Value, count: ir.Value
    ) -> None:
        """Store the first lanes of a vector, as many as a number known at run time."""
        pointer = self.address(base, items, self.vector)
        if self.isa.masks:
            self.store_lanes(value, pointer, self.lanes_below(count))
        else:
            self.store_first(value, pointer, count)

    def mask(self, chosen: Iterable[bool]) -> ir.Constant:
        """Return the mask of the chosen lanes."""
        return ir.Constant(ir.VectorType(I1, self.lanes), [int(some) for some in chosen])

    def first_lanes(self, valid: int) -> ir.Constant:
        """Return the mask of the lanes below `valid`."""
        return self.mask(i < valid for i in range(self.lanes))

    def lanes_below(self, count: ir.Value) -> ir.Value:
        """Return the mask of the lanes below a number known at run time."""
        limit = self.splat(self.builder.trunc(count, I32))
        return self.builder.icmp_signed("<", self.lane_numbers(self.lanes), limit)

    def load_i64(self, address: ir.Value, index: int) -> ir.Value:
        """Load a 64-bit integer of several that lie at an address."""
        pointer = self.builder.gep(self.pointer(address), [self.constant(index)], source_etype=I64)
        return self.builder.load(pointer, typ=I64)

    def entry(self, table: ir.Value, index: ir.Value) -> ir.Value:
        """Load an entry of a table of 32-bit integers."""
        pointer = self.builder.gep(self.pointer(table, I32), [index], source_etype=I32)
        return self.builder.sext(self.builder.load(pointer, typ=I32), I64)

    def splat(self, value: ir.Value, lanes: int | None = None) -> ir.Value:
        """Return a vector with `value` in every lane, VL of them by default."""
        return super().splat(value, lanes or self.lanes)

    def broadcast(self, base: ir.Value, items: int | ir.Value) -> ir.Value:
        """Load one item into every lane."""
        pointer = self.address(base, items, self.scalar)
        item = self.builder.load(pointer, align=self.dtype.itemsize, typ=self.scalar)
        return self.splat(item)

    def multiply_add(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """Return ``a * b + c``, rounded once where the CPU can."""
        if self.isa.fma:
            name = f"llvm.fma.v{self.lanes}{self.scalar.intrinsic_name}"
            return self.call_named(name, [a, b, c], self.vector)
        return self.builder.fadd(self.builder.fmul(a, b), c)

    def add(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """Return ``a + b``; integers wrap around."""
        return (self.builder.add if self.dtype.kind == "i" else self.builder.fadd)(a, b)

    def at_least(self, value: ir.Value, floor: ir.Value) -> ir.Value:
        """Return the larger of the two, NaN where `value` is NaN."""
        is_integer, b = self.dtype.kind == "i", self.builder
        below = (b.icmp_signed if is_integer else b.fcmp_ordered)("<", value, floor)
        return b.select(below, floor, value)

    def at_most(self, value: ir.Value, ceiling: ir.Value) -> ir.Value:
        """Return the smaller of the two, NaN where `value` is NaN."""
        above = self.builder.fcmp_ordered(">", value, ceiling)
        return self.builder.select(above, ceiling, value)

    def transpose(self, rows: Sequence[ir.Value]) -> list[ir.Value]:
        """Return the columns of a square of VL vectors."""
        return transpose(self, rows)
