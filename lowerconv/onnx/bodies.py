"""Parts of a graph that a node computes: the branches of If, what Loop repeats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lowerconv.onnx.registry import Body, Node


def graphs_of(proto: Any) -> list[tuple[str, Any]]:
    """Return the graphs among the attributes of a node, with the names of these."""
    return [
        (attribute.name, graph)
        for attribute in proto.attribute
        for graph in ([attribute.g] if attribute.HasField("g") else attribute.graphs)
    ]


def every_proto(protos: Iterable[Any]) -> Iterator[Any]:
    """Yield nodes, and those within them."""
    for proto in protos:
        yield proto
        for _, graph in graphs_of(proto):
            yield from every_proto(graph.node)


def captured(proto: Any) -> list[str]:
    """Return the names that the graphs of a node read and do not make, each once."""
    found: dict[str, None] = {}
    for _, graph in graphs_of(proto):
        made = {v.name for v in graph.input} | {t.name for t in graph.initializer} | {""}
        for inner in graph.node:
            names = (*inner.input, *captured(inner))
            found.update((name, None) for name in names if name not in made)
            made.update(inner.output)
        found.update((v.name, None) for v in graph.output if v.name not in made)
    return list(found)


def lifted(proto: Any, prefix: str, taken: set[str], tensors: list[Any]) -> Any:
    """Return a node whose graphs have names that nobody else has, and no constant tensors.

    Then one table has all values of a network, wherever they are made.

    Parameters
    ----------
    proto : NodeProto
    prefix : str
        For people.
    taken : set of str
        Names that others have; new ones are added.
    tensors : list of TensorProto
        Where the tensors go, under their new names.
    """
    if not graphs_of(proto):
        return proto
    twin = type(proto)()
    twin.CopyFrom(proto)
    _rename(twin, {}, prefix, taken, tensors)
    return twin


def _rename(
    proto: Any, scope: dict[str, str], prefix: str, taken: set[str], tensors: list[Any]
) -> None:
    for attribute, graph in graphs_of(proto):
        names = dict(scope)
        made = [v.name for v in graph.input] + [t.name for t in graph.initializer]
        for name in made + [o for node in graph.node for o in node.output if o]:
            new = f"{prefix}.{attribute}.{name}"
            while new in taken:
                new += "_"
            taken.add(new)
            names[name] = new
        for value in (*graph.input, *graph.initializer, *graph.output):
            value.name = names.get(value.name, value.name)
        for i, node in enumerate(graph.node):
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
            inner = f"{prefix}.{attribute}.{node.name or f'{node.op_type}_{i}'}"
            _rename(node, names, inner, taken, tensors)
        tensors.extend(graph.initializer)
        del graph.initializer[:], graph.value_info[:]


def every(nodes: Iterable[Node]) -> Iterator[Node]:
    """Yield nodes, and those of their bodies."""
    for node in nodes:
        yield node
        for body in node.bodies.values():
            yield from every(body.nodes)


def reads(nodes: Sequence[Node]) -> set[str]:
    """Return all that nodes read, and those within them."""
    found = {name for node in every(nodes) for name in node.inputs}
    bodies: list[Body] = [body for node in every(nodes) for body in node.bodies.values()]
    return found | {name for body in bodies for name in body.outputs}
