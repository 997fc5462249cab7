"""Calling generated code from numba through its address, and running code on many cores.

An address is data: numba can cache a function that is given one, and could not cache one with the
address, new in every process, baked in.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import from_dtype, types
from numba.core import cgutils, errors
from numba.extending import intrinsic

from lowerconv.codegen.compiled import Cache, callback, internal, njit
from lowerconv.codegen.emit import I8, I32, I64, Builder, new_function
from lowerconv.codegen.fork_join import LAUNCH_ARGUMENTS
from lowerconv.runtime.team import TeamHandle


@intrinsic
def _call(typing_context, address, arguments):
    """Call ``void function(int64...)`` at an address with a tuple of `codegen.signatures`."""
    if not isinstance(arguments, types.NamedUniTuple) or arguments.dtype != types.int64:
        raise errors.TypingError(f"call: got {arguments}, expected a signature of 64-bit integers")
    signature = types.void(types.int64, arguments)

    def codegen(context, builder, signature, values):
        address, packed = values
        words = [builder.extract_value(packed, i) for i in range(len(signature.args[1]))]
        Builder(builder).call(address, words)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _call_for_int(typing_context, address):
    """Call ``int64 function()`` at an address."""
    signature = types.int64(types.int64)

    def codegen(context, builder, signature, values):
        return Builder(builder).call(values[0], [], I64)

    return signature, codegen


@intrinsic
def _pointer(typing_context, address):
    """Return an address as a pointer, for ``carray``."""
    signature = types.voidptr(types.int64)

    def codegen(context, builder, signature, values):
        return Builder(builder).pointer(values[0], I8)

    return signature, codegen


def tell_user(text: str) -> None:
    """Tell the user: through logging where that is set up, else on stderr."""
    logger = logging.getLogger("lowerconv")
    if logger.hasHandlers():
        logger.info(text)
    else:
        print(f"lowerconv: {text}", file=sys.stderr)


def worker_address(function: Callable[..., None], job: np.dtype, what: str) -> Callable[[], int]:
    """Return a function that compiles ``function(jobs, worker)`` and returns its address.

    Called through its address: numba's dispatcher would look at the type of every argument at each
    call.

    Parameters
    ----------
    function : callable
        What one worker does; it must not raise.
    job : dtype
        Of the record that `jobs` points to.
    what : str
        What the function computes, for people.
    """

    @lru_cache
    def address() -> int:
        signature = types.void(types.CPointer(from_dtype(job)), types.int64)
        begin = time.perf_counter()
        compiled = callback(signature, function)
        if not compiled.loaded:
            seconds = time.perf_counter() - begin
            kept = ", kept for later processes" if compiled.kept else ""
            tell_user(f"compiled the loops of {what} in {seconds:.1f} s{kept}")
        return compiled.address

    return address


def _uncounted(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Return a value, or a tuple, whose arrays nobody counts: the caller keeps them.

    Threads would count up and down in one cache line, and at a replay there is nothing to count.
    """
    if isinstance(kind, types.Array):
        array = cgutils.create_struct_proxy(kind)(context, builder, value=value)
        array.meminfo = cgutils.get_null_value(array.meminfo.type)
        array.parent = cgutils.get_null_value(array.parent.type)
        return array._getvalue()
    if isinstance(kind, types.BaseTuple):
        kinds: Any = kind
        for i, part in enumerate(kinds):
            item = _uncounted(context, builder, part, builder.extract_value(value, i))
            value = builder.insert_value(value, item, i)
    return value


