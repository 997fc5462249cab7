"""A network from an ONNX file: recorded as a graph of ours for each shape of its inputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from lowerconv.nn.graph import Value
from lowerconv.nn.module import Module
from lowerconv.onnx import operators  # noqa: F401  (fills the table)
from lowerconv.onnx.reader import OnnxError, Source, import_onnx, opset_of, read_model
from lowerconv.onnx.registry import OPERATORS, Node, importer_of

STANDARD = ("", "ai.onnx")


def load(source: Source, *, trainable: bool = False) -> OnnxNetwork:
    """Return the network of an ONNX file.

    Parameters
    ----------
    source : path, bytes or onnx.ModelProto
    trainable : bool
        Whether its parameters can be learnt.  Else they are read-only, which lets kernels keep them
        packed: the network answers as fast as one that was compiled.

    Returns
    -------
    OnnxNetwork
        Called with arrays, one for each input, it returns an array, or a tuple of all outputs.

    Raises
    ------
    OnnxError
        The file is damaged, or has operators that are not known here: all are listed.
    OSError, ImportError
        The file cannot be read; the package onnx is not installed.

    Examples
    --------
    >>> net = lowerconv.onnx.load("model.onnx")  # doctest: +SKIP
    >>> net(images)  # doctest: +SKIP
    """
    model, name = read_model(source)
    return OnnxNetwork(model, name, trainable)


class OnnxNetwork(Module):
    """What `load` returns: a module whose `forward` follows the nodes of the model.

    Shapes may be dynamic: each new shape of the inputs is recorded and planned once, and the
    latest are kept.  What depends on shapes and constants alone is worked out meanwhile.

    Attributes
    ----------
    input_names, output_names : tuple of str
    input_shapes : tuple of tuple
        Extents, or names of those that are dynamic.
    """

    returns_all = True

    def __init__(self, model: Any, name: str, trainable: bool = False) -> None:
        super().__init__()
        onnx = import_onnx()
        self.frozen = not trainable
        self.file = name
        self._constants: Mapping[str, np.ndarray] = _initializers(onnx, model, name)
        inputs = [v for v in model.graph.input if v.name not in self._constants]
        self.input_names = tuple(v.name for v in inputs)
        self.input_shapes = tuple(_shape(v) for v in inputs)
        self._input_dtypes = tuple(_dtype(onnx, v) for v in inputs)
        self.output_names = tuple(v.name for v in model.graph.output)
        version = opset_of(model)
        protos = list(model.graph.node)
        _check_operators(protos, version, name)
        nodes = [_node(onnx, proto, i, version, name) for i, proto in enumerate(protos)]
        self._nodes = tuple(_sorted(nodes, {*self._constants, *self.input_names, ""}, name))
        self._fold_constants()
        self._make_layers()
        known = {*self._constants, *self.input_names}.union(*(n.outputs for n in self._nodes))
        for output in self.output_names:
            if output not in known:
                raise OnnxError(f"{name}: output {output!r} is made by no node")

    def _fold_constants(self) -> None:
        """Compute what depends on constants alone, once for all shapes."""
        constants, left = dict(self._constants), []
        for node in self._nodes:
            if all(i == "" or i in constants for i in node.inputs):
                operands = [constants[i] if i else None for i in node.inputs]
                constants.update(zip(node.outputs, self._results(node, operands), strict=False))
            else:
                left.append(node)
        self._nodes = tuple(left)
        read = {i for node in left for i in node.inputs} | {*self.output_names}
        self._constants = {name: array for name, array in constants.items() if name in read}

    def _make_layers(self) -> None:
        """Give nodes with constant weights layers that have them as parameters."""
        taken: set[str] = set()
        for node in self._nodes:
            make = OPERATORS[node.operator].layer
            if make is None:
                continue
            known = {
                i: self._constants[name]
                for i, name in enumerate(node.inputs)
                if name in self._constants
            }
            try:
                layer = make(node, known)
            except (TypeError, ValueError, KeyError, IndexError, ZeroDivisionError) as error:
                raise self._failed(node, error) from error
            if layer is None:
                continue
            if self.frozen:
                for parameter in layer.own_parameters().values():
                    parameter.data = parameter.data.view()
                    parameter.data.flags.writeable = False
            name = re.sub(r"\W+", "_", node.name).strip("_") or node.operator
            while name in taken or name in self._reserved or name[0].isdigit():
                name = f"{node.operator}_{len(taken)}" if name[0].isdigit() else f"{name}_"
            taken.add(name)
            setattr(self, name, layer)
            node.layer = layer
        read = {i for n in self._nodes if n.layer is None for i in n.inputs}
        read |= {n.inputs[0] for n in self._nodes if n.layer is not None} | {*self.output_names}
        self._constants = {name: array for name, array in self._constants.items() if name in read}

    def _failed(self, node: Node, error: Exception) -> OnnxError:
        return OnnxError(f"{self.file}: node {node.name!r} ({node.operator}): {error}")

    def _results(self, node: Node, operands: list[Any]) -> tuple[Any, ...]:
        """Return what a node makes of its operands."""
        importer = importer_of(node.operator, node.version)
        assert importer is not None
        while node.layer is None and operands and operands[-1] is None:
            operands.pop()
        try:
            made = importer(node, *operands)
        except (
            *(TypeError, ValueError, KeyError, IndexError, ZeroDivisionError, AttributeError),
            *(AssertionError, NotImplementedError, RuntimeError),
        ) as error:
            raise self._failed(node, error) from error
        return made if isinstance(made, tuple) else (made,)

    def forward(self, *values: Any, **_: Any) -> Any:
        """Record the nodes, in order."""
        tensors: dict[str, Any] = dict(self._constants)
        tensors.update(zip(self.input_names, values, strict=True))
        tensors[""] = None
        for node in self._nodes:
            results = self._results(node, [tensors.get(i) for i in node.inputs])
            tensors.update(zip(node.outputs, results, strict=False))
        results = tuple(tensors[name] for name in self.output_names)
        if not all(isinstance(r, Value) for r in results):
            from lowerconv.nn.functional import constant

            results = tuple(r if isinstance(r, Value) else constant(r, values[0]) for r in results)
        return results if len(results) > 1 else results[0]

    def check_input(self, *xs: np.ndarray) -> None:
        """Raise where arrays are not what the model declares."""
        if len(xs) != len(self.input_names):
            raise TypeError(
                f"{self.file}: got {len(xs)} arrays, expected {len(self.input_names)}: "
                + ", ".join(self.input_names)
            )
        rows = zip(xs, self.input_names, self.input_shapes, self._input_dtypes, strict=True)
        for x, name, shape, dtype in rows:
            if dtype is not None and x.dtype != dtype:
                raise TypeError(f"{name}: got dtype {x.dtype}, expected {dtype}")
            fits = shape is None or (
                len(shape) == x.ndim
                and all(
                    not isinstance(n, int) or n == m for n, m in zip(shape, x.shape, strict=True)
                )
            )
            if not fits:
                raise ValueError(f"{name}: got shape {x.shape}, expected {shape}")


def _initializers(onnx: Any, model: Any, name: str) -> dict[str, np.ndarray]:
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


def _shape(value: Any) -> tuple[Any, ...] | None:
    """Return the declared extents: numbers, names of dynamic ones, or None."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else dim.dim_param or None
        for dim in tensor.shape.dim
    )


