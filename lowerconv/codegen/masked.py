"""Rows of any length as vectors whose unused lanes are masked, for loops compiled by numba.

A compiler's loop does what is left of a row item by item, and the rows of most planes are shorter
than what it takes for a vector: 7, 14 or 28 pixels.  Lanes that a mask leaves out are neither read
nor written, so that a row is the same few instructions whatever its length.  On CPUs whose masks
are slow (`isa.Isa.masks`) whole vectors do without.

Each function does LANES items, of any dtype; loops over a row are their callers'.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from lowerconv.codegen.emit import I1, I16, I64, Builder, item_bytes
from lowerconv.codegen.half import Conversion
from lowerconv.codegen.half_arrays import HalfArray, conversion, fields_of
from lowerconv.codegen.isa import ISAS
from lowerconv.machine.features import instruction_set

LANES = 16  # floats of the widest register; narrower ones are used several at a time

_INDEX = types.int64


def _masks() -> bool:
    """Return whether the CPU that numba compiles for has fast masks, whatever kernels are asked.

    Not SVE's: numba says of no function how long registers are, and LLVM does without them.
    """
    isa = ISAS[instruction_set()]
    return isa.masks and not isa.scalable


class _Array(Builder):
    """Writes what is done with an array argument of an intrinsic: vectors of it by their index.

    Vectors are of `item`, the type that loops compute with, whatever is `stored`.
    """

    def __init__(self, context, builder: ir.IRBuilder, kind: Any, value: ir.Value) -> None:
        super().__init__(builder)
        self.conversion: Conversion | None = None
        self.item = self.stored = context.get_data_type(kind.dtype)
        if isinstance(kind, HalfArray):
            self.data = fields_of(context, builder, kind, value).data
            self.conversion, self.stored = conversion(kind.kind), I16
        else:
            self.data = context.make_array(kind)(context, builder, value).data
        self.align = item_bytes(self.stored)

    def place(self, index: ir.Value) -> ir.Value:
        """Return a pointer to an item."""
        return self.builder.gep(self.data, [index], source_etype=self.stored)

    def at(self, index: ir.Value, lanes: int) -> ir.Value:
        """Return a pointer to the vector that begins with an item."""
        kind = ir.VectorType(self.stored, lanes)
        return self.builder.bitcast(self.place(index), kind.as_pointer())

    def _read(self, pointer: ir.Value, lanes: int, mask: ir.Value | None = None) -> ir.Value:
        """Return a vector, or the lanes of it that a mask selects, and zeros."""
        kind = ir.VectorType(self.stored, lanes)
        if mask is None:
            found = self.builder.load(pointer, align=self.align, typ=kind)
        else:
            found = self.load_lanes(pointer, mask, ir.Constant(kind, None))
        return self.conversion.widen(self.builder, found) if self.conversion else found

    def _narrowed(self, value: ir.Value) -> ir.Value:
        return self.conversion.narrow(self.builder, value) if self.conversion else value

    def _all(self, first: ir.Value, last: ir.Value, lanes: int) -> ir.Value:
        """Return whether all lanes are from `first` to before `last`."""
        builder = self.builder
        below = builder.icmp_signed("<=", first, self.constant(0))
        return builder.and_(below, builder.icmp_signed(">=", last, self.constant(lanes)))

    def load(self, index: ir.Value, first: ir.Value, last: ir.Value, other: ir.Value) -> ir.Value:
        """Return the lanes from `first` to before `last`, and those of `other` elsewhere."""
        lanes = other.type.count
        pointer, builder = self.at(index, lanes), self.builder

        def masked() -> ir.Value:
            mask = self.lanes_between(first, last, lanes)
            if self.conversion:
                return builder.select(mask, self._read(pointer, lanes, mask), other)
            return self.load_lanes(pointer, mask, other)

        if _masks():
            return masked()
        with builder.if_else(self._all(first, last, lanes), likely=True) as (whole, part):
            with whole:
                every = self._read(pointer, lanes)
                after_whole = builder.block
            with part:
                some = masked()
                after_part = builder.block
        value = builder.phi(other.type)
        value.add_incoming(every, after_whole)
        value.add_incoming(some, after_part)
        return value

    def store(self, value: ir.Value, index: ir.Value, count: ir.Value) -> None:
        """Store the first lanes, so many of them."""
        pointer, zero = self.at(index, value.type.count), self.constant(0)
        value = self._narrowed(value)
        if _masks():
            self.store_lanes(value, pointer, self.lanes_between(zero, count, value.type.count))
        else:
            self.store_first(value, pointer, count)

    def update(
        self, value: ir.Value, index: ir.Value, first: ir.Value, last: ir.Value, add: ir.Value
    ) -> None:
        """Store the lanes from `first` to before `last`, or add them to what is there."""
        builder, lanes = self.builder, value.type.count
        pointer, add = self.at(index, lanes), builder.trunc(add, I1)

        def masked() -> None:
            # No lane is read that is not added to: what is overwritten may hold anything.
            mask = self.lanes_between(first, last, lanes)
            adding = builder.and_(mask, self.splat(add, lanes))
            there = self._read(pointer, lanes, adding)
            self.store_lanes(self._narrowed(builder.fadd(value, there)), pointer, mask)

        if _masks():
            masked()
            return
        with builder.if_else(self._all(first, last, lanes), likely=True) as (whole, part):
            with whole:
                there = self._read(pointer, lanes)
                there = builder.select(add, there, ir.Constant(value.type, None))
                total = self._narrowed(builder.fadd(value, there))
                builder.store(total, pointer, align=self.align)
            with part:
                masked()


@intrinsic
def _read(typing_context, source, start, first, last, value, target, at, count):
    signature = types.void(source, *[_INDEX] * 3, source.dtype, target, _INDEX, _INDEX)

    def codegen(context, builder, signature, values):
        _, start, first, last, value, _, at, count = values
        source = _Array(context, builder, signature.args[0], values[0])
        target = _Array(context, builder, signature.args[5], values[5])
        pixels = source.load(start, first, last, source.splat(value, LANES))
        target.store(pixels, at, count)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _read_pairs(typing_context, source, start, first, last, value, target, at, at_next, count):
    signature = types.void(source, *[_INDEX] * 3, source.dtype, target, *[_INDEX] * 3)

    def codegen(context, builder, signature, values):
        _, start, first, last, value, _, at, at_next, count = values
        source = _Array(context, builder, signature.args[0], values[0])
        target = _Array(context, builder, signature.args[5], values[5])
        pixels = source.load(start, first, last, source.splat(value, 2 * LANES))
        for phase, to in ((0, at), (1, at_next)):
            lanes = range(phase, 2 * LANES, 2)
            target.store(target.shuffle(pixels, pixels, lanes), to, count)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _put(typing_context, source, at, target, start, first, last, add):
    signature = types.void(source, _INDEX, target, *[_INDEX] * 3, types.boolean)

    def codegen(context, builder, signature, values):
        _, at, _, start, first, last, add = values
        source = _Array(context, builder, signature.args[0], values[0])
        target = _Array(context, builder, signature.args[2], values[2])
        zeros = ir.Constant(ir.VectorType(source.item, LANES), None)
        target.update(source.load(at, first, last, zeros), start, first, last, add)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _put_pairs(typing_context, source, at, at_next, target, start, first, last, add):
    signature = types.void(source, _INDEX, _INDEX, target, *[_INDEX] * 3, types.boolean)

    def codegen(context, builder, signature, values):
        _, at, at_next, _, start, first, last, add = values
        source = _Array(context, builder, signature.args[0], values[0])
        target = _Array(context, builder, signature.args[3], values[3])
        count = builder.sdiv(builder.add(last, source.constant(1)), source.constant(2))
        zero, zeros = source.constant(0), ir.Constant(ir.VectorType(source.item, LANES), None)
        even, odd = (source.load(place, zero, count, zeros) for place in (at, at_next))
        order = [i // 2 + i % 2 * LANES for i in range(2 * LANES)]
        target.update(source.shuffle(even, odd, order), start, first, last, add)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _bare(typing_context, array):
    def codegen(context, builder, signature, values):
        kind = signature.args[0]
        view = context.make_array(kind)(context, builder, values[0])
        for field in ("meminfo", "parent"):
            setattr(view, field, cgutils.get_null_value(getattr(view, field).type))
        return view._getvalue()

    return array(array), codegen


@intrinsic
def _prefetch(typing_context, array, index):
    def codegen(context, builder, signature, values):
        array = _Array(context, builder, signature.args[0], values[0])
        array.prefetch(builder.ptrtoint(array.place(values[1]), I64), False, 3)
        return context.get_dummy_value()

    return types.void(array, _INDEX), codegen


# Numba supplies the typing context, which a type checker cannot know.
# read(source, start, first, last, value, target, at, count):
#   target[at + i] = source[start + i] if first <= i < last else value, for i < count
read: Any = _read
# read_pairs(source, start, first, last, value, target, at, at_next, count):
#   the same of 2 * LANES items, the even ones to `at`, the odd ones to `at_next`
read_pairs: Any = _read_pairs
# put(source, at, target, start, first, last, add):
#   target[start + i] (+)= source[at + i] for first <= i < last
put: Any = _put
# put_pairs(source, at, at_next, target, start, first, last, add):
#   the same of 2 * LANES items, taken in turn from `at` and from `at_next`
put_pairs: Any = _put_pairs
# prefetch(array, index): ask for the cache line of an item, which need not exist
prefetch: Any = _prefetch
# bare(array): the array without its owner.  Slices of arrays count references with atomic
#   instructions, on one cache line that all threads want; those of a bare one do not.  It is for
#   arguments, which their caller keeps alive.
bare: Any = _bare
