"""Where QuantizeLinear and DequantizeLinear go: what computes with integers, what is rounded.

Convolutions and fully connected layers do, but for those that the user leaves out.  Operators
between them follow where all that they read is made of integers, or codes for them anyway, and
integers read their result.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

from lowerconv.nn.attributes import Parameter
from lowerconv.nn.codes import WeightCodes
from lowerconv.nn.combine import Concat
from lowerconv.nn.graph import Graph, Node, Value
from lowerconv.nn.pooling import MaxPool2d
from lowerconv.quant.chains import Chain, follow, is_flatten, is_other, is_product
from lowerconv.quant.params import QuantParams
from lowerconv.quant.qdq import DequantizeLinear, QuantizeLinear

Params = Callable[[list[Value]], QuantParams]
BIAS = 2.0**30  # most of a bias, in steps of the sums


class QdqPlacement:
    """The values of a graph that become codes.

    Parameters
    ----------
    graph : Graph
        With parameters that never change, and nothing fused.
    excluded : collection of Node
        Products that stay in float32.

    Attributes
    ----------
    integer : set of Node
        What computes with integers.
    values : list of Value
        What is rounded to codes, in order.
    """

    def __init__(self, graph: Graph, excluded: Collection[Node]) -> None:
        self.graph, self.readers = graph, graph.consumers()
        self.integer = self._choose(set(excluded))
        self.chains = self._chains()
        made = {chain.result for chain in self.chains}
        within = {node.result for chain in self.chains for node in chain.nodes} - made
        read = {v for node in self.integer for v in node.operands if not _is_codes(v)} - within
        read |= {c.result for c in self.chains if not is_product(c.head.layer) and self._ends(c)}
        order = [*graph.inputs, *(node.result for node in graph.nodes)]
        self.values = [value for value in order if value in read]

    def _choose(self, excluded: set[Node]) -> set[Node]:
        chosen = {
            node
            for node in self.graph.nodes
            if is_product(node.layer) and len(node.operands[0].shape) in (2, 4)
        } - excluded
        codes = {node.operands[0] for node in chosen}
        for node in self.graph.nodes:
            if is_other(node) and all(v.node in chosen or v in codes for v in node.operands):
                chosen.add(node)
        for node in reversed(self.graph.nodes):
            readers = self.readers[node.result]
            needed = any(n in chosen or isinstance(n.layer, QuantizeLinear) for n in readers)
            # The maximum of codes is exact, and leaves less to convert.
            needed |= isinstance(node.layer, MaxPool2d) and node.result not in self.graph.results
            if not is_product(node.layer) and not needed:
                chosen.discard(node)
        return chosen

    def _ends(self, chain: Chain) -> bool:
        """Return whether nothing says yet what the codes of a chain stand for."""
        readers = self.readers[chain.result]
        return not all(isinstance(reader.layer, QuantizeLinear) for reader in readers)

    def _chains(self) -> list[Chain]:
        """Return what each integer layer computes."""
        place = {node: i for i, node in enumerate(self.graph.nodes)}
        taken: set[Node] = set()
        found = []
        for head in self.graph.nodes:
            if head not in self.integer or head in taken:
                continue

            def joins(node: Node, other: Value | None, head: Node = head) -> bool:
                before = other is None or (
                    other.node is not None and place[other.node] < place[head]
                )
                return node in self.integer and node not in taken and before

            chain = follow(self.readers, set(self.graph.results), head, joins)
            taken.update(chain.nodes)
            found.append(chain)
        return found

    def groups(self) -> list[list[Value]]:
        """Return the values, those together that have one scale.

        These are what a concatenation, a maximum or a flattening reads and returns.
        """
        group = {value: [value] for value in self.values}
        for node in self.graph.nodes:
            if node not in self.integer or not _keeps_scale(node):
                continue
            for value in node.operands:
                mine, others = (group.get(v) for v in (node.result, value))
                if mine is not None and others is not None and mine is not others:
                    mine += others
                    group.update(dict.fromkeys(others, mine))
        return list({id(values): values for values in group.values()}.values())

    def insert(self, params: Params, weight_bits: int) -> None:
        """Put QuantizeLinear and DequantizeLinear into the graph, and codes into its layers.

        Parameters
        ----------
        params : callable
            Given values that have one scale, returns what their codes stand for.
        weight_bits : int
        """
        known = {}
        for group in self.groups():
            found = self._learnt(group) or params(group)
            known.update(dict.fromkeys(group, found))
        for value in self.values:
            self._insert(value, known[value])
        for node in self.graph.nodes:
            if node in self.integer and is_product(node.layer):
                _set_codes(node, weight_bits)

    def _learnt(self, values: list[Value]) -> QuantParams | None:
        """Return what codes stand for that are rounded to after a maximum, or another such layer.

        To round before it gives the same, and nothing is rounded twice.
        """
        after: set[QuantParams | None] = set()
        read = [node for value in values for node in self.readers[value]]
        for node in read:
            if node not in self.integer or not _keeps_scale(node):
                return None
            if node.result not in values:
                readers = (reader.layer for reader in self.readers[node.result])
                after.update(getattr(layer, "params", None) for layer in readers)
        return after.pop() if len(after) == 1 else None

    def _insert(self, value: Value, params: QuantParams) -> None:
        codes = QuantizeLinear(params)(value)
        numbers = DequantizeLinear(params)(codes)
        if value.node is None:
            codes.node.name = "input QuantizeLinear"
        rounded_for_all = value.node in self.integer
        for node in self.readers[value]:
            if node in self.integer or rounded_for_all:
                node.operands = tuple(numbers if v is value else v for v in node.operands)
        nodes = self.graph.nodes
        at = 0 if value.node is None else nodes.index(value.node) + 1
        nodes[at:at] = [codes.node, numbers.node]


def _set_codes(node: Node, bits: int) -> None:
    """Give a layer the codes of its weights, and the weights that these are."""
    layer, maker = node.layer, node.operands[0].node
    if maker is not None and is_flatten(maker):
        maker = maker.operands[0].node
    assert maker is not None and isinstance(maker.layer, DequantizeLinear)
    known: WeightCodes | None = layer.codes  # type: ignore[attr-defined]
    weight, bias = layer.weight.data, layer.bias  # type: ignore[attr-defined]
    step, bound = np.float64(maker.layer.params.scale), None
    if bias is not None:
        bound = np.abs(bias.data.astype(np.float64)) / (step * BIAS)
    codes = known or WeightCodes.of(weight, bits, bound)
    layer.codes = codes
    layer.weight = Parameter(codes.weights(weight.dtype))
    if bias is not None:  # in steps of the sums, as files have it
        steps = step * codes.finer().scale
        layer.bias = Parameter((np.rint(bias.data / steps) * steps).astype(weight.dtype))


def _keeps_scale(node: Node) -> bool:
    """Return whether codes of what a node reads are codes of what it returns."""
    return isinstance(node.layer, (Concat, MaxPool2d)) or is_flatten(node)


def _is_codes(value: Value) -> bool:
    return value.node is not None and isinstance(value.node.layer, DequantizeLinear)
