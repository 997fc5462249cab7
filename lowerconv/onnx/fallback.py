"""ONNX Runtime, where it is installed: what computes the operators that are not known here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from lowerconv.nn import functional as F
from lowerconv.nn.graph import Value
from lowerconv.onnx.bodies import captured
from lowerconv.onnx.reader import OnnxError
from lowerconv.onnx.registry import Node, Operator
from lowerconv.runtime.threads import get_num_threads

HINT = "needs the package onnxruntime: pip install 'lowerconv[onnxruntime]'"
HOW = "ONNX Runtime"
LARGE = 1024  # bytes of a constant whose contents no shape depends on
Kind = tuple[str, tuple[Any, ...]]  # such as ("FLOAT", ("N", 3)): type of numbers, extents


def open_session(source: Any, what: str, optimized: bool = True) -> Any:
    """Return a session of ONNX Runtime, on as many threads as kernels here have.

    Its threads sleep as soon as they have nothing to do: those that spin would hold the cores that
    whoever computes next needs.

    Parameters
    ----------
    source : path or bytes
        A file, or the content of one.
    what : str
        Who needs it, for the error where ONNX Runtime is not installed.
    optimized : bool
        Whether the session is to compute; else to tell of shapes.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ImportError(f"{what} {HINT}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = get_num_threads(), 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    model = source if isinstance(source, bytes) else str(source)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Elsewhere:
    """Some nodes of a model in a session of ONNX Runtime, which copies and pickles open anew.

    Parameters
    ----------
    content : bytes
        A model of these nodes.
    inputs, outputs : tuple of str
    """

    def __init__(self, content: bytes, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        self.content, self.inputs, self.outputs = content, inputs, outputs
        self._session: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None}

    def run(self, outputs: Sequence[str], arrays: Iterable[np.ndarray]) -> list[np.ndarray]:
        """Return some of the outputs."""
        if self._session is None:
            self._session = open_session(self.content, "fallback='onnxruntime'")
        feeds = dict(zip(self.inputs, map(np.ascontiguousarray, arrays), strict=True))
        try:
            return self._session.run(list(outputs), feeds)
        except Exception as error:  # of classes that derive from no other
            raise RuntimeError(f"ONNX Runtime: {error}") from None

    def __call__(self, node: Node, *operands: Any) -> Any:
        """Import the nodes: those of a program as one layer for each output."""
        given = operands[: len(self.inputs)]
        if not any(isinstance(operand, Value) for operand in given):
            return tuple(map(np.asarray, self.run(self.outputs, given)))
        return tuple(self._layer(node, name, given) for name in self.outputs)

    def _layer(self, node: Node, name: str, operands: Sequence[Any]) -> Any:
        for trial in (1, 0):  # indices of ones may be none
            try:
                result = F.computed(node.operator, _Output(self, name), *operands, trial=trial)
                break
            except RuntimeError:
                if not trial:
                    raise
        assert isinstance(result, Value) and result.node is not None
        result.node.layer.how = HOW
        return result


class _Output:
    """One of the outputs, whose shape must stay what it was at first."""

    def __init__(self, whole: Elsewhere, name: str) -> None:
        self.whole, self.name = whole, name
        self.shape: tuple[int, ...] | None = None

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        result = np.asarray(self.whole.run([self.name], arrays)[0])
        if self.shape is None:
            self.shape = result.shape
        if result.shape != self.shape:
            raise RuntimeError(f"{self.name!r}: got shape {result.shape}, expected {self.shape}")
        return result


def with_fallback(
    onnx: Any, model: Any, protos: list[Any], is_known: Callable[[Any], bool], name: str
) -> list[Any]:
    """Return nodes in order, with one Node for each group of those that are not known.

    Parameters
    ----------
    onnx : module
    model : ModelProto
    protos : list of NodeProto
        Its nodes.
    is_known : callable
        Given a node, tells whether it is.
    name : str
        Of the model, for errors.
    """
    groups = _grouped(protos, is_known)
    if all(map(is_known, protos)):
        return protos
    maker = {o: i for i, group in enumerate(groups) for proto in group for o in proto.output}
    shared = {v.name for v in model.graph.output}
    for i, group in enumerate(groups):
        shared |= {n for proto in group for n in _inputs(proto) if maker.get(n, i) != i}
    tensors = {t.name: t for t in model.graph.initializer}
    kinds = _kinds(onnx, model, shared, name)
    found: list[Any] = []
    for group in groups:
        if is_known(group[0]):
            found += group
            continue
        made = [o for proto in group for o in proto.output if o]
        read = dict.fromkeys(n for proto in group for n in _inputs(proto) if n and n not in made)
        inputs = [n for n in read if n not in tensors]
        outputs = [o for o in made if o in shared]
        fed = [_typed(onnx, n, kinds, name) for n in inputs]
        for output in outputs:
            _typed(onnx, output, kinds, name)
        part = _model(onnx, model, group, fed, outputs, [tensors[n] for n in read if n in tensors])
        whole = Elsewhere(part.SerializeToString(), tuple(inputs), tuple(outputs))
        known = {extent for n in inputs for extent in kinds[n][1]} - {None}
        dynamic = not inputs or any(_unknown(kinds[output][1], known) for output in outputs)
        operators = "+".join(dict.fromkeys(proto.op_type for proto in group))
        node = Node(
            *(operators, group[0].name or operators),
            inputs=(*inputs, *(n for n in read if n in tensors)),
            outputs=tuple(outputs),
            attributes={},
            version=1,
            protos=tuple(group),
        )
        node.own = Operator([(1, whole)], how=HOW, dynamic=dynamic, moves=True)
        found.append(node)
    return found


def _inputs(proto: Any) -> list[str]:
    return [*proto.input, *captured(proto)]


def _grouped(protos: list[Any], is_known: Callable[[Any], bool]) -> list[list[Any]]:
    """Return nodes in order: those that are not known, and read from each other, together."""
    level: dict[str, int] = {}  # of what is known even, of the rest odd, and never falling
    rows: list[tuple[int, int, Any]] = []
    group: dict[str, int] = {}  # the number of the first node of a group by what it makes
    for i, proto in enumerate(protos):
        odd = not is_known(proto)
        before = [level[n] for n in _inputs(proto) if n in level]
        here = max((n + (n % 2 != odd) for n in before), default=int(odd))
        level.update((o, here) for o in proto.output)
        first = i
        if odd:
            joined = {group[n] for n in _inputs(proto) if n in group and level[n] == here}
            first = min(joined, default=i)
            rows = [(r, first if j in joined else j, p) for r, j, p in rows]
            group = {n: first if j in joined else j for n, j in group.items()}
            group.update((o, first) for o in proto.output)
        rows.append((here, first, proto))
    found: dict[tuple[int, int], list[Any]] = {}
    for here, first, proto in sorted(rows, key=lambda row: row[0]):
        found.setdefault((here, first), []).append(proto)
    return list(found.values())


def _model(
    onnx: Any, model: Any, nodes: Any, inputs: Any, outputs: Iterable[str], tensors: Any
) -> Any:
    """Return a model of some nodes; types and shapes of its outputs follow from those."""
    made = onnx.ModelProto(ir_version=model.ir_version)
    made.opset_import.extend(model.opset_import)
    made.graph.name = "part"
    made.graph.node.extend(nodes)
    made.graph.input.extend(inputs)
    made.graph.output.extend(onnx.ValueInfoProto(name=output) for output in outputs)
    made.graph.initializer.extend(tensors)
    return made


def _kinds(onnx: Any, model: Any, wanted: Iterable[str], name: str) -> dict[str, Kind]:
    """Return types and extents of values, as far as ONNX Runtime knows them without arrays."""
    names = {o for node in model.graph.node for o in node.output if o}
    inputs, small = list(model.graph.input), []
    declared = {value.name for value in inputs}
    for tensor in model.graph.initializer:
        if np.prod(tensor.dims, dtype=float) <= LARGE // 8:
            small.append(tensor)
        elif tensor.name not in declared:
            make = onnx.helper.make_tensor_value_info
            inputs.append(make(tensor.name, tensor.data_type, list(tensor.dims)))
    outputs = sorted({*wanted} & names)
    light = _model(onnx, model, model.graph.node, inputs, outputs, small)
    try:
        session = open_session(light.SerializeToString(), "fallback='onnxruntime'", False)
    except ImportError:
        raise
    except Exception as error:  # of classes that derive from no other
        raise OnnxError(f"{name}: ONNX Runtime cannot read it either: {error}") from None
    values = (*session.get_inputs(), *session.get_outputs())
    return {value.name: (value.type, tuple(value.shape)) for value in values}


def _typed(onnx: Any, value: str, kinds: dict[str, Kind], name: str) -> Any:
    """Return a value as an input of a model, of any shape."""
    kind = kinds[value][0]
    element = kind[7:-1] if kind.startswith("tensor(") else ""
    number = {"float": "FLOAT", "string": ""}.get(element, element.upper())
    if not number:
        raise OnnxError(
            f"{name}: {value!r}: got {kind} between operators here and in ONNX Runtime, expected a "
            "tensor of numbers"
        )
    return onnx.helper.make_tensor_value_info(value, onnx.TensorProto.DataType.Value(number), None)


def _unknown(extents: tuple[Any, ...], known: set[Any]) -> bool:
    """Return whether an extent is neither a number nor one of an input: contents may decide it."""
    return not extents or any(not isinstance(n, int) and n not in known for n in extents)
