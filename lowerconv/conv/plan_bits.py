"""Plans between images of the bits of bf16, as networks store them; filters and bias are float32.

Filters are rounded to bf16 before they are multiplied; sums, float32, once more when they are
stored.
"""

from __future__ import annotations

from dataclasses import replace

from lowerconv.conv import fused
from lowerconv.conv.algorithms import ALGORITHMS
from lowerconv.conv.executable import Options
from lowerconv.conv.plan import ConvPlan
from lowerconv.conv.problem import BF16_BITS, ConvProblem, Op
from lowerconv.conv.words import bf16

FUSED = fused.ALGORITHM.name


def words_cost_less(problem: ConvProblem, op: Op, options: Options) -> bool:
    """Return whether a pass of float32 takes less time on words of two bf16.

    Parameters
    ----------
    problem : ConvProblem
        Of float32.
    op : {"forward", "input_grad", "weight_grad"}
    options : Options
        Of an algorithm other than those of words: never.
    """
    if options.algorithm not in ("auto", FUSED) or not problem.N:
        return False
    activation = options.activation
    if activation is not None and not activation.in_registers:
        return False
    cost = bf16.estimate(replace(problem, dtype=BF16_BITS), op, options.constant)
    if cost is None:
        return False
    found = ALGORITHMS.values() if options.algorithm == "auto" else [fused.ALGORITHM]
    return cost < min(each.estimate(problem, op, options.constant) for each in found)


def plan_bits(problem: ConvProblem, op: Op, options: Options) -> ConvPlan:
    """Return the plan of a pass of float32 as one between bits of bf16, on words of two."""
    chosen = options._replace(algorithm=FUSED)
    plan = ConvPlan(replace(problem, dtype=BF16_BITS), op, chosen)
    plan.reason = "words of two bf16 cost less than float32"
    return plan
