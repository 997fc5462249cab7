"""A case: candidates that do the same work, and what is known about that work."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from lowerconv.arguments import Number, checked
from lowerconv.bench.cases import Layer, layers
from lowerconv.bench.interleaved import Run
from lowerconv.bench.passes import arrays_of, compulsory_bytes, flops, planned_run, problem
from lowerconv.conv.plan import algorithms
from lowerconv.machine.variables import THREADS_MAX

REFERENCE = "lowering"
SLOW = 2e9  # FLOP of a call above which the loop nest is left out: tables would take minutes more
SECONDS = 0.8  # for all candidates of a case together

THREADS, BATCH = Number(int, 1, THREADS_MAX), Number(int, 1)
DURATION = Number(float, 1e-3, 3600)  # seconds for all candidates of a case together


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes
    ----------
    threads : int
        The most that any candidate runs on.
    batch : int or None
        Images; None where every network has its own.
    passes : tuple of str
        Of `PASSES` and "backward".
    layers : Pattern
        To be found in the name of a layer.
    seconds : float
        For all candidates of a case together.
    """

    threads: int
    batch: int | None = None
    passes: tuple[str, ...] = ()
    layers: re.Pattern[str] = re.compile("")
    seconds: float = SECONDS

    def __post_init__(self) -> None:
        for name, kind in (("threads", THREADS), ("batch", BATCH), ("seconds", DURATION)):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, checked(name, kind, value))

    @property
    def images(self) -> int:
        """The batch, where there is one."""
        if self.batch is None:
            raise ValueError("batch: got None, expected a number of images")
        return self.batch


@dataclass(frozen=True)
class Case:
    """Candidates that do the same work.

    Attributes
    ----------
    labels : dict of str to str
        What tells this case from the others of its table, such as the layer and the pass.
    names : tuple of str
        The candidates.
    build : callable
        Takes names, and returns a call for each, ready to be timed.
    facts : dict
        What is known about the work, JSON-able: ``flops`` and ``bytes`` of a call, for example.
    agree : bool
        Whether candidates return the same arrays, which is then checked.
    """

    labels: dict[str, str]
    names: tuple[str, ...]
    build: Callable[[Iterable[str]], dict[str, Run]]
    facts: dict[str, Any] = field(default_factory=dict)
    agree: bool = True

    def __str__(self) -> str:
        return ", ".join(self.labels.values())


def selected(network: str, options: Options) -> list[Layer]:
    """Return the layers of a network that are asked for."""
    return [layer for layer in layers(network) if options.layers.search(layer.name)]


def able(layer: Layer, batch: int, op: str = "") -> tuple[str, ...]:
    """Return the algorithms that take a layer."""
    return algorithms(problem(layer, batch))


def fast_enough(layer: Layer, batch: int, op: str) -> tuple[str, ...]:
    """Return the algorithms that a pass of a layer is measured with."""
    slow = flops(layer, batch, op) > SLOW
    return tuple(name for name in able(layer, batch, op) if name != "direct" or not slow)


def layer_cases(
    network: str,
    options: Options,
    choose: Callable[[Layer, int, str], tuple[str, ...]] = fast_enough,
) -> list[Case]:
    """Return a case for each layer and pass; algorithms are its candidates.

    Parameters
    ----------
    network : str
        Of `cases/`.
    options : Options
    choose : callable
        Takes a layer, the batch and the pass, and returns the algorithms.
    """
    return [
        Case(
            {"network": network, "layer": layer.name, "pass": op},
            choose(layer, options.images, op),
            partial(algorithm_runs, layer, options.images, op),
            layer_facts(layer, options.images, op),
        )
        for layer in selected(network, options)
        for op in options.passes
    ]


def algorithm_runs(layer: Layer, batch: int, op: str, names: Iterable[str]) -> dict[str, Run]:
    """Return a call for each algorithm, all of them on the same operands."""
    arrays = arrays_of(layer, batch, op)
    return {name: planned_run(layer, batch, op, name, arrays) for name in names}


def layer_facts(layer: Layer, batch: int, op: str) -> dict[str, Any]:
    """Return what is known about a pass of a layer; published figures among it."""
    return {
        "flops": flops(layer, batch, op),
        "bytes": compulsory_bytes(layer, batch, op),
        **layer.published,
    }
