"""What the protocol buffers of a model say, as Python and NumPy have it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from lowerconv.onnx.bodies import captured, every_proto, graphs_of
from lowerconv.onnx.reader import OnnxError
from lowerconv.onnx.registry import Body, Node, importer_of

STANDARD = ("", "ai.onnx")


def initializers(onnx: Any, model: Any, name: str) -> dict[str, np.ndarray]:
    """Return the constant tensors of a model by name."""
    found = {}
    for tensor in model.graph.initializer:
        found[tensor.name] = array_of(onnx, tensor, f"{name}: tensor {tensor.name!r}")
    for sparse in model.graph.sparse_initializer:
        raise OnnxError(f"{name}: tensor {sparse.values.name!r} is sparse, expected a dense one")
    return found


def array_of(onnx: Any, tensor: Any, where: str) -> np.ndarray:
    """Return a tensor of a model as an array."""
    try:
        array = np.asarray(onnx.numpy_helper.to_array(tensor))
    except Exception as error:  # of damaged bytes, which may be anything
        raise OnnxError(f"{where}: damaged ({error})") from None
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def shape_of(value: Any) -> tuple[Any, ...] | None:
    """Return the declared extents: numbers, names of dynamic ones, or None."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else dim.dim_param or None
        for dim in tensor.shape.dim
    )


def dtype_of(onnx: Any, value: Any) -> np.dtype | None:
    """Return the declared type of number."""
    kind = value.type.tensor_type.elem_type
    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)) if kind else None
    except KeyError:
        return None


def is_known(proto: Any, version: int) -> bool:
    """Return whether an operator, and all those within it, are known."""
    return all(
        p.domain in STANDARD and importer_of(p.op_type, version) is not None
        for p in every_proto([proto])
    )


def check_operators(protos: list[Any], version: int, name: str) -> None:
    """Raise OnnxError with all operators that are not known, and their nodes."""
    missing: dict[str, list[str]] = {}
    for i, proto in enumerate(protos):
        for inner in every_proto([proto]):
            if inner.domain in STANDARD and importer_of(inner.op_type, version) is not None:
                continue
            full = f"{inner.domain}.{inner.op_type}" if inner.domain else inner.op_type
            where = "" if inner is proto else f" in {proto.name or f'number {i}'}"
            called = inner.name or ("" if where else f"number {i}")
            missing.setdefault(full, []).append(f"{called}{where}".strip())
    if missing:
        lines = "; ".join(
            f"{operator} ({', '.join(nodes[:3])}{', ...' if len(nodes) > 3 else ''})"
            for operator, nodes in sorted(missing.items())
        )
        raise OnnxError(f"{name}: operators that are not known in version {version}: {lines}")


def node_of(onnx: Any, proto: Any, number: int | str, version: int, name: str) -> Node:
    """Return a node as importers see it."""
    attributes = {}
    for attribute in proto.attribute:
        if attribute.HasField("g") or attribute.graphs:
            continue
        try:
            value = onnx.helper.get_attribute_value(attribute)
            if isinstance(value, bytes):
                value = value.decode()
            elif isinstance(value, onnx.TensorProto):
                value = array_of(onnx, value, f"{name}: node {proto.name!r}")
            elif isinstance(value, list) and value and isinstance(value[0], bytes):
                value = [item.decode() for item in value]
        except (ValueError, UnicodeDecodeError) as error:
            raise OnnxError(
                f"{name}: node {proto.name!r}: attribute {attribute.name!r}: {error}"
            ) from None
        attributes[attribute.name] = value
    called = proto.name or f"{proto.op_type}_{number}"
    inputs, outputs = (*proto.input, *captured(proto)), tuple(proto.output)
    node = Node(proto.op_type, called, inputs, outputs, attributes, version, (proto,))
    for attribute, graph in graphs_of(proto):
        parts = [
            node_of(onnx, inner, f"{number}.{i}", version, name)
            for i, inner in enumerate(graph.node)
        ]
        read, made = (tuple(v.name for v in values) for values in (graph.input, graph.output))
        node.bodies[attribute] = Body(read, made, tuple(parts))
    _check_bodies(node, len(proto.input), name)
    return node


def _check_bodies(node: Node, inputs: int, name: str) -> None:
    """Raise OnnxError where an If or a Loop lacks what it computes."""
    wanted = {"If": ("then_branch", "else_branch"), "Loop": ("body",)}.get(node.operator, ())
    for attribute in wanted:
        body = node.bodies.get(attribute)
        fits = body is not None and (
            len(body.outputs) >= len(node.outputs)
            if node.operator == "If"
            else 2 <= len(body.inputs) == inputs and len(body.outputs) >= inputs - 1
        )
        if not fits:
            raise OnnxError(
                f"{name}: node {node.name!r} ({node.operator}): expected a graph {attribute!r} "
                "with as many inputs and outputs as the node has"
            )


def in_order(nodes: Iterable[Node], known: set[str], name: str) -> tuple[Node, ...]:
    """Return nodes each after those that it reads from; files are allowed nothing else."""
    nodes = tuple(nodes)
    for node in nodes:
        absent = [i for i in node.inputs if i not in known]
        if absent:
            raise OnnxError(
                f"{name}: node {node.name!r} ({node.operator}): reads {absent[0]!r}, which no node "
                "before it makes"
            )
        again = [o for o in node.outputs if o and o in known]
        if again:
            raise OnnxError(
                f"{name}: node {node.name!r} ({node.operator}): makes {again[0]!r}, which is there "
                "already"
            )
        for body in node.bodies.values():
            inside = {*known, *body.inputs}
            in_order(body.nodes, inside, name)
            if not inside.issuperset(body.outputs):
                raise OnnxError(
                    f"{name}: node {node.name!r} ({node.operator}): what it computes makes no "
                    f"{next(o for o in body.outputs if o not in inside)!r}"
                )
        known.update(node.outputs)
    return nodes
