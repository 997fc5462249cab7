"""Functions that do what another does, and note when: kernels do not know that they are watched.

Kernels are called through addresses, so a watched one is another address in the job.  The log of a
worker is an array of three 64-bit integers per line: kind, begin, end (nanoseconds); the first line
has the count of the others, and how many there is room for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from lowerconv.codegen.emit import I64
from lowerconv.codegen.fork_join import address
from lowerconv.codegen.isa import host_isa
from lowerconv.codegen.jit import load_once

GAP = 2_000  # nanoseconds: calls of a kind that follow so soon are one line of the log


def new_log(lines: int) -> np.ndarray:
    """Return a log with room for so many lines."""
    log = np.zeros((lines + 1, 3), np.int64)
    log[0, 1] = lines
    return log


def watched(function: int, signature: type[Any], kind: int, log: np.ndarray) -> int:
    """Return the address of a function that calls another and writes a line of the log.

    Parameters
    ----------
    function : int
        The address of ``void function(int64...)``.
    signature : NamedTuple class
        Of `codegen.signatures`.
    kind : int
        What the line says.
    log : ndarray of int64
        Of `new_log`; one thread writes it, and it must live as long as the function is called.
    """

    def number(value: int) -> ir.Constant:
        return ir.Constant(I64, value)

    module = ir.Module("watched")
    kind_of = ir.FunctionType(ir.VoidType(), [I64] * len(signature._fields))
    outer = ir.Function(module, kind_of, "watched")
    builder = ir.IRBuilder(outer.append_basic_block())
    time = builder.inttoptr(number(address("clock")), ir.FunctionType(I64, []).as_pointer())
    lines = builder.inttoptr(number(log.ctypes.data), I64.as_pointer())

    def place(line: ir.Value, field: int) -> ir.Value:
        return builder.gep(lines, [builder.add(builder.mul(line, number(3)), number(field))])

    begin = builder.call(time, [])
    builder.call(builder.inttoptr(number(function), kind_of.as_pointer()), outer.args)
    end = builder.call(time, [])
    count = builder.load(place(number(0), 0))
    same = builder.and_(
        builder.icmp_signed("==", builder.load(place(count, 0)), number(kind)),
        builder.icmp_signed("<", begin, builder.add(builder.load(place(count, 2)), number(GAP))),
    )
    same = builder.and_(same, builder.icmp_signed(">", count, number(0)))
    with builder.if_else(same) as (merge, append):
        with merge:
            builder.store(end, place(count, 2))
        with append:
            room = builder.icmp_signed("<", count, builder.load(place(number(0), 1)))
            with builder.if_then(room):
                line = builder.add(count, number(1))
                for field, value in enumerate((number(kind), begin, end)):
                    builder.store(value, place(line, field))
                builder.store(line, place(number(0), 0))
    builder.ret_void()
    return load_once(module, host_isa(), "watched")


def by_worker(function: int, jobs: np.ndarray, shared: int) -> int:
    """Return the address of a function that gives every worker a job of its own.

    Parameters
    ----------
    function : int
        The address of ``void function(int64 job, int64 worker)``.
    jobs : ndarray of int64
        The addresses of the jobs.
    shared : int
        How many 64-bit words at the beginning are copied from the job that is passed.
    """
    module = ir.Module("by_worker")
    signature = ir.FunctionType(ir.VoidType(), [I64, I64])
    outer = ir.Function(module, signature, "by_worker")
    builder = ir.IRBuilder(outer.append_basic_block())
    given, worker = outer.args
    table = builder.inttoptr(ir.Constant(I64, jobs.ctypes.data), I64.as_pointer())
    job = builder.load(builder.gep(table, [worker]))
    source, target = (builder.inttoptr(place, I64.as_pointer()) for place in (given, job))
    for word in range(shared):
        at = [ir.Constant(I64, word)]
        builder.store(builder.load(builder.gep(source, at)), builder.gep(target, at))
    inner = builder.inttoptr(ir.Constant(I64, function), signature.as_pointer())
    builder.call(inner, [job, worker])
    builder.ret_void()
    return load_once(module, host_isa(), "by_worker")
