"""The most that fused multiply-adds give on this machine, measured: what 100% of peak means.

    python -m lowerconv.bench.peak [THREADS]

The loop touches no memory: chains of multiply-adds in registers, enough of them that none waits for
the one before it.
"""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache

import llvmlite.binding as llvm
from llvmlite import ir

from lowerconv.bench.together import seconds_together
from lowerconv.machine.features import host_features, instruction_set
from lowerconv.runtime.threads import get_num_threads

#          set:     floats in a register, chains: as many as leave registers for the two factors
_VECTORS = {"avx512": (16, 24), "avx2": (8, 12), "sse": (4, 12), "neon": (4, 24)}
_VECTORS |= {"sve512": (16, 24), "sve256": (8, 24)}
RUNS, SECONDS = 6, 0.01  # the best of some short runs: one may meet another process


def _source(lanes: int, chains: int, fused: bool, scalable: bool) -> str:
    """Return LLVM IR of ``float burn(int64 turns, float a, float b)``, multiply-adds in a loop.

    A chain is ``x = a b + x`` where that is one instruction; where it is two the product would be
    computed once for all, so it is ``x = a x + b``.
    """
    vector, word = ir.VectorType(ir.FloatType(), lanes), ir.IntType(64)
    module = ir.Module()
    module.triple = llvm.get_process_triple()
    burn = ir.Function(
        module, ir.FunctionType(ir.FloatType(), [word, ir.FloatType(), ir.FloatType()]), "burn"
    )
    if scalable:  # of no other length: so vectors are registers of SVE
        granules = lanes // 4
        set.add(burn.attributes, f"vscale_range({granules},{granules})")
    fma = ir.Function(module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{lanes}f32")
    entry, loop, done = (burn.append_basic_block(name) for name in ("entry", "loop", "done"))
    builder = ir.IRBuilder(entry)
    factors = []
    for scalar in burn.args[1:]:
        single = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, word(0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), None)
        factors.append(builder.shuffle_vector(single, single, zeros))
    builder.branch(loop)

    builder.position_at_end(loop)
    turn = builder.phi(word)
    turn.add_incoming(word(0), entry)
    sums = [builder.phi(vector) for _ in range(chains)]
    steps = []
    for number, total in enumerate(sums):
        # Each chain starts elsewhere: equal ones would be merged into one.
        total.add_incoming(ir.Constant(vector, [float(number)] * lanes), entry)
        if fused:
            step = builder.call(fma, [*factors, total])  # in place: no register is copied
        else:
            step = builder.fadd(builder.fmul(total, factors[0]), factors[1])
        total.add_incoming(step, loop)
        steps.append(step)
    following = builder.add(turn, word(1))
    turn.add_incoming(following, loop)
    builder.cbranch(builder.icmp_unsigned("<", following, burn.args[0]), loop, done)

    builder.position_at_end(done)
    result = steps[0]
    for step in steps[1:]:
        result = builder.fadd(result, step)  # every chain is needed
    builder.ret(builder.extract_element(result, word(0)))
    return str(module)


@lru_cache
def _burner() -> tuple[object, int]:
    """Return the compiled loop, which releases the GIL, and the FLOP of one turn."""
    name = instruction_set()
    lanes, chains = _VECTORS.get(name, (4, 12))
    features = host_features()
    scalable = name.startswith("sve")
    fused = scalable or name in ("avx512", "avx2", "neon")
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=",".join(f"{'+' if has else '-'}{name}" for name, has in features.items()),
        opt=2,
    )
    source = _source(lanes, chains, fused, scalable)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(source), machine)
    engine.finalize_object()
    prototype = ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_int64, ctypes.c_float, ctypes.c_float)
    burn = prototype(engine.get_function_address("burn"))
    burn.engine = engine  # type: ignore[attr-defined]  # the code lives as long as its engine
    return burn, 2 * lanes * chains


def _run(threads: int, turns: int) -> float:
    """Return the seconds from the first thread's start to the last one's end."""
    burn, _ = _burner()
    return seconds_together([lambda: burn(turns, 0.5, 1.0)] * threads)  # type: ignore[operator]


def fma_peak(threads: int) -> float:
    """Return the float32 FLOP/s of `threads` cores that do nothing but multiply and add."""
    _, flops = _burner()
    turns = 10_000
    while (taken := _run(1, turns)) < SECONDS / 4:
        turns *= 2
    turns = int(turns * SECONDS / taken)
    return max(threads * turns * flops / _run(threads, turns) for _ in range(RUNS))


if __name__ == "__main__":
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else get_num_threads()
    print(f"{fma_peak(threads) / 1e9:.0f} GFLOP/s on {threads} threads ({instruction_set()})")
