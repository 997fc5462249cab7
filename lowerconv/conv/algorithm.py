"""What an algorithm is: a way to run the passes of a convolution.

An algorithm is a file (or folder) that ends with an `Algorithm`; the table of all of them is in
`conv.algorithms`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lowerconv.conv.executable import Executable, Options
from lowerconv.conv.problem import ConvProblem, Op


def _takes_all(problem: ConvProblem) -> None:
    """Take every problem."""


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
    estimate : callable
        ``estimate(problem, op, constant)``: the cost in one thread (`conv.costs`), by which "auto"
        chooses; infinite where it should not be chosen.
    build : callable
        ``build(problem, op, options)``: the pass, made ready to run on ``options.threads``.  It
        computes the bias and the ReLU of the options; the activation and the addition only where
        the algorithm `adds`, else they are done after it.
    adds : callable
        ``adds(op)``: whether the pass can add to what is there while it stores its results, and
        apply an activation of any kind.
    check : callable
        ``check(problem)``: raises ValueError for a problem that the algorithm does not take.
    variants : callable
        ``variants(problem, op, constant)``: names of the variants that tuning measures; None is the
        one of least cost.
    """

    name: str
    reason: str
    estimate: Callable[[ConvProblem, Op, bool], float]
    build: Callable[[ConvProblem, Op, Options], Executable]
    adds: Callable[[Op], bool] = lambda op: False
    check: Callable[[ConvProblem], None] = _takes_all
    variants: Callable[[ConvProblem, Op, bool], tuple[str | None, ...]] = _no_variants

    def takes(self, problem: ConvProblem) -> bool:
        """Return whether the algorithm takes a problem."""
        try:
            self.check(problem)
        except ValueError:
            return False
        return True
