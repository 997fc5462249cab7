"""The graph of a network, recorded and written anew: every rank computes a part of each value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lowerconv.copying import not_copied
from lowerconv.nn.graph import Graph, Node, Value
from lowerconv.nn.layer import Layer
from lowerconv.nn.module import Module
from lowerconv.parallel.comm.engine import Engine
from lowerconv.parallel.comm.link import MessageMemory
from lowerconv.parallel.sharding.cut import NetworkPart


@not_copied("make another `Trainer` or strategy in each process")
class ShardedValue:
    """What the ranks have of a value of the network: each its shard, or all the whole.

    Attributes
    ----------
    number : int
        Of the node that makes it; -1 of the input.
    value : Value or None
        The whole, or this rank's shard; None of a concatenation, which has `parts`.
    layout : Layout, Rows, Samples or None
        Of a shard; None where all ranks have the whole.
    parts : list of ShardedValue
    made : dict of str to Value
        The value in other forms, which layers need.
    """

    def __init__(self, number: int, value: Value | None, layout: Any = None) -> None:
        self.number, self.value, self.layout = number, value, layout
        self.parts: list[ShardedValue] = []
        self.concat: Callable[..., Value] | None = None
        self.made: dict[str, Value] = {}


@not_copied("copy the network before it is sharded")
class ShardedNetwork(NetworkPart):
    """This rank's part of a network of which every rank computes a part: the base of both kinds.

    Takes the whole batch, and returns the whole results, on every rank.

    Parameters
    ----------
    module : Module
        With the same weights on all ranks.
    engine : Engine
    """

    _whole_network: Module

    def __init__(self, module: Module, engine: Engine) -> None:
        super().__init__([])
        self.__dict__["_whole_network"] = module  # not a child: its layers are in `layers`
        self.engine = engine
        self._names = {id(part): name for name, part in module.modules()}
        self._pool = MessageMemory()
        self._titles = {-1: "input"}  # of nodes, for timelines
        self._kept: dict[tuple[int, str], tuple[Layer, ...]] = {}

    def forward(self, *values: Value) -> Value | tuple[Value, ...]:
        """Record this rank's part."""
        (x,) = values
        module = self._whole_network
        if self.engine.ranks == 1:
            return module(x)
        graph = Graph(module, x.shape, x.dtype, training=True)
        sharded = {graph.input: ShardedValue(-1, x)}
        for node in graph.nodes:
            self._titles[node.number] = self._names.get(id(node.layer), node.name)
            is_result = node.result in graph.results
            sharded[node.result] = self._rewrite(
                node, [sharded[v] for v in node.operands], is_result
            )
        results = tuple(self._whole(sharded[value]) for value in graph.results)
        return results if len(results) > 1 else results[0]

    def _rewrite(self, node: Node, operands: list[ShardedValue], is_result: bool) -> ShardedValue:
        """Return what the ranks have of a node's result."""
        raise NotImplementedError

    def _whole(self, x: ShardedValue) -> Value:
        """Return a value that all ranks have."""
        raise NotImplementedError

    def _in_place_of(self) -> dict[int, tuple[Layer, ...]]:
        """Return the layers that compute in place of others, by the identities of these."""
        raise NotImplementedError

    def _list_layers(self) -> list[tuple[str, Layer]]:
        """Return all layers of this rank under the names of those that they are made of."""
        others = self._in_place_of()
        listed = []
        for name, module in self._whole_network.modules():
            if isinstance(module, Layer):
                listed += [(name, layer) for layer in others.get(id(module), (module,))]
        return listed + [(self._titles[n], m) for (n, _), made in self._kept.items() for m in made]


def record(layer: Layer, node: Node, *operands: Value) -> Value:
    """Record a layer in place of a node, under its number."""
    made = Node(
        layer, operands, layer.result_shape(*(v.shape for v in operands)), operands[0].dtype
    )
    made.number = node.number
    return made.result
