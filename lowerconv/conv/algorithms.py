"""The algorithms by their names, and which one "auto" stands for."""

from __future__ import annotations

from lowerconv.conv import direct, fused, winograd
from lowerconv.conv.algorithm import Algorithm
from lowerconv.conv.blas import lowered, pipelined
from lowerconv.conv.executable import Executable, Nothing, Options, WithEpilogue
from lowerconv.conv.problem import ConvProblem, Op

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


def choose(problem: ConvProblem, op: Op, constant: bool = False) -> Algorithm:
    """Return the algorithm of least cost for a pass.

    The choice does not depend on the number of threads, because algorithms differ in the last bits
    of their results.
    """
    return min(ALGORITHMS.values(), key=lambda a: a.estimate(problem, op, constant))


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
    algorithm.check(problem)
    if not problem.N:
        return Nothing(options)
    if algorithm.fuses_epilogue(op) or not (options.add or options.activation):
        return algorithm.build(problem, op, options)
    if not options.add:
        plain = options._replace(activation=None)
        return WithEpilogue(algorithm.build(problem, op, plain), options)
    alone = options._replace(relu=False, activation=None, add=False)
    return WithEpilogue(algorithm.build(problem, op, alone), options)
