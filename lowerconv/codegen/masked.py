"""Rows of any length as vectors whose unused lanes are masked, for loops compiled by numba.

A compiler's loop does what is left of a row item by item, and the rows of most planes are shorter
than what it takes for a vector: 7, 14 or 28 pixels.  Lanes that a mask leaves out are neither read
nor written, so that a row is the same few instructions whatever its length.

Each function does LANES items, of any dtype; loops over a row are their callers'.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16  # floats of the widest register; narrower ones are used several at a time

_I1, _I32 = ir.IntType(1), ir.IntType(32)


def _vector(kind: ir.Type, lanes: int) -> ir.VectorType:
    return ir.VectorType(kind, lanes)


def _splat(builder: ir.IRBuilder, value: ir.Value, lanes: int) -> ir.Value:
    kind = _vector(value.type, lanes)
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, value, _I32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_vector(_I32, lanes), [0] * lanes))


def _between(builder: ir.IRBuilder, first: ir.Value, last: ir.Value, lanes: int) -> ir.Value:
    """Return the mask of the lanes from `first` to before `last`, which may lie outside."""
    numbers = ir.Constant(_vector(_I32, lanes), list(range(lanes)))
    sides = []
    for value in (first, last):  # 64-bit numbers are cut to what a lane's number can be
        low, high = (ir.Constant(value.type, bound) for bound in (0, lanes))
        value = builder.select(builder.icmp_signed("<", value, low), low, value)
        value = builder.select(builder.icmp_signed(">", value, high), high, value)
        sides.append(_splat(builder, builder.trunc(value, _I32), lanes))
    return builder.and_(
        builder.icmp_signed(">=", numbers, sides[0]), builder.icmp_signed("<", numbers, sides[1])
    )


class _Array:
    """An array argument of an intrinsic: vectors of it by their index."""

    def __init__(self, context, builder: ir.IRBuilder, kind: types.Array, value: ir.Value) -> None:
        self.builder = builder
        self.data = context.make_array(kind)(context, builder, value).data
        self.item = context.get_data_type(kind.dtype)
        self.size = context.get_abi_sizeof(self.item)

    def place(self, index: ir.Value, lanes: int) -> tuple[ir.Value, ir.VectorType, str]:
        kind = _vector(self.item, lanes)
        pointer = self.builder.gep(self.data, [index], source_etype=self.item)
        pointer = self.builder.bitcast(pointer, kind.as_pointer())
        letter = "i" if isinstance(self.item, ir.IntType) else "f"
        name = f"v{lanes}{letter}{self.size * 8}.p0"
        if str(pointer.type) != "ptr":
            name += name.removesuffix(".p0")
        return pointer, kind, name

    def load(self, index: ir.Value, mask: ir.Value, other: ir.Value) -> ir.Value:
        """Return the lanes that the mask selects, and `other` in its place elsewhere."""
        lanes = mask.type.count
        pointer, kind, name = self.place(index, lanes)
        signature = ir.FunctionType(kind, [pointer.type, _I32, mask.type, kind])
        function = cgutils.get_or_insert_function(
            self.builder.module, signature, f"llvm.masked.load.{name}"
        )
        return self.builder.call(function, [pointer, _I32(self.size), mask, other])

    def store(self, value: ir.Value, index: ir.Value, mask: ir.Value) -> None:
        """Store the lanes that the mask selects."""
        pointer, kind, name = self.place(index, mask.type.count)
        signature = ir.FunctionType(ir.VoidType(), [kind, pointer.type, _I32, mask.type])
        function = cgutils.get_or_insert_function(
            self.builder.module, signature, f"llvm.masked.store.{name}"
        )
        self.builder.call(function, [value, pointer, _I32(self.size), mask])

    def zeros(self, lanes: int) -> ir.Constant:
        return ir.Constant(_vector(self.item, lanes), None)


@intrinsic
def _read(typing_context, source, start, first, last, value, target, at, count):
    signature = types.void(
        source, types.int64, types.int64, types.int64, source.dtype, target, types.int64,
        types.int64,
    )  # fmt: skip

    def codegen(context, builder, signature, values):
        _, start, first, last, value, _, at, count = values
        source = _Array(context, builder, signature.args[0], values[0])
        target = _Array(context, builder, signature.args[5], values[5])
        inside = _between(builder, first, last, LANES)
        pixels = source.load(start, inside, _splat(builder, value, LANES))
        target.store(pixels, at, _between(builder, count.type(0), count, LANES))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _read_pairs(typing_context, source, start, first, last, value, target, at, at_next, count):
    signature = types.void(
        source, types.int64, types.int64, types.int64, source.dtype, target, types.int64,
        types.int64, types.int64,
    )  # fmt: skip

    def codegen(context, builder, signature, values):
        _, start, first, last, value, _, at, at_next, count = values
        source = _Array(context, builder, signature.args[0], values[0])
        target = _Array(context, builder, signature.args[5], values[5])
        inside = _between(builder, first, last, 2 * LANES)
        pixels = source.load(start, inside, _splat(builder, value, 2 * LANES))
        valid = _between(builder, count.type(0), count, LANES)
        kind = _vector(_I32, LANES)
        for phase, to in ((0, at), (1, at_next)):
            lanes = ir.Constant(kind, list(range(phase, 2 * LANES, 2)))
            target.store(builder.shuffle_vector(pixels, pixels, lanes), to, valid)
        return context.get_dummy_value()

    return signature, codegen


def _write(builder, pixels, target, start, mask, add):
    """Store the lanes of the mask; add them to what is there where `add` is set."""
    lanes = mask.type.count
    # No lane is read that is not added to: what is overwritten may hold anything.
    adding = builder.and_(mask, _splat(builder, builder.trunc(add, _I1), lanes))
    there = target.load(start, adding, target.zeros(lanes))
    target.store(builder.fadd(pixels, there), start, mask)


@intrinsic
def _put(typing_context, source, at, target, start, first, last, add):
    signature = types.void(
        source, types.int64, target, types.int64, types.int64, types.int64, types.boolean
    )

    def codegen(context, builder, signature, values):
        _, at, _, start, first, last, add = values
        source = _Array(context, builder, signature.args[0], values[0])
        target = _Array(context, builder, signature.args[2], values[2])
        mask = _between(builder, first, last, LANES)
        pixels = source.load(at, mask, source.zeros(LANES))
        _write(builder, pixels, target, start, mask, add)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _put_pairs(typing_context, source, at, at_next, target, start, first, last, add):
    signature = types.void(
        source, types.int64, types.int64, target, types.int64, types.int64, types.int64,
        types.boolean,
    )  # fmt: skip

    def codegen(context, builder, signature, values):
        _, at, at_next, _, start, first, last, add = values
        source = _Array(context, builder, signature.args[0], values[0])
        target = _Array(context, builder, signature.args[3], values[3])
        mask = _between(builder, first, last, 2 * LANES)
        two, one = last.type(2), last.type(1)
        count = builder.sdiv(builder.add(last, one), two)
        valid = _between(builder, count.type(0), count, LANES)
        even, odd = (source.load(place, valid, source.zeros(LANES)) for place in (at, at_next))
        order = [i // 2 + i % 2 * LANES for i in range(2 * LANES)]
        joined = builder.shuffle_vector(even, odd, ir.Constant(_vector(_I32, 2 * LANES), order))
        _write(builder, joined, target, start, mask, add)
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
        pointer, _, _ = array.place(values[1], 1)
        pointer = builder.bitcast(pointer, ir.IntType(8).as_pointer())
        name = "llvm.prefetch.p0" + ("" if str(pointer.type) == "ptr" else "i8")
        signature = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, signature, name)
        builder.call(function, [pointer, _I32(0), _I32(3), _I32(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


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
