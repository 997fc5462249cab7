"""Calling generated code from numba through its address, and running it on many cores.

An address is data: numba can cache a function that is given one, and could not cache one with the
address, new in every process, baked in.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import cfunc, from_dtype, njit, prange, types
from numba.extending import intrinsic


@intrinsic
def _call(typing_context, address, arguments):
    """Call ``void function(int64...)`` at an address with a tuple of integers."""
    signature = types.void(types.int64, types.UniTuple(types.int64, len(arguments)))

    def codegen(context, builder, signature, values):
        address, packed = values
        words = [builder.extract_value(packed, i) for i in range(len(signature.args[1]))]
        kind = ir.FunctionType(ir.VoidType(), [word.type for word in words])
        builder.call(builder.inttoptr(address, kind.as_pointer()), words)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _pointer(typing_context, address):
    """Return an address as a pointer, for ``carray``."""
    signature = types.voidptr(types.int64)

    def codegen(context, builder, signature, values):
        return builder.inttoptr(values[0], context.get_value_type(types.voidptr))

    return signature, codegen


# Numba supplies the typing context, which a type checker cannot know.
call: Any = _call
pointer: Any = _pointer


def say(text: str) -> None:
    """Tell the user: through logging where that is set up, else on stderr."""
    logger = logging.getLogger("lowerconv")
    if logger.hasHandlers():
        logger.info(text)
    else:
        print(f"lowerconv: {text}", file=sys.stderr)


def loops(function: Callable[..., None], job: np.dtype, what: str) -> int:
    """Return the address of ``function(jobs, worker)``, compiled once per machine.

    A plain function called through its address, and not through numba's dispatcher: so that one
    parallel loop, which takes longest to compile, serves all of them.
    """
    signature = types.void(types.CPointer(from_dtype(job)), types.int64)
    begin = time.perf_counter()
    compiled = cfunc(signature, cache=True)(function)
    if not compiled.cache_hits:
        seconds = time.perf_counter() - begin
        say(f"compiled the loops of {what} in {seconds:.1f} s, kept for later processes")
    return int(compiled.address or 0)


@njit(cache=True, nogil=True, parallel=True)
def _launch(function, job, workers):
    for worker in prange(workers):
        call(function, (job, np.int64(worker)))


def write(job: np.ndarray, **fields: int) -> None:
    """Set fields of a job: one record for every phase, all of them 64-bit integers."""
    for name, value in fields.items():
        job[name] = value


# The first fields of every job: the operands of a call.
OPERANDS = ("source", "filters", "bias", "target", "scratch", "relu")


@njit(cache=True, nogil=True)
def place(words, source, filters, bias, target, scratch, relu):
    """Write the operands of a call into a job: one step into compiled code for all of them."""
    words[0] = source.ctypes.data
    words[1] = filters.ctypes.data
    words[2] = bias.ctypes.data if bias.size else 0
    words[3] = target.ctypes.data
    words[4] = scratch
    words[5] = relu


@lru_cache
def _function(address: int):
    return ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(address)


@lru_cache
def _parallel_loop():
    """Compile the parallel loop, or read it from numba's cache."""
    begin = time.perf_counter()
    _launch.compile((types.int64, types.int64, types.int64))
    if _launch.stats.cache_misses:
        seconds = time.perf_counter() - begin
        say(f"compiled the parallel loop in {seconds:.1f} s, kept for later processes")
    return _launch


def launch(function: int, job: int, workers: int) -> None:
    """Run ``function(job, worker)`` for every worker, each on a thread of its own."""
    if workers == 1:
        _function(function)(job, 0)
    else:
        _parallel_loop()(function, job, workers)
