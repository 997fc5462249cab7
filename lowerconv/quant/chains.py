"""Operators that one integer layer computes: from an operator to where its result is rounded.

::

    conv or linear [+ residual] [ReLU or clip]      sum [ReLU or clip]
    mean over windows [ReLU or clip]                local response norm [ReLU or clip]
    maximum, concatenation, function, flatten

Each reads codes, and its last result is rounded to codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod

import numpy as np

from lowerconv.nn.activation import ReLU
from lowerconv.nn.combine import Add, Concat, View
from lowerconv.nn.conv import Conv2d
from lowerconv.nn.graph import Node, Value
from lowerconv.nn.layer import Layer
from lowerconv.nn.linear import Linear
from lowerconv.nn.norm import LocalResponseNorm
from lowerconv.nn.pointwise import Pointwise
from lowerconv.nn.pooling import AvgPool2d, MaxPool2d

PRODUCTS = (Conv2d, Linear)
# With an integer form.
OTHERS = (MaxPool2d, AvgPool2d, LocalResponseNorm, Concat, Add, ReLU, Pointwise)
ROUNDED = (AvgPool2d, LocalResponseNorm)  # of these, those whose results are rounded, beside sums


@dataclass
class Chain:
    """What one integer layer computes.

    Attributes
    ----------
    head : Node
    residual : Value or None
        What is added.
    clips : list of (float, float)
        The ranges that the result is clipped to: of a ReLU from 0 on.
    nodes : list of Node
        All of them.
    """

    head: Node
    residual: Value | None = None
    clips: list[tuple[float, float]] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)

    @property
    def result(self) -> Value:
        """What the last of them makes."""
        return self.nodes[-1].result


def is_product(layer: Layer) -> bool:
    """Return whether a layer multiplies with weights, float32 ones."""
    return _is(layer, PRODUCTS) and layer.weight.data.dtype == np.float32  # type: ignore[attr-defined]


def _is(layer: Layer, kinds: tuple[type, ...]) -> bool:
    """Return whether a layer is of one of our kinds: what others derive may do anything."""
    ours = type(layer).__module__.startswith(("lowerconv.nn.", "lowerconv.quant."))
    return ours and isinstance(layer, kinds)


def is_flatten(node: Node) -> bool:
    """Return whether a node makes features of images, and nothing else."""
    if not isinstance(node.layer, View):
        return False
    before, after = node.operands[0].shape, node.result.shape
    return len(before) in (2, 4) and after == (before[0], prod(before[1:]))


def is_other(node: Node) -> bool:
    """Return whether a node has an integer form and is no product."""
    layer, shape = node.layer, node.operands[0].shape
    if node.result.dtype != np.float32 or len(shape) not in (2, 4):
        return False
    return _is(layer, OTHERS) or is_flatten(node)


def range_of(layer: Layer) -> tuple[float, float] | None:
    """Return what a layer clips to, None where it does anything else."""
    if isinstance(layer, ReLU):
        return 0.0, np.inf
    if isinstance(layer, Pointwise) and layer.function == "clip":
        return layer.a, layer.b
    return None


def follow(
    readers: dict[Value, list[Node]],
    results: set[Value],
    head: Node,
    joins: Callable[[Node, Value | None], bool],
) -> Chain:
    """Return the operators that the integer layer of `head` can compute as well.

    Parameters
    ----------
    readers : dict of Value to list of Node
        Of a graph, as of `Graph.consumers`.
    results : set of Value
        Of the graph.
    head : Node
    joins : callable
        Given a node that follows, and the residual that it adds or None, returns whether it may be
        a part of the layer.

    Returns
    -------
    Chain
    """
    chain = Chain(head, nodes=[head])
    rounds = is_product(head.layer) or head.layer.is_sum or isinstance(head.layer, ROUNDED)
    while rounds and chain.result not in results and len(readers[chain.result]) == 1:
        node = readers[chain.result][0]
        clip = range_of(node.layer)
        if clip is not None and joins(node, None):
            chain.clips.append(clip)
        elif node.layer.is_sum and is_product(head.layer) and not chain.clips:
            a, b = node.operands
            other = b if a is chain.result else a
            if chain.residual is not None or not joins(node, other):
                break
            chain.residual = other
        else:
            break
        chain.nodes.append(node)
    return chain
