"""Integer layers for the parts of a graph that QuantizeLinear and DequantizeLinear mark.

Codes lie in words between integer layers.  What else reads them is given numbers, or bytes, by a
layer of its own; what has no integer form stays as it is.
"""

from __future__ import annotations

from math import inf
from typing import Any, NamedTuple

import numpy as np

from lowerconv.nn.activation import ReLU
from lowerconv.nn.combine import Concat, Flatten
from lowerconv.nn.graph import Graph, Node, Value
from lowerconv.nn.layer import Layer
from lowerconv.nn.linear import Linear
from lowerconv.nn.norm import LocalResponseNorm
from lowerconv.nn.pointwise import Pointwise
from lowerconv.nn.pooling import AvgPool2d, MaxPool2d
from lowerconv.quant.chains import Chain, follow, is_flatten, is_other, is_product
from lowerconv.quant.conv import Epilogue, Filters, IntegerConv2d
from lowerconv.quant.convert import Dequantize, Pack, Quantize, Unpack
from lowerconv.quant.integer_layers import (
    IntegerAdd,
    IntegerAvgPool2d,
    IntegerConcat,
    IntegerMaxPool2d,
    IntegerResponseNorm,
    Lookup,
)
from lowerconv.quant.params import QuantParams
from lowerconv.quant.qdq import DequantizeLinear, QuantizeLinear


class Source(NamedTuple):
    """Codes that a float32 value stands for."""

    codes: Value
    params: QuantParams


def _fits(codes: Value) -> bool:
    """Return whether codes can lie in words: those of images or features."""
    return len(codes.shape) in (2, 4)


def to_integers(graph: Graph) -> None:
    """Have a graph compute with integers where it says so: parameters must never change.

    Parameters
    ----------
    graph : Graph
        Is changed; nothing in it has been fused.
    """
    if has_codes(graph):
        _ToIntegers(graph).run()


def has_codes(graph: Graph) -> bool:
    """Return whether a graph says of any of its values that they are codes."""
    return any(isinstance(node.layer, DequantizeLinear) for node in graph.nodes)


