"""What a rank does in the layers of a split network, recorded from the network itself.

The network is cut and split as the strategies do it, and its program runs one sample, forward and
backward.  Layers that send activations do so, with an engine that only takes notes; all others note
how much of the work of the whole layer is theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from math import prod
from typing import Any

import numpy as np

from lowerconv.copying import not_copied
from lowerconv.nn.execution_order import ExecutionOrder
from lowerconv.nn.frame import Frame
from lowerconv.nn.graph import Graph
from lowerconv.nn.layer import Layer
from lowerconv.nn.memory import Arena
from lowerconv.nn.models import MODELS
from lowerconv.nn.module import Module, Shape
from lowerconv.nn.planning import MemoryPlan
from lowerconv.nn.program import Program
from lowerconv.nn.recording import make_graph, parameter_dtype
from lowerconv.nn.step import Step
from lowerconv.parallel.comm.collectives import Routine, all_gather, direct, reduce_scatter
from lowerconv.parallel.comm.engine import Engine, Task
from lowerconv.parallel.comm.link import Link
from lowerconv.parallel.sharding.collective_layers import CollectiveLayer
from lowerconv.parallel.sharding.cut import cut_network, default_border
from lowerconv.parallel.sharding.split import SplitNetwork

ALGORITHMS = {all_gather: "all-gather", reduce_scatter: "reduce-scatter", direct: "direct"}


@dataclass(frozen=True)
class LayerWork:
    """A layer computes.

    Attributes
    ----------
    layer : str
        As a timeline names it where one rank has all of it.
    backward : bool
    share : float
        Of what it does there in this direction.
    """

    layer: str
    backward: bool
    share: float


@dataclass(frozen=True, eq=False)
class Begun:
    """A collective begins.

    Attributes
    ----------
    name, algorithm : str
    nbytes : int
        Of the arrays of one sample.
    priority : float or None
        As of `Engine.submit`.
    """

    name: str
    algorithm: str
    nbytes: int
    priority: float | None


@dataclass(frozen=True)
class Awaited:
    """The main thread waits for a collective.

    Attributes
    ----------
    begun : Begun
    """

    begun: Begun


@dataclass(frozen=True)
class Looked:
    """The main thread moves messages on, if no thread does."""


Recorded = LayerWork | Begun | Awaited | Looked


@dataclass(frozen=True)
class SplitRecord:
    """A network of which each rank has a part, as its last rank sees it.

    It is the last one whose part is the largest.

    Attributes
    ----------
    layers : frozenset of str
        All of the network, as a timeline names them where one rank has all of it.
    forward, backward : tuple of Recorded
        Of the layers that are split.
    front : dict of str to float
        Share of each layer that is not split: of its work before the border.  Empty without border.
    border : int
        Bytes of a sample there; 0 without.
    items : int
        Of the parameters of layers that are split, which this rank has.
    arenas : tuple of int
        Bytes of the activations and gradients of a sample: of the whole network, and of this rank's
        before the border and behind it.
    """

    layers: frozenset[str]
    forward: tuple[Recorded, ...]
    backward: tuple[Recorded, ...]
    front: dict[str, float]
    border: int
    items: int
    arenas: tuple[int, int, int]


@not_copied("make another")
class _NotingEngine(Engine):
    """Sends nothing: notes what is begun, and what is waited for."""

    def __init__(self, rank: int, ranks: int) -> None:
        super().__init__()
        self.rank, self.ranks = rank, ranks
        self.noted: list[Recorded] = []
        self._begun: dict[int, Begun] = {}

    def submit(
        self,
        routine: Callable[[Link], Routine],
        name: str,
        nbytes: int = 0,
        tag: int | None = None,
        *,
        priority: float | None = None,
    ) -> Task:
        """Note a collective."""
        assert isinstance(routine, partial)
        task = Task(name, nbytes, iter(()), Link(None, 0), priority=priority)
        begun = Begun(name, ALGORITHMS[routine.func], nbytes, priority)
        self._begun[id(task)] = begun
        self.noted.append(begun)
        return task

    def wait(self, task: Task) -> None:
        """Note that somebody waits; what should have come is not there."""
        self.noted.append(Awaited(self._begun.pop(id(task))))

    def take(self) -> tuple[Recorded, ...]:
        """Return what has been noted since the last time."""
        noted, self.noted = tuple(self.noted), []
        return noted


class _Noting(Layer):
    """Takes the place of a layer in a program, and computes nothing."""

    def __init__(self, layer: Layer, frame: Frame, share: float, noted: _NotingEngine) -> None:
        super().__init__()
        self.name, self.share, self.noting = frame.name, share, noted
        self.execution_order = layer.execution_order
        later = self.execution_order is ExecutionOrder.WEIGHT_GRADIENTS_LATER
        # Gradients of the operand and of the weights take the same products.
        self.left = (0.5 if frame.dx is not None else 1.0) if later else 0.0

    def _add(self, backward: bool, part: float) -> None:
        if part * self.share:
            self.noting.noted.append(LayerWork(self.name, backward, part * self.share))

    def compute(self, frame: Frame, step: Step) -> None:
        """Note it."""
        self._add(False, 1.0)

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Note it, but for what is left for later."""
        self._add(True, 1.0 - self.left)

    def differentiate_weights(self, frame: Frame, step: Step) -> None:
        """Note what was left."""
        self._add(True, self.left)


