"""The graph of a network: which layer makes which value of which others."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from lowerconv.codegen.activation import RELU, Activation
from lowerconv.codegen.half_arrays import HALF_DTYPES
from lowerconv.copying import not_copied
from lowerconv.nn.execution_order import ExecutionOrder

if TYPE_CHECKING:
    from lowerconv.nn.layer import Layer
    from lowerconv.nn.module import Module

Shape = tuple[int, ...]


OPERATORS: dict[str, type[Layer]] = {}  # layers that stand for operators between values


@not_copied("record the network anew")
class ShapeGuards:
    """What a recorded network depends on beside its module: what was asked about extents.

    Attributes
    ----------
    specialized : bool
        Whether any were read: with others anything might have been recorded.
    equalities : list of (Value, Value, bool)
        Two values whose shapes were compared, and whether they were equal.
    """

    def __init__(self) -> None:
        self.specialized = False
        self.equalities: list[tuple[Value, Value, bool]] = []


@not_copied("record the network anew")
class Value:
    """What stands for an array while a module tells how it computes.

    Parameters
    ----------
    extents : tuple of int
        Such as (N, C, H, W) or (N, features).
    dtype : dtype
    node : Node, optional
        The node that makes the value; None for the input of the network.
    guards : ShapeGuards, optional
        Of the recording that the value is a part of.

    Attributes
    ----------
    half : str or None
        What it is stored as, bf16 or fp16, where that is not `dtype`; see `nn.precision`.
    contents : ndarray or None
        Of an input whose contents `forward` may look at: see `Module.looked_at`.
    """

    def __init__(
        self,
        extents: Shape,
        dtype: np.dtype,
        node: Node | None = None,
        guards: ShapeGuards | None = None,
    ) -> None:
        self.extents, self.dtype, self.node, self.guards = extents, dtype, node, guards
        self.half: str | None = None
        self.contents: np.ndarray | None = None

    @property
    def shape(self) -> Shape:
        """The extents, for whoever decides by them; `extents` is for those who only pass on."""
        if self.guards is not None:
            self.guards.specialized = True
        return self.extents

    @property
    def ndim(self) -> int:
        """How many axes there are, which is the same for all extents."""
        return len(self.extents)

    def has_shape_of(self, other: Value) -> bool:
        """Return whether the value has the shape of another.

        Parameters
        ----------
        other : Value

        Returns
        -------
        bool
        """
        alike = self.extents == other.extents
        if self.guards is not None:
            self.guards.equalities.append((self, other, alike))
        return alike

    @property
    def stored(self) -> np.dtype:
        """The dtype of what is in memory: integers of 16 bits for bf16 and fp16."""
        return self.dtype if self.half is None else HALF_DTYPES[self.half]

    def __add__(self, other: Value) -> Value:
        if not isinstance(other, Value):
            return NotImplemented
        return OPERATORS["+"]()(self, other)


@not_copied("record the network anew")
class Node:
    """A layer applied to values.

    Attributes
    ----------
    result : Value
    absorbed : tuple of Layer
        What the layer has been folded of, where that is several.
    activation : Activation or None
        What the layer applies last, so that nothing else can follow in it.
    residual : Value or None
        What the layer adds to its result before that.
    number : int
        Tells the nodes of a network apart, whatever becomes of their neighbours. The first graph
        that has the node gives it the number; -1 until then.
    """

    def __init__(
        self, layer: Layer, operands: tuple[Value, ...], shape: Shape, dtype: np.dtype
    ) -> None:
        self.layer, self.operands = layer, operands
        self.result = Value(shape, dtype, self, operands[0].guards if operands else None)
        self.absorbed: tuple[Layer, ...] = ()
        self.name = ""
        self.number = -1
        self.activation: Activation | None = None
        self.residual: Value | None = None

    @classmethod
    def of(cls, layer: Layer, operands: tuple[Value, ...], result: Value) -> Node:
        """Return a node whose result is there."""
        node = cls(layer, operands, result.extents, result.dtype)
        node.result, result.node = result, node
        return node

    @property
    def inputs(self) -> tuple[Value, ...]:
        """All values that the node reads."""
        return self.operands + ((self.residual,) if self.residual is not None else ())


@not_copied("record the network anew")
class Graph:
    """The nodes that make the results of a module, each after those that it reads from.

    Attributes
    ----------
    inputs : tuple of Value
    results : tuple of Value
        What the module returns.
    nodes : list of Node
    guards : ShapeGuards
        While the module was recorded, and since.
    parameter_bytes : int
        Of all parameters of the module.
    """

    parameter_bytes = 0

    def __init__(
        self,
        module: Module,
        x_shape: Any,
        dtype: Any,
        training: bool,
        contents: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        shapes, dtypes = (x_shape, dtype) if isinstance(dtype, tuple) else ((x_shape,), (dtype,))
        self.guards = ShapeGuards()
        self.inputs = tuple(
            Value(tuple(map(int, shape)), np.dtype(kind), guards=self.guards)
            for shape, kind in zip(shapes, dtypes, strict=True)
        )
        for i, array in (contents or {}).items():
            self.inputs[i].contents = array
        made = module(*self.inputs)
        results = made if isinstance(made, tuple) else (made,)
        for result in results:
            if not isinstance(result, Value):
                raise TypeError(
                    f"{type(module).__name__}.forward: returned {result!r}, expected a Value"
                )
        self.results = results if training or module.returns_all else results[:1]
        self.nodes: list[Node] = []
        self._collect()
        self._name(module)

    @classmethod
    def of(cls, inputs: tuple[Value, ...], results: tuple[Value, ...], nodes: list[Node]) -> Graph:
        """Return a graph of nodes that are there, in order."""
        graph = cls.__new__(cls)
        graph.inputs, graph.results, graph.nodes = inputs, results, nodes
        graph.guards = ShapeGuards()
        return graph

    def _collect(self) -> None:
        """List the nodes that the results need, without recursion: networks are deep."""
        seen: set[int] = set()
        stack = [(result.node, False) for result in reversed(self.results)]
        while stack:
            node, ready = stack.pop()
            if node is None or (id(node) in seen and not ready):
                continue
            if ready:
                self.nodes.append(node)
                continue
            seen.add(id(node))
            stack.append((node, True))
            stack += [(value.node, False) for value in reversed(node.inputs)]
        for node in self._ordered(ExecutionOrder.RIGHT_AFTER_OPERANDS):
            self.nodes.remove(node)
            makers = [self.nodes.index(v.node) for v in node.inputs if v.node is not None]
            self.nodes.insert(max(makers, default=-1) + 1, node)
        for node in reversed(self._ordered(ExecutionOrder.RIGHT_BEFORE_READERS)):
            self.nodes.remove(node)
            readers = (i for i, n in enumerate(self.nodes) if node.result in n.inputs)
            self.nodes.insert(next(readers, len(self.nodes)), node)

    def _ordered(self, order: ExecutionOrder) -> list[Node]:
        """Return the nodes whose layers have an order of execution."""
        return [node for node in self.nodes if node.layer.execution_order is order]

    def _name(self, module: Module) -> None:
        names = {id(part): name for name, part in module.modules()}
        owners: dict[int, Node] = {}
        taken = {node.number for node in self.nodes}
        free = (number for number in count() if number not in taken)
        for node in self.nodes:
            if node.number < 0:
                node.number = next(free)
            name = names.get(id(node.layer))
            kind = type(node.layer).__name__
            node.name = f"{name} {kind}" if name else kind
            node.layer._recorded = True
            for own, parameter in node.layer.own_parameters().items():
                other = owners.setdefault(id(parameter), node)
                if other is node:
                    continue
                if other.layer is node.layer:
                    raise ValueError(
                        f"{node.name}: applied twice, expected once for layers with parameters"
                    )
                raise ValueError(  # a layer sets the gradients of its own parameters
                    f"{node.name}: has its {own!r} in common with {other.name}, expected layers "
                    "with parameters of their own"
                )

    @property
    def input(self) -> Value:
        """The first input, of most networks the only one."""
        return self.inputs[0]

    def release(self) -> None:
        """Free the nodes now, which nobody needs any more, and not when Python looks for cycles."""
        for node in self.nodes:
            node.result.node = None
        self.nodes = []

    def replace(self, old: Value, new: Value) -> None:
        """Have all nodes read, and the graph return, another value instead of one."""
        self.results = tuple(new if v is old else v for v in self.results)
        for node in self.nodes:
            node.operands = tuple(new if v is old else v for v in node.operands)
            if node.residual is old:
                node.residual = new

    def merge(self, maker: Node, node: Node) -> None:
        """Let `maker` make what `node` does, at its place: all it reads is there by then."""
        node.result.node, maker.result = maker, node.result
        self.nodes.remove(maker)
        self.nodes[self.nodes.index(node)] = maker

    def consumers(self) -> dict[Value, list[Node]]:
        """Return who reads each value, a node as often as it does."""
        found: dict[Value, list[Node]] = {value: [] for value in self.inputs}
        for node in self.nodes:
            found[node.result] = []
        for node in self.nodes:
            for value in node.inputs:
                found[value].append(node)
        return found


def fold(graph: Graph) -> None:
    """Let layers absorb the layer that follows, where they can: parameters must never change."""
    readers = graph.consumers()
    for node in list(graph.nodes):
        maker = node.operands[0].node
        if maker is None or readers[node.operands[0]] != [node]:
            continue
        if not maker.result.has_shape_of(node.result):  # as a constant of more axes makes it
            continue
        both = None if node.operands[0] in graph.results else maker.layer.absorbs(node.layer)
        if both is not None:
            maker.absorbed = (*(maker.absorbed or (maker.layer,)), node.layer)
            maker.layer = both
            graph.merge(maker, node)


def fuse(graph: Graph, training: bool) -> None:
    """Let layers do what follows them while they store their results: additions, then activations.

    Of activations other than ReLU the derivative wants the operand, which is not kept then.
    """
    readers = graph.consumers()
    for node in list(graph.nodes):
        if node.layer.is_sum:
            for value, other in (node.operands, node.operands[::-1]):
                maker = value.node
                if (
                    maker is not None
                    and maker.layer.takes_residual
                    and maker.residual is None
                    and maker.activation is None
                    and readers[value] == [node]
                    and value not in graph.results
                ):
                    maker.residual = other
                    readers[other][readers[other].index(node)] = maker
                    graph.merge(maker, node)
                    break
        elif node.layer.activation == RELU or (node.layer.activation and not training):
            maker = node.operands[0].node
            if (
                maker is not None
                and maker.result.dtype == node.result.dtype
                and readers[node.operands[0]] == [node]
                and node.operands[0] not in graph.results
                and _activates(maker, node.layer.activation)
            ):
                graph.merge(maker, node)


def _activates(maker: Node, following: Activation) -> bool:
    """Let the layer of a node apply an activation, too, and return whether it does."""
    if not (maker.layer.takes_relu if following == RELU else maker.layer.takes_activation):
        return False
    before = maker.activation
    if before is None:
        maker.activation = following
        return True
    if before == RELU or before.is_scaled or following.function != "affine":
        return False
    maker.activation = before._replace(scale=following.a, shift=following.b)
    return True
