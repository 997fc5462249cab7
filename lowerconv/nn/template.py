"""The graph of a network for new extents of its inputs, without recording it anew.

Which layers a network has, and which of them are folded and fused, seldom depends on extents: a
graph is recorded once, and what was asked about extents meanwhile is noted (`graph.ShapeGuards`).
If some were read, there is no template.  Else the same layers are applied to values of other
shapes, as long as those give the same answers to what was asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from lowerconv.copying import not_copied
from lowerconv.nn.attributes import Parameter
from lowerconv.nn.freeze import emptied, taken
from lowerconv.nn.graph import Graph, Node, Value
from lowerconv.ops.activate import Activation

Shape = tuple[int, ...]


class _Kind(NamedTuple):
    """What of a value does not depend on extents."""

    dtype: np.dtype
    half: str | None


class _Applied(NamedTuple):
    """A node, with the numbers of its values."""

    layer: Any
    operands: tuple[int, ...]
    residual: int | None
    result: int
    name: str
    number: int
    activation: Activation | None
    changes: bool  # whether the layer is changed when it is prepared for a program


@not_copied("copy the network, which records anew")
class Template:
    """What graphs of a network for all extents have in common, where its parameters never change.

    Attributes
    ----------
    fits : bool
        Whether graphs can be made of it: extents decide nothing but shapes.
    """

    def __init__(self) -> None:
        self.fits = False
        self._recorded: list[tuple[Any, tuple[int, ...], int]] = []
        self._asked: list[tuple[int, int, bool]] = []  # which shapes were equal
        self._nodes: list[_Applied] = []
        self._numbers: dict[Value, int] = {}
        self._kinds: list[_Kind] = []
        self._inputs = range(0)
        self._results: tuple[int, ...] = ()
        self._parameter_bytes = 0

    def begin(self, graph: Graph) -> None:
        """Note which shapes follow from which, while nothing has been folded.

        Parameters
        ----------
        graph : Graph
            As it was recorded.
        """
        for value in (*graph.inputs, *(node.result for node in graph.nodes)):
            self._numbers.setdefault(value, len(self._numbers))
        self._recorded = [
            (node.layer, self._of(node.operands), self._of([node.result])[0])
            for node in graph.nodes
        ]

    def finish(self, graph: Graph) -> None:
        """Note the layers.

        Parameters
        ----------
        graph : Graph
            The same, folded and fused, before anything is prepared for it.
        """
        self._parameter_bytes = graph.parameter_bytes
        numbers = self._numbers
        asked = [(a, b) for a, b, _ in graph.guards.equalities]
        used = {v for node in graph.nodes for v in (*node.inputs, node.result)}
        used.update(*asked, graph.results)
        if graph.guards.specialized or not used <= numbers.keys():
            self._recorded = []
            self._numbers = {}
            return
        self._asked = [(*self._of([a, b]), alike) for a, b, alike in graph.guards.equalities]
        self._kinds = [_Kind(value.dtype, value.half) for value in numbers]
        self._inputs, self._results = range(len(graph.inputs)), self._of(graph.results)
        self._nodes = [
            _Applied(
                _kept(node),
                self._of(node.operands),
                None if node.residual is None else numbers[node.residual],
                numbers[node.result],
                node.name,
                node.number,
                node.activation,
                bool(node.layer.own_parameters()),
            )
            for node in graph.nodes
        ]
        self._numbers = {}  # with the values
        self.fits = True

    def _of(self, values: Sequence[Value]) -> Any:
        return tuple(self._numbers[value] for value in values)

    def graph(self, shapes: Sequence[Shape]) -> Graph | None:
        """Return the graph for inputs of other shapes.

        Parameters
        ----------
        shapes : sequence of tuple of int
            Of as many axes as when it was recorded.

        Returns
        -------
        Graph or None
            None where recording for these shapes might give another one, or an error.
        """
        extents: list[Shape] = [()] * len(self._kinds)
        extents[: len(shapes)] = shapes
        try:
            for layer, operands, result in self._recorded:
                given = [extents[i] for i in operands]
                extents[result] = layer.fitted(*given).result_shape(*given)
        except (TypeError, ValueError):  # recording raises it, with names in its message
            return None
        if any((extents[a] == extents[b]) != alike for a, b, alike in self._asked):
            return None
        values = [
            Value(shape, dtype) for shape, (dtype, _) in zip(extents, self._kinds, strict=True)
        ]
        for value, (_, half) in zip(values, self._kinds, strict=True):
            value.half = half
        inputs = tuple(values[i] for i in self._inputs)
        nodes = [self._applied(node, values) for node in self._nodes]
        graph = Graph.of(inputs, tuple(values[i] for i in self._results), nodes)
        graph.parameter_bytes = self._parameter_bytes
        return graph

    @staticmethod
    def _applied(node: _Applied, values: list[Value]) -> Node:
        """Return a node for values."""
        operands, result = tuple(values[i] for i in node.operands), values[node.result]
        layer = node.layer.fitted(*(value.extents for value in operands))
        made = Node.of(_twin(layer) if node.changes else layer, operands, result)
        made.name, made.number = node.name, node.number
        made.activation = node.activation
        made.residual = None if node.residual is None else values[node.residual]
        return made


def _twin(layer: Any) -> Any:
    """Return a copy of a layer, as `copy.copy` does in four times the time."""
    twin = object.__new__(type(layer))
    twin.__setstate__(layer.__getstate__())
    return twin


def _kept(node: Node) -> Any:
    """Return the layer of a node; a copy, where preparing the node changes its layer.

    A copy does not hold the filters, which programs hold packed: it makes them again when it is
    asked for them, from the layers that were folded into it.
    """
    layer: Any = node.layer
    parameters = layer.own_parameters()
    if not parameters:
        return layer
    layer = copy(layer)
    weight, bias = parameters.get("weight"), parameters.get("bias")
    if layer.packs_weight and weight is not None and weight.origin:
        layer.weight = emptied(weight)
        whole = partial(_folded, node.absorbed) if node.absorbed else partial(_data_of, weight)
        layer.weight.again = whole
    if layer.packs_weight and bias is not None:
        layer.bias = copy(bias)
        layer.bias.data, layer.bias.is_taken = taken(bias), True
    return layer


def _data_of(parameter: Parameter) -> np.ndarray:
    """Return the data of a parameter."""
    return parameter.data


def _folded(layers: tuple[Any, ...]) -> np.ndarray:
    """Return the weight of the first layer after it has absorbed the others."""
    layer, *others = layers
    for other in others:
        layer = layer.absorbs(other)
    weight: np.ndarray = layer.weight.data
    return weight
