"""Networks as ONNX files, which other libraries run.

Layers are told by the names of their classes: importing these would be a cycle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from lowerconv.nn.graph import Graph, Node, Value

if TYPE_CHECKING:
    from lowerconv.nn.module import Module

VERSION, FORMAT = 20, 9  # of the standard operators, and of the file
HINT = "writing ONNX files needs the package onnx: pip install 'lowerconv[onnx]'"


class Writer:
    """The nodes and constants of a file that is being made.

    Parameters
    ----------
    onnx : module
        The package.
    names : dict of Value to str
    """

    def __init__(self, onnx: Any, names: dict[Value, str]) -> None:
        self.onnx, self.names = onnx, names
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, array: Any, dtype: Any = None) -> str:
        """Add a constant, and return its name."""
        name = f"constant_{len(self.constants)}"
        whole = np.asarray(array, dtype, order="C")
        self.constants.append(self.onnx.numpy_helper.from_array(whole, name))
        return name

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node, and return its output."""
        name = f"{operator}_{len(self.nodes)}"
        kept = {k: v for k, v in attributes.items() if v is not None}
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, [output], name, **kept))
        return output

    def between(self) -> str:
        """Return a name for what is between two nodes of one layer."""
        return f"between_{len(self.nodes)}"


Form = Callable[[Writer, Node, Any, list[str], str], None]
FORMS: dict[str, Form] = {}


def form(*names: str) -> Callable[[Form], Form]:
    """Return a decorator that makes a function the writer of layers."""

    def register(function: Form) -> Form:
        FORMS.update(dict.fromkeys(names, function))
        return function

    return register


def _one_node(operator: str, attributes: Callable[[Any], dict[str, Any]] = lambda _: {}) -> Form:
    """Return a writer of layers that are one node, with what its attributes are of a layer."""

    def write(out: Writer, node: Node, layer: Any, xs: list[str], y: str) -> None:
        out.add(operator, xs, y, **attributes(layer))

    return write


FORMS |= {
    "Add": _one_node("Add"),
    "Concat": _one_node("Concat", lambda _: {"axis": 1}),
    "Dropout": _one_node("Identity"),  # as at inference
    "GlobalAvgPool2d": _one_node("GlobalAveragePool"),
    "LocalResponseNorm": _one_node(
        "LRN", lambda o: {"alpha": o.alpha, "beta": o.beta, "bias": o.k, "size": o.size}
    ),
    "ReLU": _one_node("Relu"),
    "Transpose": _one_node("Transpose", lambda layer: {"perm": list(map(int, layer.axes))}),
}


def _parameters(out: Writer, layer: Any) -> list[str]:
    """Add weight and bias as constants, and return their names."""
    weights = [layer.weight] + ([layer.bias] if layer.bias else [])
    return [out.constant(parameter.data) for parameter in weights]


def _flat(sides: Any) -> list[int]:
    """Return padding ((top, bottom), (left, right)) as ONNX has it."""
    (top, bottom), (left, right) = sides
    return [top, left, bottom, right]


@form("Conv2d")
def _conv(out: Writer, node: Node, layer: Any, xs: list[str], y: str) -> None:
    p = layer.problem(node.operands[0].shape)
    names = _parameters(out, layer)
    geometry = {"strides": list(p.stride), "dilations": list(p.dilation), "group": p.groups}
    out.add("Conv", [*xs, *names], y, pads=_flat(p.padding), **geometry)


@form("ConvTranspose2d")
def _conv_transpose(out: Writer, node: Node, layer: Any, xs: list[str], y: str) -> None:
    names = _parameters(out, layer)
    geometry = {"strides": list(layer.stride), "dilations": list(layer.dilation)}
    more = {"output_padding": list(layer.output_padding), "group": layer.groups}
    out.add("ConvTranspose", [*xs, *names], y, pads=_flat(layer._sides()), **geometry, **more)


@form("BatchNorm2d")
def _batch_norm(out: Writer, node: Node, layer: Any, xs: list[str], y: str) -> None:
    arrays = layer.weight.data, layer.bias.data, layer.running_mean, layer.running_var
    names = [out.constant(array) for array in arrays]
    out.add("BatchNormalization", [*xs, *names], y, epsilon=layer.eps, momentum=1 - layer.momentum)


@form("Linear")
def _linear(out: Writer, node: Node, layer: Any, xs: list[str], y: str) -> None:
    names = _parameters(out, layer)
    out.add("Gemm", [*xs, *names], y, transB=1)


@form("MaxPool2d", "AvgPool2d")
def _pool(out: Writer, node: Node, layer: Any, xs: list[str], y: str) -> None:
    geometry = {"kernel_shape": list(layer.size), "strides": list(layer.stride)}
    pads = [*layer.padding, *layer.padding]
    include = getattr(layer, "count_include_pad", None)
    name = "MaxPool" if include is None else "AveragePool"
    more = {"ceil_mode": int(layer.ceil_mode)} | (
        {} if include is None else {"count_include_pad": int(include)}
    )
    out.add(name, xs, y, pads=pads, **geometry, **more)


@form("View", "Flatten")
def _view(out: Writer, node: Node, layer: Any, xs: list[str], y: str) -> None:
    shape = list(node.result.shape)
    if shape[:1] == list(node.operands[0].shape[:1]):
        shape[0] = 0  # whatever the batch is
    out.add("Reshape", [*xs, out.constant(shape, np.int64)], y)


@form("Softmax")
def _softmax(out: Writer, node: Node, layer: Any, xs: list[str], y: str) -> None:
    out.add("LogSoftmax" if layer.log else "Softmax", xs, y, axis=layer.axis)


