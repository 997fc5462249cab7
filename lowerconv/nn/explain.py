"""What a network does: its layers, how each is computed, why so, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from time import perf_counter
from typing import Any

import numpy as np

from lowerconv.nn.computed import Computed
from lowerconv.nn.frame import Frame
from lowerconv.nn.layer import Layer
from lowerconv.nn.module import Module
from lowerconv.nn.program import Program, program_of
from lowerconv.nn.sharing import Execution
from lowerconv.nn.step import INFERENCE

Shape = tuple[int, ...]


@dataclass
class LayerReport:
    """One layer of a network.

    Attributes
    ----------
    name, operator : str
    shape : tuple of int
        Of the result.
    how : str
        "compiled", "NumPy", "onnx.reference" or "ONNX Runtime".
    algorithm, reason : str
        Of a convolution, and why it was chosen; empty for others.
    flop : int
        Additions and multiplications of products.
    nbytes : int
        Of the result; 0 where it is a view of another one.
    seconds : float or None
        The shortest of several runs, if they were measured.
    """

    name: str
    operator: str
    shape: Shape
    how: str
    algorithm: str
    reason: str
    flop: int
    nbytes: int
    seconds: float | None = None


@dataclass
class Explanation:
    """What `explain` of a network returns; printed it is a table.

    Attributes
    ----------
    file : str
    shapes : tuple of tuple of int
        Of the inputs.
    layers : list of LayerReport
    edges : list of (int, int)
        Which layer reads from which: numbers in `layers` of the one that is read, and of the
        reader; by readers.
    arena : int
        Bytes of all results, of which those that are not needed together share memory.
    """

    file: str
    shapes: tuple[Shape, ...]
    layers: list[LayerReport] = field(default_factory=list)
    edges: list[tuple[int, int]] = field(default_factory=list)
    arena: int = 0

    @property
    def flop(self) -> int:
        """All additions and multiplications of products."""
        return sum(layer.flop for layer in self.layers)

    def __str__(self) -> str:
        head = ("layer", "operator", "shape", "computed by", "GFLOP", "MiB", "algorithm")
        timed = any(layer.seconds is not None for layer in self.layers)
        rows = [(*head[:6], "ms", head[6]) if timed else head]
        for layer in self.layers:
            time = (f"{1e3 * (layer.seconds or 0):.3f}",) if timed else ()
            why = f"{layer.algorithm}: {layer.reason}" if layer.reason else layer.algorithm
            size = f"{layer.nbytes / 2**20:.2f}"
            shape = "x".join(map(str, layer.shape))
            rows.append(
                (layer.name, layer.operator, shape, layer.how)
                + (f"{layer.flop / 1e9:.3f}", size, *time, why)
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        shapes = ", ".join(map(str, self.shapes))
        total = f"{self.flop / 1e9:.3f} GFLOP, {self.arena / 2**20:.2f} MiB of arena"
        return "\n".join([f"{self.file}, inputs {shapes}: {total}", *lines])


def _report(layer: Layer, frame: Frame, computed_by: Callable[[Layer], str]) -> LayerReport:
    """Return what one place of a program does."""
    operator = type(layer).__name__
    if operator in ("Pointwise", "Arithmetic"):
        operator = str(getattr(layer, "function", getattr(layer, "operation", operator)))
    elif isinstance(layer, Computed):
        operator = layer.name
    plan = frame.prepared.get("forward")
    algorithm, reason = getattr(plan, "algorithm", ""), getattr(plan, "reason", "")
    if frame.residual is not None:
        operator += " + sum"
    if frame.activation is not None:
        operator += " + ReLU" if frame.relu else f" + {frame.activation.function}"
    how = computed_by(layer)
    if frame.conversions is not None:
        how += ", float32 between conversions"
    nbytes = prod(frame.y.shape) * frame.y.dtype.itemsize
    return LayerReport(
        *(frame.name, operator, frame.y.shape, how, algorithm, reason),
        flop=layer.flops(*(x.shape for x in frame.xs)),
        nbytes=0 if layer.is_view and frame.views[0] else nbytes,
    )


def computed_by(layer: Layer) -> str:
    """Return what computes a layer.

    Parameters
    ----------
    layer : Layer

    Returns
    -------
    str
    """
    return str(getattr(layer, "how", "compiled"))


def explanation(
    module: Module,
    name: str,
    arrays: tuple[np.ndarray, ...],
    repeats: int = 0,
    computed_by: Callable[[Layer], str] = computed_by,
) -> Explanation:
    """Return what a network does, given inputs that it takes.

    Parameters
    ----------
    module : Module
    name : str
        Of it, for people.
    arrays : tuple of ndarray
        The inputs.
    repeats : int
        Runs to measure each layer with; 0 measures nothing.
    computed_by : callable
        Given a layer, tells what computes it.

    Returns
    -------
    Explanation
    """
    found = Explanation(name, tuple(array.shape for array in arrays))
    x = arrays[0] if len(arrays) == 1 else arrays
    program = program_of(module, Execution(), x, False, False)
    found.layers = [_report(layer, frame, computed_by) for layer, frame in program.steps]
    found.arena = program.nbytes
    number = {node: i for i, node in enumerate(program.graph.nodes)}
    found.edges = [
        (number[value.node], i)
        for i, node in enumerate(program.graph.nodes)
        for value in node.inputs
        if value.node is not None
    ]
    if repeats:
        for layer, seconds in zip(found.layers, _measured(program, x, repeats), strict=True):
            layer.seconds = seconds
    return found


def _measured(program: Program, x: Any, repeats: int) -> list[float]:
    """Return the shortest time of each node, in seconds."""
    times = np.full((repeats, len(program.steps)), np.inf)
    moments: list[float] = []

    def watch(layer: Layer, frame: Frame, what: str) -> None:
        moments.append(perf_counter())

    program.forward(x, INFERENCE)
    for row in times:
        moments.clear()
        moments.append(perf_counter())
        program.forward(x, INFERENCE, (watch,))
        row[:] = np.diff(moments)
    return [float(t) for t in times.min(axis=0)]
