"""Importers of operators that do the same to each item."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np

from lowerconv.nn import functional as F
from lowerconv.nn.graph import Value
from lowerconv.torch.registry import NotConverted, operand, operator


def _function(name: str) -> Any:
    def importer(net: Any, self: Any) -> Any:
        return F.pointwise(operand(self), name)

    return importer


for _name, _own in {
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "silu": "silu",
    "hardswish": "hard_swish",
    "hardsigmoid": "hard_sigmoid",
    "mish": "mish",
    "exp": "exp",
    "log": "log",
    "sqrt": "sqrt",
    "reciprocal": "reciprocal",
    "abs": "abs",
    "erf": "erf",
}.items():
    operator(_name)(_function(_own))


@operator("relu")
def relu(net: Any, self: Any) -> Any:
    """Import ReLU."""
    return F.pointwise(self, "clip", 0.0, inf)


@operator("relu6")
def relu6(net: Any, self: Any) -> Any:
    """Import ReLU6."""
    return F.pointwise(self, "clip", 0.0, 6.0)


@operator("hardtanh")
def hardtanh(net: Any, self: Any, min_val: float = -1, max_val: float = 1) -> Any:
    """Import hardtanh, which ReLU6 is."""
    return F.pointwise(self, "clip", float(min_val), float(max_val))


@operator("clamp", "clamp_min", "clamp_max", "clip")
def clamp(net: Any, self: Any, min: Any = None, max: Any = None) -> Any:
    """Import clamp between numbers."""
    if any(not isinstance(b, (int, float, type(None))) for b in (min, max)):
        raise NotConverted("clamp with tensors as bounds")
    least, most = (-inf if min is None else min), (inf if max is None else max)
    return F.pointwise(self, "clip", float(least), float(most))


@operator("leaky_relu")
def leaky_relu(net: Any, self: Any, negative_slope: float = 0.01) -> Any:
    """Import leaky ReLU."""
    return F.pointwise(self, "leaky_relu", negative_slope)


@operator("elu")
def elu(net: Any, self: Any, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Any:
    """Import ELU."""
    if input_scale != 1:
        raise NotConverted("elu with input_scale")
    return F.pointwise(self, "elu", alpha, scale)


@operator("selu")
def selu(net: Any, self: Any) -> Any:
    """Import SELU."""
    return F.pointwise(self, "elu", 1.6732632423543772, 1.0507009873554805)


@operator("gelu")
def gelu(net: Any, self: Any, approximate: str = "none") -> Any:
    """Import GELU, exact or by tanh."""
    return F.pointwise(self, "gelu_tanh" if approximate == "tanh" else "gelu")


@operator("softplus")
def softplus(net: Any, self: Any, beta: float = 1, threshold: float = 20) -> Any:
    """Import softplus; beyond the threshold PyTorch's is linear to rounding."""
    return F.pointwise(self, "softplus", beta)


@operator("rsqrt")
def rsqrt(net: Any, self: Any) -> Any:
    """Import ``1 / sqrt(x)``."""
    return F.pointwise(F.pointwise(operand(self), "sqrt"), "reciprocal")


@operator("neg")
def neg(net: Any, self: Any) -> Any:
    """Import ``-x``."""
    return F.scaled(operand(self), -1.0)


@operator("prelu")
def prelu(net: Any, self: Any, weight: Any) -> Any:
    """Import PReLU."""
    slope = operand(weight)
    if weight.shape != (1,):
        slope = F.reshape(slope, (-1,) + (1,) * (len(self.shape) - 2))
    return F.prelu(self, slope)


def _number(value: Any, like: Any) -> Any:
    """Return a number as an array of the dtype of the other operand."""
    return np.asarray(value, like.dtype) if isinstance(value, (int, float)) else operand(value)


def _binary(name: str) -> Any:
    def importer(net: Any, self: Any, other: Any, alpha: float = 1) -> Any:
        if not hasattr(self, "shape") and not hasattr(other, "shape"):
            return {"add": lambda: self + other * alpha, "sub": lambda: self - other * alpha,
                    "mul": lambda: self * other, "div": lambda: self / other}[name]()
        a = operand(self) if hasattr(self, "shape") else _number(self, operand(other))
        b = operand(other) if hasattr(other, "shape") else _number(other, a)
        for x in (a, b):
            if not isinstance(x, (Value, np.ndarray)):
                raise NotConverted(f"{name} of {type(x).__name__}")
        return F.arithmetic(name, a, F.scaled(b, alpha))

    return importer


for _name in ("add", "sub", "mul", "div", "pow"):
    operator(_name)(_binary(_name))
operator("minimum")(_binary("min"))
operator("maximum")(_binary("max"))


@operator("rsub")
def rsub(net: Any, self: Any, other: Any, alpha: float = 1) -> Any:
    """Import ``other - alpha * self``."""
    x = operand(self)
    return F.arithmetic("sub", _number(other, x), F.scaled(x, alpha))


@operator("softmax", "log_softmax", "_softmax", "_log_softmax")
def softmax(net: Any, self: Any, dim: int, dtype: Any = None) -> Any:
    """Import softmax."""
    if dtype not in (None, False):
        raise NotConverted("softmax in another dtype")
    return F.softmax(self, dim)


@operator("log_softmax", "_log_softmax")
def log_softmax(net: Any, self: Any, dim: int, dtype: Any = None) -> Any:
    """Import the logarithm of softmax."""
    if dtype not in (None, False):
        raise NotConverted("log_softmax in another dtype")
    return F.softmax(self, dim, True)
