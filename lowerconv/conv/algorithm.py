"""What an algorithm is: a way to run the passes of a convolution.

An algorithm is a file (or folder) that ends with an `Algorithm`; the table of all of them is in
`conv.algorithms`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from lowerconv.conv.executable import Executable, Options
from lowerconv.conv.problem import ConvProblem, Op

Variants = Callable[[ConvProblem, Op, bool], tuple[str | None, ...]]


@dataclass(frozen=True)
class Algorithm:
    """One of the names that ``algorithm=`` takes.

    Attributes
    ----------
    name : str
    reason : str
        Why "auto" takes it where it does, for people.
    build : callable
        ``build(problem, op, options)``: the pass, made ready to run on ``options.threads``.  It
        computes the bias and the ReLU of the options; the activation and the addition only where
        the algorithm `fuses_epilogue`, else they are done after it.
    estimate : callable
        ``estimate(problem, op, constant)``: the cost in one thread (`conv.costs`), by which "auto"
        chooses; infinite, as by default, where only tuning may choose it.
    fuses_epilogue : callable
        ``fuses_epilogue(op)``: whether the pass itself adds to what is there, where that is asked
        for, and applies activations of all kinds; by default it does neither.
    check : callable
        ``check(problem)``: raises ValueError for a problem that the algorithm does not take.
    variants : callable
        ``variants(problem, op, constant)``: names of the variants that tuning measures; None, by
        default the only one, is the one of least cost.
    emits : bool
        Whether its inner loops are emitted microkernels, whose assembly plans can show.
    tuned_below : float
        FLOP of a problem from which on tuning does not measure it.
    """

    name: str
    build: Callable[[ConvProblem, Op, Options], Executable]
    reason: str = ""
    estimate: Callable[[ConvProblem, Op, bool], float] = lambda problem, op, constant: inf
    fuses_epilogue: Callable[[Op], bool] = lambda op: False
    check: Callable[[ConvProblem], object] = lambda problem: None
    variants: Variants = lambda problem, op, constant: (None,)
    emits: bool = False
    tuned_below: float = inf

    def takes(self, problem: ConvProblem) -> bool:
        """Return whether the algorithm takes a problem."""
        try:
            self.check(problem)
        except ValueError:
            return False
        return True