class _ToIntegers:
    """A graph on its way.

    Attributes
    ----------
    ends : dict of Node to Chain
        What makes the codes of a QuantizeLinear.
    alone : dict of Node to Chain
        Products whose results are float32, and what they are clipped to.
    words : dict of Value to Value
        Where codes are in words.
    plain : dict of Value to Value
        What has taken the place of other values.
    flat : dict of Value to Source
        Codes of features, and those of the images whose features they are.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.readers, self.results = graph.consumers(), set(graph.results)
        self.taken: set[Node] = set()
        self.ends: dict[Node, Chain] = {}
        self.alone: dict[Node, Chain] = {}
        self.words: dict[Value, Value] = {}
        self.plain: dict[Value, Value] = {}
        self.flat: dict[Value, Source] = {}
        self.nodes: list[Node] = []
        self.number = max((node.number for node in graph.nodes), default=-1)

    def run(self) -> None:
        """Find what integers compute, and make a new list of nodes."""
        for node in self.graph.nodes:
            if node not in self.taken:
                self._find(node)
        for node in self.graph.nodes:
            if node in self.ends:
                self._make(self.ends[node], node)
            elif node in self.alone:
                self._make_product(self.alone[node], None, self.alone[node].result)
            elif node in self.taken:
                continue
            elif isinstance(node.layer, QuantizeLinear) and _fits(node.result):
                self.words[node.result] = self._quantized(node, node.layer.params)
            elif self._source(node.result) is None:
                node.operands = tuple(self._plain(value) for value in node.operands)
                self.nodes.append(node)
        self.graph.results = tuple(self._plain(value) for value in self.graph.results)
        self.graph.nodes = _needed(self.nodes, set(self.graph.results))

    # --- finding ---

    def _source(self, value: Value) -> Source | None:
        """Return the codes that a value stands for, if a DequantizeLinear makes it."""
        node = value.node
        if node is None or not isinstance(node.layer, DequantizeLinear):
            return None
        codes = node.operands[0]
        return Source(codes, node.layer.params) if _fits(codes) else None

    def _flat_source(self, value: Value) -> Source | None:
        """Return the codes of features, or those of the images whose features they are."""
        if value.node is not None and is_flatten(value.node):
            return self._source(value.node.operands[0])
        return self._source(value)

    def _find(self, head: Node) -> None:
        """Note what integers can compute from a node on."""
        product = is_product(head.layer) and head.layer.codes is not None  # type: ignore[attr-defined]
        if product:
            if self._flat_source(head.operands[0]) is None or len(head.result.shape) not in (2, 4):
                return
        elif not is_other(head) or any(self._source(v) is None for v in head.operands):
            return

        def joins(node: Node, other: Value | None) -> bool:
            return other is None or self._source(other) is not None

        chain = follow(self.readers, self.results, head, joins)
        after = self.readers[chain.result]
        rounded = len(after) == 1 and isinstance(after[0].layer, QuantizeLinear)
        if rounded and chain.result not in self.results:
            self.ends[after[0]] = chain
            self.taken.update(chain.nodes)
        elif product:
            low, high = _limits(chain)
            if chain.residual is not None or low >= high:
                chain = Chain(head, nodes=[head])
            self.alone[head] = chain
            self.taken.update(chain.nodes)

    # --- making ---

    def _add(self, layer: Layer, *operands: Value, like: Node) -> Value:
        """Add a node, named after another one, and return its result."""
        node = layer(*operands).node
        self.number += 1
        node.number, node.name = self.number, f"{name_of(like)} {type(layer).__name__}".strip()
        self.nodes.append(node)
        return node.result

    def _plain(self, value: Value) -> Value:
        """Return a value as layers that know nothing of words take it."""
        if value in self.plain:
            return self.plain[value]
        source, node = self._source(value), value.node
        if source is not None and node is not None:
            words, shape = self._words(source.codes, node), value.shape
            layer: Layer = Dequantize(source.params, shape[1], len(shape) == 2)
            self.plain[value] = self._add(layer, words, like=node)
        elif node is not None and (value in self.words or value in self.flat):
            assert isinstance(node.layer, QuantizeLinear)
            layer = Unpack(node.layer.params, value.shape[1], len(value.shape) == 2)
            self.plain[value] = self._add(layer, self._words(value, node), like=node)
        return self.plain.get(value, value)

    def _words(self, codes: Value, like: Node) -> Value:
        """Return codes in words."""
        found = self.words.get(codes)
        if found is None and codes in self.flat:
            images, params = self.flat[codes]
            _, C, *_ = images.shape
            numbers = self._add(Dequantize(params, C, False), self._words(images, like), like=like)
            features = self._add(Flatten(), numbers, like=like)
            found = self._add(Quantize(params), features, like=like)
        elif found is None:
            found = self._add(Pack(), self._plain(codes), like=like)
        self.words[codes] = found
        return found

    def _make(self, chain: Chain, end: Node) -> None:
        """Add the integer layer of a chain that ends in a QuantizeLinear."""
        assert isinstance(end.layer, QuantizeLinear)
        y, head = end.layer.params, chain.head
        if is_product(head.layer):
            self._make_product(chain, y, end.result)
            return
        layer, sources = head.layer, [self._source(v) for v in head.operands]
        known = [source for source in sources if source is not None]
        words = [self._words(source.codes, head) for source in known]
        params = [source.params for source in known]
        bounds = y, *_bounds(chain, y)
        if is_flatten(head):
            self._flatten(known[0], words[0], y, end)
            return
        if layer.is_sum:
            made: Layer = IntegerAdd(params[0], params[1], *bounds)
        elif isinstance(layer, AvgPool2d):
            made = IntegerAvgPool2d(layer, params[0], *bounds)
        elif isinstance(layer, LocalResponseNorm):
            made = IntegerResponseNorm(layer, head.result.shape[1], params[0], *bounds)
        elif isinstance(layer, MaxPool2d):
            pooled = self._add(IntegerMaxPool2d(layer, params[0]), *words, like=head)
            self.words[end.result] = self._rescaled(pooled, params[0], y, head)
            return
        elif isinstance(layer, Concat):
            words = [self._rescaled(w, p, y, head) for w, p in zip(words, params, strict=True)]
            made = IntegerConcat(tuple(value.shape[1] for value in head.operands), y)
        else:
            assert isinstance(layer, (ReLU, Pointwise))
            made = Lookup(layer, params[0], y)
        self.words[end.result] = self._add(made, *words, like=head)

    def _quantized(self, node: Node, y: QuantParams) -> Value:
        """Return what a QuantizeLinear makes of other codes, or of numbers."""
        source = self._source(node.operands[0])
        if source is not None:
            return self._rescaled(self._words(source.codes, node), source.params, y, node)
        return self._add(Quantize(y), self._plain(node.operands[0]), like=node)

    def _flatten(self, source: Source, words: Value, y: QuantParams, end: Node) -> None:
        """Have features lie where images do: whoever multiplies them takes them as images."""
        words = self._rescaled(words, source.params, y, end)
        if words.shape[2:] == (1, 1):
            self.words[end.result] = words
            return
        codes = source.codes
        if source.params != y:  # other codes of the same images
            codes = Value(codes.shape, codes.dtype)
            self.words[codes] = words
        self.flat[end.result] = Source(codes, y)

    def _rescaled(self, words: Value, x: QuantParams, y: QuantParams, like: Node) -> Value:
        """Return codes of one scale as those of another."""
        return words if x == y else self._add(Lookup(None, x, y), words, like=like)

    def _make_product(self, chain: Chain, y: QuantParams | None, result: Value) -> None:
        """Add an integer convolution."""
        head, layer = chain.head, chain.head.layer
        source = self._flat_source(head.operands[0])
        assert is_product(layer) and source is not None
        source = self.flat.get(source.codes, source)
        weights: Any = layer.codes  # type: ignore[attr-defined]
        features = isinstance(layer, Linear)
        geometry = (1, 0, 1, 1) if features else layer.geometry  # type: ignore[attr-defined]
        if features:
            _, C, H, W = (*source.codes.shape, 1, 1)[:4]
            weights = weights._replace(codes=weights.codes.reshape(-1, C, H, W))
        bias = layer.bias  # type: ignore[attr-defined]
        filters = Filters.of(weights, None if bias is None else bias.data)
        operands = [self._words(source.codes, head)]
        epilogue = Epilogue(None, *_limits(chain)) if chain.clips else Epilogue()
        if y is not None:
            other = None if chain.residual is None else self._source(chain.residual)
            epilogue = Epilogue(y, *_bounds(chain, y), None if other is None else other.params)
            operands += [] if other is None else [self._words(other.codes, head)]
        made = IntegerConv2d(filters, geometry, source.params, epilogue, features)
        into = self.plain if y is None else self.words
        into[result] = self._add(made, *operands, like=head)


def _limits(chain: Chain) -> tuple[float, float]:
    """Return the range of a chain's result in float32."""
    return max((-inf, *(low for low, _ in chain.clips))), min((inf, *(up for _, up in chain.clips)))


def _bounds(chain: Chain, y: QuantParams) -> tuple[int, int]:
    """Return the range of the codes of a chain's result."""
    low, high = y.low, y.high
    for least, most in chain.clips:
        low = max(low, y.code(least)) if np.isfinite(least) else low
        high = min(high, y.code(most)) if np.isfinite(most) else high
    return low, max(low, high)


def name_of(node: Node) -> str:
    """Return the name of a node's layer, or of the nearest one before that has a name.

    Parameters
    ----------
    node : Node

    Returns
    -------
    str
    """
    at: Node | None = node
    while at is not None:
        name = at.name.rpartition(" ")[0]
        if name:
            return name
        at = at.operands[0].node
    return ""


def _needed(nodes: list[Node], results: set[Value]) -> list[Node]:
    """Return the nodes that results depend on, in their order."""
    needed, left = set(results), []
    for node in reversed(nodes):
        if node.result in needed:
            needed.update(node.inputs)
            left.append(node)
    return left[::-1]