def _work(layer: Layer, shape: Shape) -> int:
    """Return what the work of a layer is in proportion to: items of its weights, or its result."""
    own = [parameter.data.size for parameter in layer.own_parameters().values()]
    return max(own, default=prod(shape))


def _work_by_name(graph: Graph) -> dict[str, int]:
    """Return the work of all nodes of a graph, by the names that timelines have."""
    found: dict[str, int] = {}
    for node in graph.nodes:
        found[node.name] = found.get(node.name, 0) + _work(node.layer, node.result.shape)
    return found


def _graph(module: Module, x_shape: Shape) -> Graph:
    return make_graph(module, x_shape, parameter_dtype(module), training=True)


@lru_cache(maxsize=64)
def record_split(
    model: str, image_shape: tuple[int, int, int], classes: int, border: str | None, ranks: int
) -> SplitRecord:
    """Return what the last of some ranks does where layers are split.

    Parameters
    ----------
    model : str
        One of `MODELS`.
    image_shape : (C, H, W)
    classes : int
    border : str or None
        The first layer that is split, as of `cut_network`; an empty one stands for that of OWT by
        default.  None: all layers are split.
    ranks : int

    Raises
    ------
    ValueError
        There is no such network, or it cannot be cut there.
    """
    if model not in MODELS:
        raise ValueError(
            f"model: got {model!r}, expected one of {', '.join(MODELS)}: of others it is not known "
            "how they are split"
        )
    network = MODELS[model].build(image_shape, classes)
    shape = (1, *image_shape)
    whole = _graph(network, shape)
    total = _work_by_name(whole)
    before = MemoryPlan(whole, True, False).nbytes
    part, front, border_bytes, front_arena = network, dict[str, float](), 0, 0
    if border is not None:
        first, part = cut_network(
            network, border or default_border(network, image_shape), image_shape
        )
        graph = _graph(first, shape)
        front = {name: work / total[name] for name, work in _work_by_name(graph).items()}
        front_arena = MemoryPlan(graph, True, False).nbytes
        shape = graph.results[0].shape
        border_bytes = prod(shape) * graph.results[0].dtype.itemsize
    engine = _NotingEngine(ranks - 1, ranks)
    split = SplitNetwork(part, shape, engine, input_partial=border is not None)
    graph = _graph(split, shape)
    for node in graph.nodes:
        node.layer.__dict__["prepare"] = _prepare_nothing
    program = Program(split, graph, True, border is not None, Arena())
    program.steps = [
        (_noting(layer, frame, total, engine), frame) for layer, frame in program.steps
    ]
    forward, backward = _run(program, shape, engine)
    return SplitRecord(
        layers=frozenset(total),
        forward=forward,
        backward=backward,
        front=front,
        border=border_bytes,
        items=sum(parameter.data.size for parameter in split.parameters().values()),
        arenas=(before, front_arena, program.plan.nbytes),
    )


def _prepare_nothing(frame: Frame) -> None:
    """Make no kernels: nothing is computed."""


def _noting(layer: Layer, frame: Frame, total: dict[str, int], engine: _NotingEngine) -> Layer:
    """Return what takes the place of a layer: itself where it sends."""
    if isinstance(layer, CollectiveLayer):
        return layer
    # The bias behind a sum belongs to a layer that was timed with it.
    name = frame.name.removesuffix("Shard")
    share = _work(layer, frame.y.shape) / total[name] if name in total else 0.0
    frame.name = name
    return _Noting(layer, frame, share, engine)


def _run(
    program: Program, shape: Shape, engine: _NotingEngine
) -> tuple[tuple[Recorded, ...], tuple[Recorded, ...]]:
    """Run a program of layers that take notes; return what was noted forward and backward."""

    def watch(*_: Any) -> None:
        engine.noted.append(Looked())

    x = np.zeros(shape, program.graph.input.dtype)
    results = program.forward(x, Step(training=True), (watch,))
    forward = engine.take()
    gradients = results if isinstance(results, tuple) else (results,)
    program.backward(tuple(map(np.zeros_like, gradients)), (watch,))
    return forward, engine.take()
