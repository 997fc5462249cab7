"""Arrays of 16-bit numbers that compiled loops read and write as float32.

A kernel is one source for all types: where it is given such an array, items are converted as it
reads and writes them, and its arithmetic and scratch memory are float32.

NumPy has no bf16, and numba neither: a kernel is given integers of 16 bits, unsigned ones for bf16
and signed ones for fp16, and `items` says in its first line what they are.  Indices do not count
from the end, and slices have a beginning, an end, and a step of 1.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.errors import TypingError
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import (
    intrinsic,
    lower_builtin,
    lower_getattr,
    make_attribute_wrapper,
    overload,
    register_model,
    type_callable,
)

from lowerconv.codegen.half import Conversion
from lowerconv.machine.features import host_features

# How kernels are given arrays of them: as integers of the same bits.
HALF_DTYPES = {"bf16": np.dtype(np.uint16), "fp16": np.dtype(np.int16)}
_KINDS = {types.uint16: "bf16", types.int16: "fp16"}


class HalfArray(types.Type):
    """A 1-D array of 16-bit numbers, contiguous, whose memory somebody else keeps.

    Parameters
    ----------
    kind : "bf16" or "fp16"
    """

    dtype = types.float32

    def __init__(self, kind: str) -> None:
        self.kind = kind
        super().__init__(f"HalfArray({kind})")


@register_model(HalfArray)
class _Model(models.StructModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        members = [("data", types.CPointer(types.uint16)), ("size", types.intp)]
        super().__init__(manager, kind, members)


make_attribute_wrapper(HalfArray, "data", "data")
make_attribute_wrapper(HalfArray, "size", "size")


@infer_getattr
class _Attributes(AttributeTemplate):
    key = HalfArray

    def resolve_dtype(self, array: Any) -> types.DType:
        return types.DType(types.float32)


@lower_getattr(HalfArray, "dtype")
def _dtype(context, builder, kind, value):
    return context.get_dummy_value()


def conversion(kind: str) -> Conversion:
    """Return conversions for the CPU that numba compiles for."""
    features = host_features()
    return Conversion(kind, features.get("f16c", False) or features.get("neon", False))


def converters(conversion: Conversion) -> tuple[Any, Any]:
    """Return ``code(value)`` and ``value(code)`` for compiled loops: float32 and uint16."""

    @intrinsic
    def code(typing_context, value):
        if value != types.float32:
            raise TypingError(f"half precision is made of arrays of float32, not of {value}")

        def codegen(context, builder, signature, values):
            return conversion.narrow(builder, values[0])

        return types.uint16(types.float32), codegen

    @intrinsic
    def value(typing_context, code):
        def codegen(context, builder, signature, values):
            return conversion.widen(builder, values[0])

        return types.float32(types.uint16), codegen

    return code, value


def fields_of(context: Any, builder: Any, kind: HalfArray, value: ir.Value) -> Any:
    """Return an array's `data` and `size`."""
    return cgutils.create_struct_proxy(kind)(context, builder, value=value)


@type_callable(operator.getitem)
def _type_getitem(context):
    def typer(array, index):
        if not isinstance(array, HalfArray):
            return None
        if isinstance(index, types.Integer):
            return types.float32
        return array if isinstance(index, types.SliceType) else None

    return typer


@type_callable(operator.setitem)
def _type_setitem(context):
    def typer(array, index, value):
        if isinstance(array, HalfArray) and isinstance(index, types.Integer):
            return types.none(array, index, types.float32)
        return None

    return typer


def _pointer(context, builder, signature, values):
    fields = fields_of(context, builder, signature.args[0], values[0])
    index = context.cast(builder, values[1], signature.args[1], types.intp)
    return builder.gep(fields.data, [index], source_etype=ir.IntType(16))


@lower_builtin(operator.getitem, HalfArray, types.Integer)
def _getitem(context, builder, signature, values):
    pointer = _pointer(context, builder, signature, values)
    code = builder.load(pointer, align=2, typ=ir.IntType(16))
    return conversion(signature.args[0].kind).widen(builder, code)


@lower_builtin(operator.setitem, HalfArray, types.Integer, types.Float)
def _setitem(context, builder, signature, values):
    pointer = _pointer(context, builder, signature, values)
    code = conversion(signature.args[0].kind).narrow(builder, values[2])
    builder.store(code, pointer, align=2)
    return context.get_dummy_value()


@lower_builtin(operator.getitem, HalfArray, types.SliceType)
def _slice(context, builder, signature, values):
    kind, slices = signature.args
    fields = fields_of(context, builder, kind, values[0])
    part = context.make_helper(builder, slices, values[1])
    stop = builder.select(builder.icmp_signed("<", part.stop, fields.size), part.stop, fields.size)
    found = cgutils.create_struct_proxy(kind)(context, builder)
    found.data = builder.gep(fields.data, [part.start], source_etype=ir.IntType(16))
    size = builder.sub(stop, part.start)
    none = ir.Constant(size.type, 0)
    found.size = builder.select(builder.icmp_signed(">", size, none), size, none)
    return found._getvalue()


@intrinsic
def _items(typing_context, array):
    kind = _KINDS.get(array.dtype) if isinstance(array, types.Array) else None
    result = array if kind is None else HalfArray(kind)

    def codegen(context, builder, signature, values):
        if isinstance(array, HalfArray):
            return values[0]
        view = context.make_array(array)(context, builder, values[0])
        if kind is None:
            for field in ("meminfo", "parent"):
                setattr(view, field, cgutils.get_null_value(getattr(view, field).type))
            return view._getvalue()
        found = cgutils.create_struct_proxy(result)(context, builder)
        found.data = builder.bitcast(view.data, ir.IntType(16).as_pointer())
        found.size = view.nitems
        return found._getvalue()

    return result(array), codegen


@intrinsic
def _address(typing_context, array):
    def codegen(context, builder, signature, values):
        (kind,) = signature.args
        if isinstance(kind, HalfArray):
            data = fields_of(context, builder, kind, values[0]).data
        else:
            data = context.make_array(kind)(context, builder, values[0]).data
        return builder.ptrtoint(data, ir.IntType(64))

    return types.int64(array), codegen


@intrinsic
def _is_half(typing_context, array):
    found = isinstance(array, HalfArray)

    def codegen(context, builder, signature, values):
        return context.get_constant(types.boolean, found)

    return types.boolean(array), codegen


@intrinsic
def _like(typing_context, buffer, array):
    result = array if isinstance(array, HalfArray) else buffer

    def codegen(context, builder, signature, values):
        if result is buffer:
            return values[0]
        view = context.make_array(buffer)(context, builder, values[0])
        found = cgutils.create_struct_proxy(result)(context, builder)
        found.data = builder.bitcast(view.data, ir.IntType(16).as_pointer())
        found.size = view.nitems
        return found._getvalue()

    return result(buffer, array), codegen


def numbers(array: Any, buffer: Any) -> Any:
    """Return an array, or for one of 16 bits as much of a buffer of float32, for compiled loops."""


@overload(numbers)
def _numbers(array, buffer):
    if isinstance(array, HalfArray):
        return lambda array, buffer: buffer[: array.size]
    return lambda array, buffer: array


# Numba supplies the typing context, which a type checker cannot know.
# items(array): the array without its owner (see `masked.bare`); of 16 bits, what loops
#   read as float32
items: Any = _items
# address(array): of its first item
address: Any = _address
# like(buffer, array): a buffer of zeros as an array that is stored like another
like: Any = _like
# is_half(array): whether it is of 16 bits; known when a loop is compiled
is_half: Any = _is_half
