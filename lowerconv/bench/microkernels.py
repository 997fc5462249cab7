"""What each type of numbers gives: the peak of its multiply-adds, and that of register tiles.

The peak is that of a loop that touches no memory: chains of dot products in registers, as many as
leave room for the operands.  A register tile reads a panel of vectors, broadcasts from rows of an
image by a table, k steps (of words, where there are several numbers in one), and stores the result;
operands lie in L1.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir

from lowerconv.bench.together import seconds_together
from lowerconv.codegen.dots import BF16, F16, S8_S8, S8_U8, Words, dot_of
from lowerconv.codegen.emit import Emitter
from lowerconv.codegen.isa import Isa, host_isa_extended
from lowerconv.codegen.jit import load_once
from lowerconv.codegen.microkernel import Microkernel, rows_max
from lowerconv.codegen.signatures import Tile

TYPES = {"float32": None, "bf16": BF16, "f16": F16, "s8 x u8": S8_U8, "s8 x s8": S8_S8}
CHAINS = 24  # more than hide the latency of any of them
SECONDS = 0.01  # of a run
ROOFS = {"float32": None, "bf16": BF16, "int8": S8_U8}
K, ROUNDS = 256, 6
SPREAD = 1000  # words of the image that broadcasts come from, beside each other


class Chains(NamedTuple):
    """Arguments of the loop in registers."""

    turns: int
    operands: int  # address of two vectors


class Repeat(NamedTuple):
    """Arguments of the loop that calls a register tile: how often, its address, its own."""

    turns: int
    kernel: int
    k: int
    vectors: int
    broadcasts: int
    table: int
    out: int
    ld_out: int
    bias: int
    valid: int
    mode: int
    numbers: int
    constants: int


class Loop(NamedTuple):
    """Something to time.

    Attributes
    ----------
    run : callable
        Of the turns; it releases the GIL.
    operations : int
        Multiplications and additions of a turn.
    """

    run: Callable[[int], None]
    operations: int


def numbers(words: Words | None) -> int:
    """Return how many numbers an item holds."""
    return words.numbers if words else 1


def dtype_of(words: Words | None) -> np.dtype:
    """Return the type of the sums."""
    return words.sums if words else np.dtype(np.float32)


def items(words: Words | None, size: int) -> np.ndarray:
    """Return ordinary numbers, or words of them, neither zeros nor denormal."""
    draw = np.random.default_rng(0)
    if words is not None and words.sums.kind == "i":
        return draw.integers(0, 2**32, size, np.uint32)
    values = draw.uniform(0.5, 1, size * numbers(words)).astype(np.float32)
    if words == F16:
        return values.astype(np.float16).view(np.uint32)
    return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint32) if words else values


def call(address: int, *arguments: int) -> None:
    """Call a function of 64-bit integers."""
    ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(arguments))(address)(*arguments)


def chains(isa: Isa, words: Words | None) -> Loop:
    """Return the loop in registers.

    Where sum and product are two instructions the product is one of the sum: another one would be
    computed once, before the loop.
    """
    dtype, dot = dtype_of(words), dot_of(isa, words)
    e = Emitter.function("chains", Chains, isa, dtype)
    turns, operands = e.arguments
    ready = dot.ready_vector(e, e.load(operands, 0))
    item = dot.ready_broadcast(e, e.load(operands, e.lanes))
    count = min(CHAINS, dot.rows(isa, 1))

    def of(total: ir.Value) -> Any:
        if dot.fused(isa):
            return ready
        if isinstance(ready, list):
            return [e.builder.bitcast(total, part.type) for part in ready]
        return total

    def step(_: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
        return [dot.add(e, total, of(total), item) for total in carried]

    begins = [ir.Constant(e.vector, [e.scalar(number + 1)] * e.lanes) for number in range(count)]
    for number, total in enumerate(e.loop(turns, step, begins)):
        e.store(total, operands, (2 + number) * e.lanes)  # every chain is needed
    address = load_once(e.finish(), isa, "chains")
    memory = items(words, (2 + count) * e.lanes)
    operations = 2 * numbers(words) * e.lanes * count
    return Loop(lambda turns: call(address, turns, memory.ctypes.data), operations)


def tile(isa: Isa, words: Words | None, MR: int, NV: int, k: int) -> Loop:
    """Return the loop that calls a register tile on operands in L1."""
    dtype = dtype_of(words)
    NR = NV * isa.lanes(dtype)
    columns = tuple(range(0, NR, isa.lanes(dtype)))
    kernel = Microkernel(isa, dtype, tuple(range(MR)), columns, None, NR, "columns", words=words)
    e = Emitter.function("repeat", Repeat, isa, dtype)
    turns, address, *arguments = e.arguments

    def again(_: ir.Value, carried: list[ir.Value]) -> None:
        e.call(address, arguments)

    e.loop(turns, again)
    repeat, code = load_once(e.finish(), isa, "repeat"), kernel.address()
    table = np.random.default_rng(0).integers(0, SPREAD, k).astype(np.int32)
    panel, image = items(words, k * NR), items(words, SPREAD + MR)
    out, bias = np.zeros(MR * NR, dtype), np.zeros(NR, dtype)
    own = Tile(
        k=k,
        vectors=panel.ctypes.data,
        broadcasts=image.ctypes.data,
        table=table.ctypes.data,
        out=out.ctypes.data,
        ld_out=MR,
        bias=bias.ctypes.data,
        valid=NR,
        mode=0,
        geometry=0,
        constants=0,
    )
    kept = panel, image, table, out, bias

    def run(turns: int) -> None:
        assert kept  # as long as their addresses
        call(repeat, turns, code, *own)

    return Loop(run, 2 * numbers(words) * MR * NR * k)


def rates(loops: list[Loop], rounds: int) -> list[float]:
    """Return the most operations per second of each, when they take turns."""
    turns, best = [], [0.0] * len(loops)
    for loop in loops:
        count = 1
        while (taken := timed(loop, count)) < SECONDS / 4:
            count *= 2
        turns.append(max(1, int(count * SECONDS / taken)))
    for _ in range(rounds):
        for number, loop in enumerate(loops):
            rate = loop.operations * turns[number] / timed(loop, turns[number])
            best[number] = max(best[number], rate)
    return best


def timed(loop: Loop, turns: int) -> float:
    """Return the seconds of a run."""
    begin = time.perf_counter()
    loop.run(turns)
    return time.perf_counter() - begin


def tile_sizes(isa: Isa, words: Words | None) -> list[tuple[int, int]]:
    """Return the largest register tiles of one to four vectors, as (rows, vectors)."""
    sizes = [(rows_max(isa, NV, words), NV) for NV in (1, 2, 3, 4)]
    return [(MR, NV) for MR, NV in sizes if MR]


def microkernel_peaks(threads: int) -> dict[str, float]:
    """Return the operations per second of the best register tile of each of `ROOFS`.

    Parameters
    ----------
    threads : int
        That compute at once.
    """
    isa, found = host_isa_extended(), {}
    for name, words in ROOFS.items():
        sizes = tile_sizes(isa, words)
        each = rates([tile(isa, words, *size, K) for size in sizes], ROUNDS)
        best = sizes[max(range(len(each)), key=each.__getitem__)]
        loops = [tile(isa, words, *best, K) for _ in range(threads)]  # each its own operands
        turns = max(1, int(max(each) * SECONDS / loops[0].operations))
        calls = [partial(loop.run, turns) for loop in loops]
        taken = min(seconds_together(calls) for _ in range(ROUNDS))
        found[name] = threads * turns * loops[0].operations / taken
    return found
