"""Functions of each item, arithmetic, and dropout."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv.nn import functional as F
from lowerconv.nn.activation import Dropout, ReLU
from lowerconv.nn.graph import Value
from lowerconv.torch.registry import operator, operators


def number(value: Any, like: Any) -> Any:
    """Return a number as an array of the dtype of another operand."""
    if not isinstance(value, (int, float, bool)):
        return value
    if like.dtype.kind in "iub" and isinstance(value, float):
        raise NotImplementedError(f"{value} with integers")
    return np.asarray(value, like.dtype)


def combine(operation: str, a: Any, b: Any) -> Any:
    """Record arithmetic of two, either of which may be a number."""
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        raise NotImplementedError(f"{operation} of two numbers")
    a, b = number(a, b), number(b, a)
    if isinstance(a, np.ndarray) and isinstance(b, Value) and a.dtype != b.dtype and a.ndim:
        a = a.astype(np.result_type(a, b.dtype))
    if isinstance(b, np.ndarray) and isinstance(a, Value) and a.dtype != b.dtype and b.ndim:
        b = b.astype(np.result_type(b, a.dtype))
    return F.arithmetic(operation, a, b)


def multiple(x: Any, factor: Any) -> Any:
    """Return a number or an operand times a number."""
    if factor == 1:
        return x
    return x * factor if isinstance(x, (int, float)) else F.scaled(x, factor)


@operator("div")
def div(net: Any, a: Any, b: Any, rounding: Any = None):
    """Record a quotient."""
    if rounding is not None:
        raise NotImplementedError(f"rounding_mode {rounding!r}")
    return combine("div", a, b)


def _log_sigmoid(x: Any) -> Any:
    return combine("mul", F.pointwise(combine("mul", x, -1), "softplus", 1.0), -1)


operators(
    {
        "add": lambda net, a, b, alpha: combine("add", a, multiple(b, alpha)),
        "sub": lambda net, a, b, alpha: combine("sub", a, multiple(b, alpha)),
        "rsub": lambda net, a, b, alpha: combine("sub", b, multiple(a, alpha)),
        "mul": lambda net, a, b: combine("mul", a, b),
        "pow": lambda net, a, b: combine("pow", a, b),
        "maximum": lambda net, a, b: combine("max", a, b),
        "minimum": lambda net, a, b: combine("min", a, b),
        "neg": lambda net, x: combine("mul", x, -1),
        "square": lambda net, x: F.arithmetic("mul", x, x),
        "rsqrt": lambda net, x: F.pointwise(F.pointwise(x, "sqrt"), "reciprocal"),
        "relu": lambda net, x: F.apply(ReLU(), x),
        "relu6": lambda net, x: F.pointwise(x, "clip", 0.0, 6.0),
        "clamp_min": lambda net, x, low: clamp(net, x, low, None),
        "clamp_max": lambda net, x, high: clamp(net, x, None, high),
        "leaky_relu": lambda net, x, slope: F.pointwise(x, "leaky_relu", slope),
        "selu": lambda net, x: F.pointwise(x, "elu", 1.6732632423543772, 1.0507009873554805),
        "gelu": lambda net, x, how: F.pointwise(x, "gelu_tanh" if how == "tanh" else "gelu"),
        "log_sigmoid": lambda net, x: _log_sigmoid(x),
        "softmax": lambda net, x, axis, dtype: F.softmax(_as_float(x, dtype), axis),
        "log_softmax": lambda net, x, axis, dtype: F.softmax(_as_float(x, dtype), axis, True),
    }
)
operators(
    {
        "sin": lambda net, x: F.computed(
            "sin", np.sin, x, gradient=lambda dy, y, x: (dy * np.cos(x),)
        ),
        "cos": lambda net, x: F.computed(
            "cos", np.cos, x, gradient=lambda dy, y, x: (-dy * np.sin(x),)
        ),
        "where.self": lambda net, condition, a, b: F.where(condition, a, b),
    },
    how="NumPy",
)


def _register(name: str, function: str) -> None:
    @operator(name)
    def record(net: Any, x: Any, *_: Any):
        return F.pointwise(x, function)


for _name, _function in {
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "silu": "silu",
    "mish": "mish",
    "hardswish": "hard_swish",
    "hardsigmoid": "hard_sigmoid",
    "exp": "exp",
    "log": "log",
    "sqrt": "sqrt",
    "reciprocal": "reciprocal",
    "abs": "abs",
    "erf": "erf",
}.items():
    _register(_name, _function)


@operator("clamp", "hardtanh", "clip")
def clamp(net: Any, x: Any, low: Any = None, high: Any = None):
    """Record the part between two bounds."""
    if any(isinstance(v, (Value, np.ndarray)) for v in (low, high)):
        raise NotImplementedError("bounds that are tensors")
    return F.pointwise(x, "clip", low, high)


@operator("elu")
def elu(net: Any, x: Any, alpha: float, scale: float, input_scale: float):
    """Record ELU."""
    if input_scale != 1:
        raise NotImplementedError(f"input_scale {input_scale}")
    return F.pointwise(x, "elu", alpha, scale)


@operator("softplus")
def softplus(net: Any, x: Any, beta: float, threshold: float):
    """Record softplus."""
    if threshold < 20:
        raise NotImplementedError(f"threshold {threshold}")
    return F.pointwise(x, "softplus", beta)


@operator("celu")
def celu(net: Any, x: Any, alpha: float):
    """Record CELU."""
    if alpha != 1:
        raise NotImplementedError(f"alpha {alpha}")
    return F.pointwise(x, "elu", 1.0, 1.0)


@operator("glu", how="NumPy")
def glu(net: Any, x: Any, axis: int):
    """Record one half of the channels times the sigmoid of the other."""
    n = x.shape[axis] // 2
    before = (slice(None),) * (axis % len(x.shape))
    first = F.getitem(x, (*before, slice(0, n)))
    second = F.getitem(x, (*before, slice(n, 2 * n)))
    return F.arithmetic("mul", first, F.pointwise(second, "sigmoid"))


@operator("prelu", how="NumPy")
def prelu(net: Any, x: Any, slope: Any):
    """Record PReLU with a slope for all, or one for each channel."""
    if len(x.shape) > 1 and slope.shape and slope.shape[0] > 1:
        slope = F.reshape(slope, (slope.shape[0],) + (1,) * (len(x.shape) - 2))
    return F.prelu(x, slope)


@operator("dropout")
def dropout(net: Any, x: Any, p: float, train: bool):
    """Record dropout."""
    if not train or not p:
        return x
    if p == 1:
        return combine("mul", x, 0.0)
    if net.frozen:
        raise NotImplementedError("dropout in a network that is not trained")
    return Dropout(p)(x)


def drawn(net: Any, like: Any, shape: Any, p: float) -> Any:
    """Record ones with probability `p`, else zeros, new ones in every run."""
    if net.frozen:
        raise NotImplementedError("random numbers in a network that is not trained")
    ones = net.constant(np.ones(shape, like.dtype))
    return F.scaled(Dropout(1 - p)(ones), p)


@operator("new_empty", "empty_like", how="NumPy")
def empty(net: Any, x: Any, shape: Any = None, *_: Any):
    """Record memory that something is written to."""
    if isinstance(shape, (list, tuple)):
        return np.zeros(shape, x.dtype)
    return np.zeros(x.shape, x.dtype)


@operator("fill.Scalar", "zero", how="NumPy")
def fill(net: Any, x: Any, value: Any = 0):
    """Record a number everywhere."""
    return np.full(x.shape, value, x.dtype)


@operator("bernoulli.float")
def bernoulli(net: Any, x: Any, p: float, _: Any):
    """Record ones with a probability, else zeros."""
    if not 0 < p <= 1:
        raise NotImplementedError(f"p {p}")
    return np.ones(x.shape, x.dtype) if p == 1 else drawn(net, x, x.shape, p)


@operator("feature_dropout")
def feature_dropout(net: Any, x: Any, p: float, train: bool):
    """Record dropout of whole channels."""
    if not train or not p:
        return x
    if p == 1:
        return combine("mul", x, 0.0)
    shape = (*x.shape[:2], *(1 for _ in x.shape[2:]))
    return combine("mul", x, F.scaled(drawn(net, x, shape, 1 - p), 1 / (1 - p)))


def _as_float(x: Any, dtype: Any) -> Any:
    """Return an operand in a dtype of torch."""
    if dtype is None:
        return x
    return F.cast(x, numpy_dtype(dtype))


def numpy_dtype(dtype: Any) -> np.dtype:
    """Return the dtype of NumPy that is one of torch."""
    import torch

    return torch.empty((), dtype=dtype).numpy().dtype
