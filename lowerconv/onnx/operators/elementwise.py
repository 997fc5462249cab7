"""Operators that do the same to each item, of one operand or of several."""

from __future__ import annotations

from functools import reduce
from math import inf
from typing import Any

import numpy as np

from lowerconv.nn import functional as F
from lowerconv.nn.activation import Dropout
from lowerconv.nn.graph import Value
from lowerconv.onnx.operators.reference import by_reference
from lowerconv.onnx.registry import Node, operator

_SELU = {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875}


def _function(name: str, constants: dict[str, float]) -> Any:
    def importer(node: Node, x: Any) -> Any:
        return F.pointwise(x, name, *(node.get(*constant) for constant in constants.items()))

    return importer


# Our functions, and the attributes that are their constants, with defaults.
for _name, _own, _constants in (
    ("Sigmoid", "sigmoid", {}),
    ("Tanh", "tanh", {}),
    ("Mish", "mish", {}),
    ("HardSwish", "hard_swish", {}),
    ("Softplus", "softplus", {}),
    ("Exp", "exp", {}),
    ("Log", "log", {}),
    ("Sqrt", "sqrt", {}),
    ("Reciprocal", "reciprocal", {}),
    ("Erf", "erf", {}),
    ("LeakyRelu", "leaky_relu", {"alpha": 0.01}),
    ("Elu", "elu", {"alpha": 1.0}),
    ("Selu", "elu", _SELU),
    ("HardSigmoid", "hard_sigmoid", {"alpha": 0.2, "beta": 0.5}),
    ("Swish", "silu", {"alpha": 1.0}),
):
    operator(_name)(_function(_own, _constants))


@operator("Gelu")
def gelu(node: Node, x: Any) -> Any:
    """Import Gelu, exact or by tanh."""
    return F.pointwise(x, "gelu_tanh" if node.get("approximate", "none") == "tanh" else "gelu")


@operator("Abs")
def absolute(node: Node, x: Any) -> Any:
    """Import Abs."""
    if x.dtype.kind != "f":
        return F.computed("abs", np.abs, x)
    return F.pointwise(x, "abs")


@operator("Neg")
def negative(node: Node, x: Any) -> Any:
    """Import Neg."""
    if x.dtype.kind != "f":
        return F.computed("neg", np.negative, x)
    return F.scaled(x, -1.0)


@operator("Relu")
def relu(node: Node, x: Any) -> Any:
    """Import Relu."""
    if x.dtype.kind != "f":
        return F.computed("relu", lambda x: np.maximum(x, 0), x)
    return F.pointwise(x, "clip", 0.0, inf)


@operator("Celu", how="NumPy")
def celu(node: Node, x: Any) -> Any:
    """Import Celu."""
    alpha = x.dtype.type(node.get("alpha", 1.0))

    def function(x: np.ndarray) -> np.ndarray:
        return np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(x / alpha))

    return F.computed("celu", function, x)


@operator("ThresholdedRelu", how="NumPy")
def thresholded_relu(node: Node, x: Any) -> Any:
    """Import ThresholdedRelu."""
    alpha = x.dtype.type(node.get("alpha", 1.0))
    return F.computed("thresholded_relu", lambda x: np.where(x > alpha, x, 0).astype(x.dtype), x)


@operator("Softsign", how="NumPy")
def softsign(node: Node, x: Any) -> Any:
    """Import Softsign."""
    return F.computed("softsign", lambda x: x / (1 + np.abs(x)), x)


@operator("Clip", since=1)
def clip_by_attributes(node: Node, x: Any) -> Any:
    """Import Clip, whose bounds are attributes before version 11."""
    return F.pointwise(x, "clip", node.get("min", -inf), node.get("max", inf))


@operator("Clip", since=11)
def clip(node: Node, x: Any, low: Any = None, high: Any = None) -> Any:
    """Import Clip, whose bounds are operands."""
    bounds = [b for b in (low, high) if b is not None]
    if x.dtype.kind != "f" or any(isinstance(b, Value) for b in bounds):
        y = x if low is None else F.arithmetic("max", x, low)
        return y if high is None else F.arithmetic("min", y, high)
    least = -inf if low is None else float(low.reshape(()))
    most = inf if high is None else float(high.reshape(()))
    if not bounds:
        return x
    if least > most:
        return F.arithmetic("min", F.arithmetic("max", x, low), high)
    return F.pointwise(x, "clip", least, most)


@operator("PRelu")
def prelu(node: Node, x: Any, slope: Any) -> Any:
    """Import PRelu: ``x`` where positive, else times a slope."""
    if node.version < 7 and len(slope.shape) == 1 and slope.shape[0] > 1:  # one for each channel
        slope = F.reshape(slope, (-1, *(1,) * (len(x.shape) - 2)))
    return F.prelu(x, slope)


def _shaped(node: Node, a: Any, b: Any) -> tuple[Any, Any]:
    """Return operands with the broadcasting of versions before 7: along `axis`."""
    axis = node.get("axis")
    if node.version < 7 and node.get("broadcast", 0) and axis is not None:
        after = len(a.shape) - axis - len(b.shape)
        b = F.reshape(b, (*b.shape, *(1,) * after))
    return a, b


