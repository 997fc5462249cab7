"""What depends on constants alone, computed once for all shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from lowerconv.onnx.reader import OnnxError, import_onnx
from lowerconv.onnx.registry import Node

Compute = Callable[[Node, list[Any]], tuple[Any, ...]]


def fold(nodes: Iterable[Node], constants: dict[str, np.ndarray], compute: Compute) -> list[Node]:
    """Return the nodes that are left; of an If with a constant condition, those of its branch.

    Parameters
    ----------
    nodes : iterable of Node
        In order.
    constants : dict of str to ndarray
        Of which there are more then.
    compute : callable
        Given a node and its operands, returns its results.
    """
    left: list[Node] = []
    for node in nodes:
        if node.operator == "If" and node.inputs[0] in constants:
            left += fold(_branch(node, constants[node.inputs[0]]), constants, compute)
            continue
        for body in node.bodies.values():
            body.nodes = tuple(fold(body.nodes, constants, _careful(compute)))
        results: tuple[Any, ...] | None = None
        if node.own is None and all(i == "" or i in constants for i in node.inputs):
            results = compute(node, [constants[i] if i else None for i in node.inputs])
        if results is None:
            left.append(node)
        else:
            constants.update(zip(node.outputs, results, strict=False))
    return left


def _careful(compute: Compute) -> Compute:
    """Return a function that leaves what cannot be computed: perhaps it is never asked for."""

    def computed(node: Node, operands: list[Any]) -> Any:
        try:
            return compute(node, operands)
        except OnnxError:
            return None

    return computed


def _branch(node: Node, condition: np.ndarray) -> list[Node]:
    """Return the nodes of the branch that is taken, and those that give results their names."""
    body = node.bodies["then_branch" if np.reshape(condition, -1)[0] else "else_branch"]
    make = import_onnx().helper.make_node
    named = [
        Node(
            *("Identity", f"{node.name}_{i}", (inner,), (outer,), {}, node.version),
            protos=(make("Identity", [inner], [outer]),),
        )
        for i, (inner, outer) in enumerate(zip(body.outputs, node.outputs, strict=False))
    ]
    return [*body.nodes, *named]
