"""The algorithms by their names, and which one "auto" stands for."""

from __future__ import annotations

from functools import lru_cache

from lowerconv.codegen.activation import RELU
from lowerconv.conv import direct, fused, winograd
from lowerconv.conv.algorithm import Algorithm
from lowerconv.conv.blas import lowered, pipelined
from lowerconv.conv.call import NAMES
from lowerconv.conv.converted import Converted
from lowerconv.conv.executable import EmptyPass, Executable, Options, WithEpilogue
from lowerconv.conv.phases import CACHE_SIZE
from lowerconv.conv.problem import ConvProblem, Op
from lowerconv.conv.words import bf16

ALGORITHMS: dict[str, Algorithm] = {
    algorithm.name: algorithm
    for algorithm in (
        direct.ALGORITHM,
        lowered.ALGORITHM,
        pipelined.PIPELINED,
        pipelined.PAIRED,
        fused.ALGORITHM,
        winograd.ALGORITHM,
    )
}


@lru_cache(maxsize=CACHE_SIZE)
def choose(problem: ConvProblem, op: Op, constant: bool = False) -> Algorithm:
    """Return the algorithm of least cost for a pass.

    The choice does not depend on the number of threads, because algorithms differ in the last bits
    of their results.
    """
    words = bf16.estimate(problem, op, constant)

    def cost(algorithm: Algorithm) -> float:
        if algorithm is fused.ALGORITHM and words is not None:
            return words
        return algorithm.estimate(problem.computed, op, constant)

    return min(ALGORITHMS.values(), key=cost)


def make_executable(problem: ConvProblem, op: Op, options: Options) -> Executable:
    """Return a pass, ready to run, by the algorithm of the options.

    Raises
    ------
    ValueError
        The algorithm does not take the problem.
    MemoryError
        The extents are larger than the algorithm can count.
    """
    algorithm = ALGORITHMS[options.algorithm]
    algorithm.check(problem.computed)
    if not problem.N:
        return EmptyPass(options)
    if problem.is_half:
        return _converted(problem, op, options)
    if algorithm.fuses_epilogue(op) or not (options.add or options.activation not in (None, RELU)):
        return algorithm.build(problem, op, options)
    alone = options._replace(activation=None, add=False)
    return WithEpilogue(algorithm.build(problem, op, alone), options)


def _converted(problem: ConvProblem, op: Op, options: Options) -> Executable:
    """Return a pass of 16-bit arrays: on words of them, or by way of float32."""
    shapes = {"x": problem.x_shape, "w": problem.w_shape, "y": problem.y_shape}
    a, b, result = (shapes[name[-1]] for name in NAMES[op])
    bias = (problem.K if options.bias else 0,)
    if options.algorithm == fused.ALGORITHM.name:
        words = bf16.build(problem, op, (a, b, bias, result), options)
        if words is not None:
            return words
    inner = make_executable(problem.computed, op, options)
    return Converted(inner, (a, b, bias, result), problem.dtype, options)
