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


def _takes_all(problem: ConvProblem) -> None:
    """Take every problem."""


def _never(problem: ConvProblem, op: Op, constant: bool) -> float:
    """Return the cost of what "auto" takes only where tuning measured it to be the fastest."""
    return inf


def _no_variants(problem: ConvProblem, op: Op, constant: bool) -> tuple[str | None, ...]:
    """Return the only variant there is."""
    return (None,)


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
        chooses; infinite, as by default, where it should not be chosen.
    fuses_epilogue : callable
        ``fuses_epilogue(op)``: whether the pass itself adds to what is there, where that is asked
        for, and applies activations of all kinds; by default it does neither.
    check : callable
        ``check(problem)``: raises ValueError for a problem that the algorithm does not take.
    variants : callable
        ``variants(problem, op, constant)``: names of the variants that tuning measures; None is the
        one of least cost.
    emits : bool
        Whether its inner loops are emitted microkernels, whose assembly plans can show.
    tuned_below : float
        FLOP of a problem from which on tuning does not measure it.
    """

    name: str
    build: Callable[[ConvProblem, Op, Options], Executable]
    reason: str = ""
    estimate: Callable[[ConvProblem, Op, bool], float] = _never
    fuses_epilogue: Callable[[Op], bool] = lambda op: False
    check: Callable[[ConvProblem], None] = _takes_all
    variants: Callable[[ConvProblem, Op, bool], tuple[str | None, ...]] = _no_variants
    emits: bool = False
    tuned_below: float = inf

    def takes(self, problem: ConvProblem) -> bool:
        """Return whether the algorithm takes a problem."""
        try:
            self.check(problem)
        except ValueError:
            return False
        return True