def _dtype(onnx: Any, value: Any) -> np.dtype | None:
    kind = value.type.tensor_type.elem_type
    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)) if kind else None
    except KeyError:
        return None


def _check_operators(protos: list[Any], version: int, name: str) -> None:
    """Raise OnnxError with all operators that are not known, and their nodes."""
    missing: dict[str, list[str]] = {}
    for i, proto in enumerate(protos):
        known = proto.domain in STANDARD and importer_of(proto.op_type, version) is not None
        if not known:
            full = f"{proto.domain}.{proto.op_type}" if proto.domain else proto.op_type
            missing.setdefault(full, []).append(proto.name or f"number {i}")
    if missing:
        lines = "; ".join(
            f"{operator} ({', '.join(nodes[:3])}{', ...' if len(nodes) > 3 else ''})"
            for operator, nodes in sorted(missing.items())
        )
        raise OnnxError(f"{name}: operators that are not known in version {version}: {lines}")


def _node(onnx: Any, proto: Any, number: int, version: int, name: str) -> Node:
    attributes = {}
    for attribute in proto.attribute:
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
    name = proto.name or f"{proto.op_type}_{number}"
    inputs, outputs = tuple(proto.input), tuple(proto.output)
    return Node(proto.op_type, name, inputs, outputs, attributes, version, proto)


def _sorted(nodes: list[Node], known: set[str], name: str) -> list[Node]:
    """Return nodes each after those that it reads from; files are allowed nothing else."""
    for node in nodes:
        absent = [i for i in node.inputs if i not in known]
        if absent:
            raise OnnxError(
                f"{name}: node {node.name!r} ({node.operator}): reads {absent[0]!r}, which no node "
                "before it makes"
            )
        known.update(node.outputs)
    return nodes
