"""Normalisation: by stored statistics, and by those of images, groups or layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv.nn import functional as F
from lowerconv.nn.layer import Layer
from lowerconv.nn.norm import BatchNorm2d, LocalResponseNorm
from lowerconv.onnx.registry import Node, operator, parameters


@parameters("BatchNormalization")
def batch_norm_layer(node: Node, known: dict[int, np.ndarray]) -> Layer | None:
    """Return a batch norm with constant statistics."""
    if not all(i in known for i in (1, 2, 3, 4)) or len(node.outputs) > 1:
        return None
    scale, shift, mean, var = (known[i] for i in (1, 2, 3, 4))
    if any(v.shape != scale.shape or v.ndim != 1 for v in (scale, shift, mean, var)):
        raise ValueError(f"got statistics {[known[i].shape for i in (1, 2, 3, 4)]}, expected (C,)")
    layer = BatchNorm2d(
        *(scale.size, node.get("epsilon", 1e-5), 1 - node.get("momentum", 0.9)), dtype=scale.dtype
    )
    layer.weight.data, layer.bias.data = scale.copy(), shift.copy()
    layer.running_mean, layer.running_var = mean.copy(), var.copy()
    return layer


@operator("BatchNormalization")
def batch_norm(node: Node, x: Any, scale: Any, shift: Any, mean: Any, var: Any) -> Any:
    """Import BatchNormalization with stored statistics."""
    layer = node.layer
    if isinstance(layer, BatchNorm2d) and x.ndim == 4:
        return layer(x)
    shape = x.shape
    if isinstance(layer, BatchNorm2d):
        x = F.reshape(x, (*shape[:2], int(np.prod(shape[2:])), 1))
        return F.reshape(layer(x), shape)
    over = (0, *range(2, len(shape)))
    more: tuple[Any, ...] = ()
    if node.get("training_mode", 0):  # statistics of the batch, and those that are kept
        kept = node.get("momentum", 0.9)
        batch_mean = F.reduce("mean", x, over, False)
        batch_var = F.computed("variance", lambda x: x.var(axis=over, dtype=x.dtype), x)
        pairs = (mean, batch_mean), (var, batch_var)
        more = tuple(
            F.arithmetic("add", F.scaled(old, kept), F.scaled(new, 1 - kept)) for old, new in pairs
        )
        mean, var = batch_mean, batch_var
    wide = (-1,) + (1,) * (len(shape) - 2)
    scale, shift, mean, var = (F.reshape(v, wide) for v in (scale, shift, mean, var))
    epsilon = np.asarray(node.get("epsilon", 1e-5), var.dtype)
    deviation = F.pointwise(F.arithmetic("add", var, epsilon), "sqrt")
    factor = F.arithmetic("div", scale, deviation)
    summand = F.arithmetic("sub", shift, F.arithmetic("mul", mean, factor))
    y = F.arithmetic("add", F.arithmetic("mul", x, factor), summand)
    return (y, *more) if more else y


@operator("InstanceNormalization")
def instance_norm(node: Node, x: Any, scale: Any, shift: Any) -> Any:
    """Import InstanceNormalization."""
    wide = (-1,) + (1,) * (len(x.shape) - 2)
    y = F.normalize(x, tuple(range(2, len(x.shape))), node.get("epsilon", 1e-5))
    y = F.arithmetic("mul", y, F.reshape(scale, wide))
    return F.arithmetic("add", y, F.reshape(shift, wide))


@operator("GroupNormalization", since=18)
def group_norm_by_groups(node: Node, x: Any, scale: Any, shift: Any) -> Any:
    """Import GroupNormalization, with a scale for each group before version 21."""
    each = x.shape[1] // node.attributes["num_groups"]
    return group_norm(node, x, np.repeat(scale, each), np.repeat(shift, each))


@operator("GroupNormalization", since=21)
def group_norm(node: Node, x: Any, scale: Any, shift: Any) -> Any:
    """Import GroupNormalization."""
    groups, shape = node.attributes["num_groups"], x.shape
    wide = (-1,) + (1,) * (len(shape) - 2)
    y = F.normalize(F.reshape(x, (shape[0], groups, -1)), (2,), node.get("epsilon", 1e-5))
    y = F.arithmetic("mul", F.reshape(y, shape), F.reshape(scale, wide))
    return F.arithmetic("add", y, F.reshape(shift, wide))


@operator("LayerNormalization")
def layer_norm(node: Node, x: Any, scale: Any, shift: Any = None) -> Any:
    """Import LayerNormalization; its further outputs are mean and 1 / deviation."""
    axis = node.get("axis", -1) % len(x.shape)
    axes, epsilon = tuple(range(axis, len(x.shape))), node.get("epsilon", 1e-5)
    y = F.arithmetic("mul", F.normalize(x, axes, epsilon), scale)
    y = y if shift is None else F.arithmetic("add", y, shift)
    if len(node.outputs) < 2:
        return y
    mean = F.reduce("mean", x, axes, True)

    def inverse(x: np.ndarray) -> np.ndarray:
        return (1 / np.sqrt(x.var(axis=axes, keepdims=True) + epsilon)).astype(x.dtype)

    return y, mean, F.computed("inverse deviation", inverse, x)


@operator("LpNormalization", how="NumPy")
def lp_norm(node: Node, x: Any) -> Any:
    """Import LpNormalization."""
    axis, order = node.get("axis", -1), node.get("p", 2)

    def function(x: np.ndarray) -> np.ndarray:
        size = np.linalg.norm(x, order, axis=axis, keepdims=True)
        return np.where(size == 0, 0, x / np.where(size == 0, 1, size)).astype(x.dtype)

    return F.computed("lp_norm", function, x)


@operator("LRN")
def lrn(node: Node, x: Any) -> Any:
    """Import LRN."""
    size = node.attributes["size"]
    constants = node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0)
    return LocalResponseNorm(size, *constants)(x)


@operator("MeanVarianceNormalization")
def mean_variance(node: Node, x: Any) -> Any:
    """Import MeanVarianceNormalization."""
    return F.normalize(x, tuple(node.get("axes") or (0, 2, 3)), 1e-9)


@operator("RMSNormalization", how="NumPy")
def rms_norm(node: Node, x: Any, scale: Any) -> Any:
    """Import RMSNormalization."""
    axis = node.get("axis", -1) % len(x.shape)
    epsilon = np.asarray(node.get("epsilon", 1e-5), x.dtype)
    mean = F.reduce("mean", F.arithmetic("mul", x, x), range(axis, len(x.shape)), True)
    size = F.pointwise(F.arithmetic("add", mean, epsilon), "sqrt")
    return F.arithmetic("mul", F.arithmetic("div", x, size), scale)
