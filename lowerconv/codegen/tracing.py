"""Functions that do what another does, and note when: kernels do not know that they are watched.

Kernels are called through addresses, so a watched one is another address in the job.  The log of a
worker is an array of three 64-bit integers per line: kind, begin, end (nanoseconds); the first line
has the count of the others, and how many there is room for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from lowerconv.codegen.emit import I64, Builder, new_function
from lowerconv.codegen.fork_join import address
from lowerconv.codegen.isa import host_isa
from lowerconv.codegen.jit import load_once

GAP = 2_000  # nanoseconds: calls of a kind that follow so soon are one line of the log


def new_log(lines: int) -> np.ndarray:
    """Return an empty log with room for `lines` lines."""
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
    b = Builder(new_function("watched", signature._fields))
    builder, number = b.builder, b.constant
    lines = b.pointer(number(log.ctypes.data))

    def place(line: ir.Value, field: int) -> ir.Value:
        return builder.gep(lines, [builder.add(builder.mul(line, number(3)), number(field))])

    begin = b.call(number(address("clock")), [], I64)
    b.call(number(function), b.arguments)
    end = b.call(number(address("clock")), [], I64)
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
    return load_once(b.finish(), host_isa(), "watched")


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
    b = Builder(new_function("by_worker", ("given", "worker")))
    given, worker = b.arguments
    table = b.pointer(b.constant(jobs.ctypes.data))
    job = b.builder.load(b.builder.gep(table, [worker]))
    source, target = b.pointer(given), b.pointer(job)
    for word in range(shared):
        at = [b.constant(word)]
        b.builder.store(b.builder.load(b.builder.gep(source, at)), b.builder.gep(target, at))
    b.call(b.constant(function), [job, worker])
    return load_once(b.finish(), host_isa(), "by_worker")
