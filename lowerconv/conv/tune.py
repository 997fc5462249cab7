"""Which algorithm, and which variant of it, runs a problem fastest: measured, and remembered."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from lowerconv.conv.algorithms import ALGORITHMS
from lowerconv.conv.problem import ConvProblem, Op
from lowerconv.conv.wisdom import recall, remember

SECONDS = 0.2  # to measure all candidates of a problem
LEAST, MOST = 3, 100  # rounds in which candidates take turns


class Candidate(NamedTuple):
    """An algorithm, and which of its variants."""

    algorithm: str
    variant: str | None = None

    def __str__(self) -> str:
        return self.algorithm + (f" ({self.variant})" if self.variant else "")


def problem_key(problem: ConvProblem, op: Op, constant: bool) -> str:
    """Return the key under which a choice is remembered.

    The number of threads is no part of it: candidates differ in the last bits of their results, and
    results must not depend on the threads.
    """
    p = problem
    (top, bottom), (left, right) = p.padding
    text = (
        f"{op} {p.dtype.name} x{p.x_shape} w{p.w_shape} stride{p.stride} "
        f"padding{top, bottom, left, right} dilation{p.dilation} groups{p.groups}"
    )
    return (text + (" constant" if constant else "")).replace(", ", ",")


def candidates(problem: ConvProblem, op: Op, constant: bool) -> list[Candidate]:
    """Return the algorithms, and their variants, that are measured."""
    computed = problem.computed
    return [
        Candidate(name, variant)
        for name, algorithm in ALGORITHMS.items()
        if algorithm.takes(computed) and computed.flops < algorithm.tuned_below
        for variant in algorithm.variants(computed, op, constant)
    ]


def recalled(problem: ConvProblem, op: Op, constant: bool) -> Candidate | None:
    """Return the choice that is remembered for a problem, if it still exists."""
    choice = recall(problem_key(problem, op, constant))
    if choice is None:
        return None
    candidate = Candidate(str(choice.get("algorithm")), choice.get("variant"))
    return candidate if candidate in candidates(problem, op, constant) else None


def measure(
    problem: ConvProblem,
    op: Op,
    constant: bool,
    build: Callable[[Candidate], Callable[..., Any]],
) -> list[tuple[Candidate, float]]:
    """Measure the candidates, remember the fastest, and return all with their seconds, best first.

    They take turns in shuffled order, and the least time of each counts: disturbances of the
    machine only ever add to it.
    """
    rng = np.random.default_rng(0)
    shapes = {
        "forward": (problem.x_shape, problem.w_shape, problem.y_shape),
        "input_grad": (problem.y_shape, problem.w_shape, problem.x_shape),
        "weight_grad": (problem.y_shape, problem.x_shape, problem.w_shape),
    }[op]
    first, second, out = (
        rng.standard_normal(shape, np.float32).astype(problem.dtype) for shape in shapes
    )
    runs: dict[Candidate, Callable[..., Any]] = {}
    spent = 0.0
    for candidate in candidates(problem, op, constant):
        try:
            run = build(candidate)
        except MemoryError:
            continue  # as it would be for the caller
        run(first, second, out=out)  # compiles, and faults pages in
        begin = time.perf_counter()
        run(first, second, out=out)
        spent += time.perf_counter() - begin
        runs[candidate] = run
    best = dict.fromkeys(runs, float("inf"))
    order, shuffler = list(runs.items()), random.Random(0)
    for _ in range(max(LEAST, min(MOST, int(SECONDS / spent)))):
        shuffler.shuffle(order)
        for candidate, run in order:
            begin = time.perf_counter()
            run(first, second, out=out)
            best[candidate] = min(best[candidate], time.perf_counter() - begin)
    ranking = sorted(best.items(), key=lambda item: item[1])
    winner = ranking[0][0]
    remember(
        problem_key(problem, op, constant),
        {"algorithm": winner.algorithm, "variant": winner.variant},
    )
    return ranking
