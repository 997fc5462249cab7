"""Calling generated code from numba through its address, and running it on many cores.

An address is data: numba can cache a function that is given one, and could not cache one with the
address, new in every process, baked in.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic


@intrinsic
def call(typing_context, address, arguments):
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
def pointer(typing_context, address):
    """Return an address as a pointer, for ``carray``."""
    signature = types.voidptr(types.int64)

    def codegen(context, builder, signature, values):
        return builder.inttoptr(values[0], context.get_value_type(types.voidptr))

    return signature, codegen


@njit(cache=True, nogil=True, parallel=True)
def _launch(function, job, workers):
    for worker in prange(workers):
        call(function, (job, np.int64(worker)))


@lru_cache
def _function(address: int):
    return ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(address)


def launch(function: int, job: int, workers: int) -> None:
    """Run ``function(job, worker)`` for every worker, each on a thread of its own.

    The only compiled loop over threads of the fused engine: what runs on them is an address.
    """
    if workers == 1:
        _function(function)(job, 0)
    else:
        _launch(function, job, workers)
