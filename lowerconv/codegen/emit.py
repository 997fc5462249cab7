"""What the generators of LLVM IR share: vector types, loads, masks, products, transposes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir

from lowerconv.codegen.isa import Isa
from lowerconv.copying import not_copied

I1, I8, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 32, 64))


@not_copied("begin another with `Emitter.function`")
@dataclass
class Emitter:
    """Builds one function of a module of its own; addresses are integers until they are used.

    Attributes
    ----------
    isa, dtype
        What the function is generated for.
    builder : ir.IRBuilder
        Stands where the next instruction goes.
    arguments : list of ir.Argument
        All of them 64-bit integers (addresses, extents).
    """

    isa: Isa
    dtype: np.dtype
    builder: ir.IRBuilder
    arguments: list[ir.Argument]

    @classmethod
    def function(cls, name: str, signature: type[Any], isa: Isa, dtype: np.dtype) -> Emitter:
        """Begin a function ``void name(int64...)`` of a signature (`codegen.signatures`)."""
        module = ir.Module(name)
        names = signature._fields
        kind = ir.FunctionType(ir.VoidType(), [I64] * len(names))
        function = ir.Function(module, kind, name)
        function.attributes.add("nounwind")
        for argument, text in zip(function.args, names, strict=True):
            argument.name = text
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        return cls(isa, dtype, builder, list(function.args))

    def __post_init__(self) -> None:
        self.scalar: ir.Type = ir.FloatType() if self.dtype.itemsize == 4 else ir.DoubleType()
        self.lanes = self.isa.lanes(self.dtype)
        self.vector = ir.VectorType(self.scalar, self.lanes)
        self.module: ir.Module = self.builder.module

    def constant(self, value: int) -> ir.Constant:
        """Return a 64-bit integer."""
        return ir.Constant(I64, value)

    def address(self, base: ir.Value, items: int | ir.Value, kind: ir.Type) -> ir.Value:
        """Return a pointer to `kind`, `items` elements of the dtype beyond the address `base`."""
        pointer = self.builder.inttoptr(base, ir.PointerType(self.scalar))
        if isinstance(items, int):
            items = self.constant(items)
        pointer = self.builder.gep(pointer, [items], source_etype=self.scalar)
        return self.builder.bitcast(pointer, ir.PointerType(kind))

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

    def masked_load(self, base: ir.Value, items: int | ir.Value, mask: ir.Value) -> ir.Value:
        """Load the lanes that `mask` selects, zeros elsewhere."""
        pointer = self.address(base, items, self.vector)
        size = self.dtype.itemsize
        function = self._masked("load", [pointer.type, I32, mask.type, self.vector], self.vector)
        zero = ir.Constant(self.vector, [0.0] * self.lanes)
        return self.builder.call(function, [pointer, ir.Constant(I32, size), mask, zero])

    def store(
        self, value: ir.Value, base: ir.Value, items: int | ir.Value, valid: int | None = None
    ) -> None:
        """Store a vector, or its first `valid` lanes."""
        if valid is None or valid == self.lanes:
            pointer = self.address(base, items, self.vector)
            self.builder.store(value, pointer, align=self.dtype.itemsize)
        else:
            self.masked_store(value, base, items, self.first_lanes(valid))

    def masked_store(
        self, value: ir.Value, base: ir.Value, items: int | ir.Value, mask: ir.Value
    ) -> None:
        """Store the lanes that `mask` selects."""
        pointer = self.address(base, items, self.vector)
        size = ir.Constant(I32, self.dtype.itemsize)
        kinds = [self.vector, pointer.type, I32, mask.type]
        function = self._masked("store", kinds, ir.VoidType())
        self.builder.call(function, [value, pointer, size, mask])

    def prefetch(self, address: ir.Value, write: bool, level: int) -> None:
        """Ask for the cache line at an address: 3 is the nearest cache, 2 the next."""
        pointer = self.builder.inttoptr(address, ir.PointerType(I8))
        name = "llvm.prefetch.p0" + ("" if str(pointer.type) == "ptr" else "i8")
        function = self.module.globals.get(name) or ir.Function(
            self.module, ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32]), name
        )
        numbers = [ir.Constant(I32, number) for number in (int(write), level, 1)]
        self.builder.call(function, [pointer, *numbers])

    def _masked(self, what: str, kinds: list[ir.Type], result: ir.Type) -> ir.Function:
        """Declare ``llvm.masked.load`` or ``llvm.masked.store`` for the vector type."""
        item = f"v{self.lanes}f{self.dtype.itemsize * 8}"
        pointer = kinds[0] if what == "load" else kinds[1]
        opaque = str(pointer) == "ptr"
        name = f"llvm.masked.{what}.{item}.p0" + ("" if opaque else item)
        if name in self.module.globals:
            return self.module.globals[name]
        return ir.Function(self.module, ir.FunctionType(result, kinds), name)

    def first_lanes(self, valid: int) -> ir.Constant:
        """Return the mask of the lanes below `valid`."""
        kind = ir.VectorType(I1, self.lanes)
        return ir.Constant(kind, [int(i < valid) for i in range(self.lanes)])

    def lanes_below(self, count: ir.Value) -> ir.Value:
        """Return the mask of the lanes below a number known at run time."""
        kind = ir.VectorType(I32, self.lanes)
        numbers = ir.Constant(kind, list(range(self.lanes)))
        count = self.splat(self.builder.trunc(count, I32), kind)
        return self.builder.icmp_signed("<", numbers, count)

    def entry(self, table: ir.Value, index: ir.Value) -> ir.Value:
        """Load an entry of a table of 32-bit integers."""
        pointer = self.builder.inttoptr(table, ir.PointerType(I32))
        pointer = self.builder.gep(pointer, [index], source_etype=I32)
        return self.builder.sext(self.builder.load(pointer, typ=I32), I64)

    def splat(self, value: ir.Value, kind: ir.VectorType | None = None) -> ir.Value:
        """Return a vector with `value` in every lane."""
        kind = kind or self.vector
        undefined = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(undefined, value, ir.Constant(I32, 0))
        mask = ir.Constant(ir.VectorType(I32, kind.count), [0] * kind.count)
        return self.builder.shuffle_vector(first, undefined, mask)

    def broadcast(self, base: ir.Value, items: int | ir.Value) -> ir.Value:
        """Load one item into every lane."""
        pointer = self.address(base, items, self.scalar)
        item = self.builder.load(pointer, align=self.dtype.itemsize, typ=self.scalar)
        return self.splat(item)

    def multiply_add(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """Return ``a * b + c``, rounded once where the CPU can."""
        if self.isa.fma:
            name = f"llvm.fma.v{self.lanes}f{self.dtype.itemsize * 8}"
            function = self.module.globals.get(name) or ir.Function(
                self.module, ir.FunctionType(self.vector, [self.vector] * 3), name
            )
            return self.builder.call(function, [a, b, c])
        return self.builder.fadd(self.builder.fmul(a, b), c)

    def at_least(self, value: ir.Value, floor: ir.Value) -> ir.Value:
        """Return the larger of the two, NaN where `value` is NaN."""
        below = self.builder.fcmp_ordered("<", value, floor)
        return self.builder.select(below, floor, value)

    def shuffle(self, a: ir.Value, b: ir.Value, lanes: Sequence[int]) -> ir.Value:
        """Return chosen lanes of two vectors set side by side."""
        mask = ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes))
        return self.builder.shuffle_vector(a, b, mask)

    def transpose(self, rows: Sequence[ir.Value]) -> list[ir.Value]:
        """Return the columns of a square of VL vectors, by exchanging ever larger blocks.

        Every stage leaves blocks of 2, 4, ... lanes in place: log2(VL) stages of VL shuffles.
        """
        block, rows = 1, list(rows)
        numbers = range(self.lanes)
        while block < self.lanes:
            low = [j if not j & block else j - block + self.lanes for j in numbers]
            high = [j + block if not j & block else j + self.lanes for j in numbers]
            result = list(rows)
            for i in numbers:
                if not i & block:
                    result[i] = self.shuffle(rows[i], rows[i + block], low)
                    result[i + block] = self.shuffle(rows[i], rows[i + block], high)
            block, rows = 2 * block, result
        return rows

    def loop(
        self,
        count: ir.Value,
        body: Callable[[ir.Value, list[ir.Value]], list[ir.Value]],
        carried: Sequence[ir.Value] = (),
    ) -> list[ir.Value]:
        """Run ``body(i, carried)`` for i in range(count); return what the last turn carried."""
        builder = self.builder
        before = builder.block
        head = builder.append_basic_block("loop")
        after = builder.append_basic_block("after")
        empty = builder.icmp_signed("<=", count, self.constant(0))
        builder.cbranch(empty, after, head)
        builder.position_at_end(head)
        index = builder.phi(I64)
        phis = [builder.phi(value.type) for value in carried]
        results = body(index, list(phis))
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

    def finish(self) -> ir.Module:
        """End the function and return its module."""
        self.builder.ret_void()
        return self.module