def _binary(name: str) -> Any:
    def importer(node: Node, a: Any, b: Any) -> Any:
        a, b = _shaped(node, a, b)
        return F.arithmetic(name, a, b)

    return importer


for _name in ("Add", "Sub", "Mul", "Div", "Pow"):
    operator(_name)(_binary(_name.lower()))


@operator("Pow", since=12)
def power(node: Node, a: Any, b: Any) -> Any:
    """Import Pow, whose result has the type of the base."""
    if not isinstance(a, Value) and not isinstance(b, Value):
        return np.power(a, b).astype(a.dtype)
    return F.cast(F.arithmetic("pow", a, F.cast(b, a.dtype)), a.dtype)


def _of_many(name: str) -> Any:
    def importer(node: Node, *xs: Any) -> Any:
        return reduce(lambda a, b: F.arithmetic(name, a, b), xs)

    return importer


for _name, _own in {"Sum": "add", "Min": "min", "Max": "max"}.items():
    operator(_name)(_of_many(_own))


@operator("Mean")
def mean(node: Node, *xs: Any) -> Any:
    """Import Mean of several operands."""
    return F.scaled(_of_many("add")(node, *xs), 1 / len(xs))


@operator("Identity", moves=True)
def identity(node: Node, x: Any) -> Any:
    """Import Identity."""
    return x


@operator("Dropout", contents=(1, 2))
def dropout(node: Node, x: Any, ratio: Any = None, training: Any = None) -> Any:
    """Import Dropout: it drops in training steps, as ours does, with the file's ratio."""
    if training is not None and np.reshape(training, ()):
        made = by_reference(node, x, ratio, training)
        return made if len(made) > 1 else made[0]
    p = node.get("ratio", 0.5) if ratio is None else float(np.reshape(ratio, ()))
    y = Dropout(p)(x) if p and isinstance(x, Value) else x
    return y, np.ones(x.shape, bool) if len(node.outputs) > 1 else None


@operator("Cast", how="NumPy", moves=True)
def cast(node: Node, x: Any) -> Any:
    """Import Cast."""
    from lowerconv.onnx.reader import import_onnx

    kind = node.get("to")
    if isinstance(kind, str):  # before version 6
        kind = import_onnx().TensorProto.DataType.Value(kind)
    dtype = import_onnx().helper.tensor_dtype_to_np_dtype(kind)
    return F.cast(x, dtype) if _plain(dtype) else by_reference(node, x)


@operator("CastLike", how="NumPy", moves=True)
def cast_like(node: Node, x: Any, other: Any) -> Any:
    """Import CastLike."""
    return F.cast(x, other.dtype) if _plain(other.dtype) else by_reference(node, x, other)


def _plain(dtype: np.dtype) -> bool:
    """Return whether numbers are of a type that NumPy converts to as ONNX does."""
    return dtype.isbuiltin == 1 or dtype.name == "bfloat16"


@operator("Where", how="NumPy", moves=True)
def where(node: Node, condition: Any, a: Any, b: Any) -> Any:
    """Import Where."""
    return F.where(condition, a, b)


_COMPARISONS: dict[str, Any] = {
    "Equal": np.equal,
    "Greater": np.greater,
    "Less": np.less,
    "GreaterOrEqual": np.greater_equal,
    "LessOrEqual": np.less_equal,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Xor": np.logical_xor,
    "BitwiseAnd": np.bitwise_and,
    "BitwiseOr": np.bitwise_or,
    "BitwiseXor": np.bitwise_xor,
}


def _comparison(function: Any) -> Any:
    def importer(node: Node, a: Any, b: Any) -> Any:
        return F.computed(node.operator.lower(), function, *_shaped(node, a, b))

    return importer


for _name, _numpy in _COMPARISONS.items():
    operator(_name, how="NumPy")(_comparison(_numpy))

_UNARY: dict[str, Any] = {
    "Not": np.logical_not,
    "BitwiseNot": np.invert,
    "Floor": np.floor,
    "Ceil": np.ceil,
    "Round": np.rint,
    "Sign": np.sign,
    "Sin": np.sin,
    "Cos": np.cos,
    "Tan": np.tan,
    "Asin": np.arcsin,
    "Acos": np.arccos,
    "Atan": np.arctan,
    "Sinh": np.sinh,
    "Cosh": np.cosh,
    "Asinh": np.arcsinh,
    "Acosh": np.arccosh,
    "Atanh": np.arctanh,
    "IsNaN": np.isnan,
}


def _unary(function: Any) -> Any:
    def importer(node: Node, x: Any) -> Any:
        return F.computed(node.operator.lower(), function, x)

    return importer


for _name, _numpy in _UNARY.items():
    operator(_name, how="NumPy")(_unary(_numpy))


@operator("IsInf", how="NumPy")
def is_inf(node: Node, x: Any) -> Any:
    """Import IsInf."""
    up, down = node.get("detect_positive", 1), node.get("detect_negative", 1)

    def function(x: np.ndarray) -> np.ndarray:
        return (np.isposinf(x) & bool(up)) | (np.isneginf(x) & bool(down))

    return F.computed("isinf", function, x)


@operator("Mod", how="NumPy")
def mod(node: Node, a: Any, b: Any) -> Any:
    """Import Mod."""
    return F.computed("mod", np.fmod if node.get("fmod", 0) else np.mod, a, b)