@intrinsic
def _run_on_team(typing_context, team, body, frame):
    """Run ``body(worker, workers, *frame)`` on every thread of a team (`team.TeamHandle`).

    What each thread is given is a function that reads the frame where the caller keeps it and calls
    the body.  Bodies must not raise: no one would see the exception.
    """
    parameters = (types.int64, types.int64, *frame.types)
    dispatcher = body.dispatcher
    call_type = body.get_call_type(typing_context, parameters, {})
    signature = types.void(team, body, frame)

    def codegen(context, builder, signature, values):
        compiled = dispatcher.get_compile_result(call_type)
        context.add_linking_libs([compiled.library])
        outer = Builder(builder)
        handle, _, packed = values
        packed = _uncounted(context, builder, frame, packed)
        address, state, workers = (builder.extract_value(handle, i) for i in range(3))
        kind = ir.LiteralStructType([I64, packed.type])
        words = -(-context.get_abi_sizeof(kind) // 8)
        slot = builder.bitcast(
            cgutils.alloca_once(builder, ir.ArrayType(I64, words)), kind.as_pointer()
        )
        fields = [[outer.constant(0, I32), outer.constant(i, I32)] for i in range(2)]
        for field, value in zip(fields, (workers, packed), strict=True):
            builder.store(value, builder.gep(slot, field))

        name = builder.module.get_unique_name(f"{builder.function.name}.worker")
        inner = Builder(new_function(name, ("frame", "worker"), module=builder.module))
        inner.builder.function.linkage = "internal"
        source, worker = inner.pointer(inner.arguments[0], kind), inner.arguments[1]
        count, given = (inner.builder.load(inner.builder.gep(source, field)) for field in fields)
        arguments = [inner.builder.extract_value(given, i) for i in range(len(frame.types))]
        context.call_internal_no_propagate(
            inner.builder, compiled.fndesc, call_type, [worker, count, *arguments]
        )
        inner.finish()

        function, job = (builder.ptrtoint(value, I64) for value in (inner.builder.function, slot))
        outer.call(address, [state, function, job, workers, outer.constant(8 * words)])
        return context.get_dummy_value()

    return signature, codegen


# Numba supplies the typing context, which a type checker cannot know.
call: Any = _call
call_for_int: Any = _call_for_int
pointer: Any = _pointer
run_on_team: Any = _run_on_team


def parallel(function: Callable[..., None] | None = None, **options: Any) -> Any:
    """Make a kernel, ``kernel(team, *arguments)``, of ``function(worker, workers, *arguments)``.

    The function is what each worker does, such as the loop over its `codegen.ranges.share` of the
    work.  Decorates as `codegen.compiled.internal` does.
    """
    if function is None:
        return partial(parallel, **options)
    body = internal(function, **options)

    def kernel(team, *arguments):
        run_on_team(team, body, arguments)

    kernel.__module__, kernel.__doc__ = function.__module__, function.__doc__
    kernel.__name__, kernel.__qualname__ = function.__name__, function.__qualname__
    compiled = njit(nogil=True)(kernel)
    compiled._cache = Cache(function)  # and not of the kernel, which is the same code for all
    return compiled


@njit(cache=True, nogil=True)
def bind_operands(fields, source, filters, bias, target, scratch):
    """Write the operands of a call into a record: one step into compiled code for all of them.

    `fields` are a record as 64-bit integers, which begins with `records.Operands`: one compiled
    function for records of every kind.
    """
    fields[0] = source.ctypes.data
    fields[1] = filters.ctypes.data
    fields[2] = bias.ctypes.data if bias.size else 0
    fields[3] = target.ctypes.data
    fields[4] = scratch
    fields[5] = source.strides[0] // source.itemsize
    fields[6] = filters.strides[0] // filters.itemsize
    fields[7] = target.strides[0] // target.itemsize


@lru_cache
def _function(address: int, arguments: int):
    return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * arguments)(address)


def launch(team: TeamHandle, function: int, job: int, workers: int) -> None:
    """Run ``function(job, worker)`` for every worker, on the threads of a team; wait for all."""
    if workers > team.threads:  # they would be waited for
        raise ValueError(f"workers: got {workers}, expected at most {team.threads}, the team's")
    if workers == 1 and not team.captures:
        _function(function, 2)(job, 0)
    else:
        _function(team.launch, len(LAUNCH_ARGUMENTS))(team.state, function, job, workers, 0)