@form("Arithmetic")
def _arithmetic(out: Writer, node: Node, layer: Any, xs: list[str], y: str) -> None:
    if layer.constant is not None:
        xs = [*xs]
        xs.insert(0 if layer.first else 1, out.constant(layer.constant))
    name = "PRelu" if layer.operation == "prelu" else layer.operation.capitalize()
    out.add(name, xs, y)


@form("Resize")
def _resize(out: Writer, node: Node, layer: Any, xs: list[str], y: str) -> None:
    """Write products with matrices of weights: the layer knows no more of how these were made."""
    *_, H, W = node.operands[0].shape
    dtype = node.result.dtype

    def matrix(taps: tuple[np.ndarray, np.ndarray], n: int) -> np.ndarray:
        index, weights = taps
        found = np.zeros((len(index), n), dtype)
        np.add.at(found, (np.arange(len(index))[:, None], index), weights.astype(dtype))
        return found

    rows, columns = matrix(layer.rows, H), matrix(layer.columns, W).T
    between = out.add("MatMul", [out.constant(rows), *xs], out.between())
    out.add("MatMul", [between, out.constant(columns)], y)


_NAMES = {
    **{"sigmoid": "Sigmoid", "tanh": "Tanh", "mish": "Mish", "exp": "Exp", "log": "Log"},
    **{"sqrt": "Sqrt", "reciprocal": "Reciprocal", "abs": "Abs", "erf": "Erf"},
    **{"hard_swish": "HardSwish", "gelu": "Gelu"},
}


@form("Pointwise")
def _pointwise(out: Writer, node: Node, layer: Any, xs: list[str], y: str) -> None:
    name, a, b, dtype = layer.function, layer.a, layer.b, node.result.dtype
    if name in _NAMES:
        out.add(_NAMES[name], xs, y)
    elif name == "gelu_tanh":
        out.add("Gelu", xs, y, approximate="tanh")
    elif name == "clip":
        bounds = [out.constant(v, dtype) if np.isfinite(v) else "" for v in (a, b)]
        out.add("Clip", [*xs, *(bounds if bounds[1] else bounds[:1])], y)
    elif name == "leaky_relu":
        out.add("LeakyRelu", xs, y, alpha=a)
    elif name == "hard_sigmoid":
        out.add("HardSigmoid", xs, y, alpha=a, beta=b)
    elif name == "elu":
        out.add("Selu", xs, y, alpha=a, gamma=b)
    elif name == "silu":
        gate = xs[0] if a == 1 else out.add("Mul", [*xs, out.constant(a, dtype)], out.between())
        gate = out.add("Sigmoid", [gate], out.between())
        out.add("Mul", [*xs, gate], y)
    elif name == "softplus":
        if a == 1:
            out.add("Softplus", xs, y)
            return
        wide = out.add("Mul", [*xs, out.constant(a, dtype)], out.between())
        wide = out.add("Softplus", [wide], out.between())
        out.add("Div", [wide, out.constant(a, dtype)], y)
    elif name == "affine":
        between = out.add("Mul", [*xs, out.constant(a, dtype)], out.between())
        out.add("Add", [between, out.constant(b, dtype)], y)
    else:
        raise ValueError(f"function: got {name!r}, which has no form in ONNX")


def _form_of(layer: Any) -> Form | None:
    return FORMS.get(type(layer).__name__)


def write_node(out: Writer, node: Node, layer: Any, xs: list[str], y: str) -> None:
    """Write a layer that has a form, at the place of a node."""
    write = _form_of(layer)
    if write is None:
        raise ValueError(f"layers: got {layer!r}, which has no form in ONNX")
    write(out, node, layer, xs, y)


def _described(node: Node) -> str:
    """Return how people know a node: as its layer shows itself, or by names."""
    layer = node.layer
    if type(layer).__repr__ is object.__repr__:
        return f"{node.name!r} ({type(layer).__name__})"
    return repr(layer)


def save_onnx(
    module: Module, path: str | PathLike[str], x_shape: tuple[int, ...], dtype: Any
) -> None:
    """Write a network as an ONNX file; see `Module.save_onnx`."""
    try:
        import onnx
        import onnx.numpy_helper
    except ImportError:
        raise ImportError(HINT) from None
    graph = Graph(module, x_shape, dtype, False)
    foreign = [node for node in graph.nodes if _form_of(node.layer) is None]
    missing = sorted({_described(node) for node in foreign})
    if missing:
        raise ValueError(f"layers: got {', '.join(missing)}, which have no form in ONNX")
    inputs = ["x"] if len(graph.inputs) == 1 else [f"x_{i}" for i in range(len(graph.inputs))]
    names = dict(zip(graph.inputs, inputs, strict=True))
    for i, node in enumerate(graph.nodes):
        names[node.result] = f"value_{i}"
    out = Writer(onnx, names)
    for node in graph.nodes:
        write_node(out, node, node.layer, [names[v] for v in node.operands], names[node.result])

    def told(value: Value, name: str) -> Any:
        kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        return onnx.helper.make_tensor_value_info(name, kind, list(value.shape))

    outputs = []
    for i, value in enumerate(graph.results):
        name = "y" if len(graph.results) == 1 else f"y_{i}"
        out.add("Identity", [names[value]], name)
        outputs.append(told(value, name))
    made = onnx.helper.make_graph(
        *(out.nodes, type(module).__name__, [told(v, names[v]) for v in graph.inputs], outputs),
        initializer=out.constants,
    )
    versions = [onnx.helper.make_opsetid("", VERSION)]
    options = {"producer_name": "lowerconv", "ir_version": FORMAT, "opset_imports": versions}
    onnx.save_model(onnx.helper.make_model(made, **options), path)
