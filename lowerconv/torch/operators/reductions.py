"""Sums, means, norms and spreads over axes."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from lowerconv.nn import functional as F
from lowerconv.torch.operators.elementwise import numpy_dtype
from lowerconv.torch.registry import operator, operators


def _axes(x: Any, axes: Any) -> list[int]:
    rank = len(x.shape)
    given = [axes] if isinstance(axes, int) else axes or range(rank)
    return sorted(a % rank for a in given) if rank else []


def _reduced(operation: str, x: Any, axes: Any, keep: bool, dtype: Any) -> Any:
    if dtype is not None:
        x = F.cast(x, numpy_dtype(dtype))
    return F.reduce(operation, x, [axes] if isinstance(axes, int) else axes or None, keep)


operators({"mean.dim": lambda net, x, *how: _reduced("mean", x, *how)})
operators(
    {
        "sum.dim_IntList": lambda net, x, *how: _reduced("sum", x, *how),
        "mean.default": lambda net, x, dtype: _reduced("mean", x, None, False, dtype),
        "sum.default": lambda net, x, dtype: _reduced("sum", x, None, False, dtype),
        "amax": lambda net, x, axes, keep: _reduced("max", x, axes, keep, None),
        "amin": lambda net, x, axes, keep: _reduced("min", x, axes, keep, None),
    },
    how="NumPy",
)


@operator("var.correction", "var.dim", how="NumPy")
def variance(net: Any, x: Any, axes: Any, correction: Any, keep: bool):
    """Record variances over axes."""
    correction = 1 if correction is None else float(correction)
    over = _axes(x, axes)
    count = prod(x.shape[a] for a in over)
    if count <= correction:
        raise NotImplementedError(f"the variance of {count} items")
    away = F.arithmetic("sub", x, F.reduce("mean", x, over, True))
    total = F.reduce("sum", F.arithmetic("mul", away, away), over, keep)
    return F.scaled(total, 1 / (count - correction))


@operator("std.correction", "std.dim", how="NumPy")
def deviation(net: Any, x: Any, axes: Any, correction: Any, keep: bool):
    """Record standard deviations over axes."""
    return _root(variance(net, x, axes, correction, keep))


def _root(x: Any) -> Any:
    """Return the square root, whose gradient is zero at zero, as PyTorch has it of spreads."""

    def gradient(dy: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray]:
        return (np.where(y == 0, 0, dy / (2 * y)),)

    return F.computed("root", np.sqrt, x, gradient=gradient)


@operator("linalg_vector_norm", how="NumPy")
def vector_norm(net: Any, x: Any, order: Any, axes: Any, keep: bool, dtype: Any):
    """Record Euclidean norms over axes."""
    if order != 2:
        raise NotImplementedError(f"a norm of order {order}")
    if dtype is not None:
        x = F.cast(x, numpy_dtype(dtype))
    return _root(F.reduce("sum", F.arithmetic("mul", x, x), _axes(x, axes), keep))


@operator("logsumexp", how="NumPy")
def logsumexp(net: Any, x: Any, axes: Any, keep: bool):
    """Record logarithms of sums of exponentials over axes."""
    over = tuple(_axes(x, axes))

    def function(x: np.ndarray) -> np.ndarray:
        most = x.max(over, keepdims=True)
        most = np.where(np.isfinite(most), most, 0)
        y = np.log(np.exp(x - most).sum(over, keepdims=True)) + most
        return y if keep else np.squeeze(y, over)

    def gradient(dy: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray]:
        if not keep:
            dy, y = np.expand_dims(dy, over), np.expand_dims(y, over)
        return (dy * np.exp(x - y),)

    return F.computed("logsumexp", function, x, gradient=gradient)


@operator("_weight_norm", how="NumPy")
def weight_norm(net: Any, v: Any, g: Any, axis: int):
    """Record filters that have other norms, those along an axis."""
    rank = len(v.shape)
    over = [a for a in range(rank) if axis < 0 or a != axis]
    norm = _root(F.reduce("sum", F.arithmetic("mul", v, v), over, True))
    return F.arithmetic("mul", v, F.arithmetic("div", g, norm))
