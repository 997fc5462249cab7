"""Normalisation by the statistics of batches, images, groups and layers."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from lowerconv.nn import functional as F
from lowerconv.nn.attributes import Parameter
from lowerconv.nn.graph import Value
from lowerconv.nn.norm import BatchNorm2d
from lowerconv.nn.normalise import Normalise
from lowerconv.torch.layers import FixedBatchNorm2d
from lowerconv.torch.operators.convolution import is_leaf
from lowerconv.torch.registry import operator


@operator("batch_norm", leaves=True)
def batch_norm(
    net: Any,
    x: Any,
    w: Any,
    b: Any,
    mean: Any,
    var: Any,
    training: bool,
    momentum: float,
    eps: float,
    _: Any,
):
    """Record batch norm, by the statistics of the batch or by the running ones."""
    x = net.plain(x)
    shape, C = x.shape, x.shape[1]
    statistics = [v for v in (mean, var) if v is not None]
    computed = not all(map(is_leaf, statistics))
    if computed and training:
        raise NotImplementedError("running statistics that are no buffers, in training")
    wide = (C,) + (1,) * (len(shape) - 2)
    if computed and len(statistics) == 2:
        mean, var = net.plain(mean), net.plain(var)
        spread = F.arithmetic("add", F.reshape(var, wide), np.asarray(eps, x.dtype))
        centred = F.arithmetic("sub", x, F.reshape(mean, wide))
        y = F.arithmetic("div", centred, F.pointwise(spread, "sqrt"))
        return scaled(y, net.plain(w), net.plain(b), wide)
    if not all(v is None or is_leaf(v) for v in (w, b)):
        y = batch_norm(net, x, None, None, mean, var, training, momentum, eps, _)
        return scaled(y, net.plain(w), net.plain(b), wide)
    if not training and (mean is None or var is None):
        raise NotImplementedError("no statistics")
    kind = BatchNorm2d if training or net.frozen else FixedBatchNorm2d

    def make() -> BatchNorm2d:
        made = kind(C, eps, dtype=x.dtype)
        made.momentum = float(momentum) if training else 0.0  # any number, as PyTorch takes
        for name, leaf in (("weight", w), ("bias", b)):
            if leaf is not None:
                getattr(made, name).data = leaf.array
                net.bind(getattr(made, name), leaf)
        for name, leaf in (("running_mean", mean), ("running_var", var)):
            if leaf is not None:
                setattr(made, name, leaf.array)
                net.bind_buffer(made, name, leaf)
        return made

    layer = net.layer(make)
    if len(shape) != 4:
        x = F.reshape(x, (*shape[:2], prod(shape[2:]), 1))
    return F.reshape(layer(x), shape)


def scaled(y: Any, w: Any, b: Any, shape: tuple[int, ...]) -> Any:
    """Return ``y * w + b`` with both in a shape."""
    if w is not None:
        y = F.arithmetic("mul", y, F.reshape(w, shape))
    return y if b is None else F.arithmetic("add", y, F.reshape(b, shape))


def normalised(
    net: Any, x: Any, axes: tuple[int, ...], w: Any, b: Any, eps: float, period: int = 1
) -> Any:
    """Record `Normalise` with scale and shift of its own, where these are parameters."""
    if not (isinstance(x, Value) and all(v is None or is_leaf(v) for v in (w, b))):
        return None

    def make() -> Normalise:
        made = Normalise(axes, eps, period)
        for name, leaf in (("weight", w), ("bias", b)):
            if leaf is not None:
                setattr(made, name, Parameter(leaf.array.reshape(-1)))
                net.bind(getattr(made, name), leaf)
        return made

    return net.layer(make)(x)


@operator("group_norm", leaves=True)
def group_norm(net: Any, x: Any, groups: int, w: Any, b: Any, eps: float, _: Any):
    """Record group norm."""
    x = net.plain(x)
    shape = x.shape
    cut = F.reshape(x, (shape[0], groups, prod(shape[1:]) // groups))
    y = normalised(net, cut, (2,), w, b, eps, groups)
    if y is not None:
        return F.reshape(y, shape)
    y = F.reshape(F.normalize(cut, (2,), eps), shape)
    return scaled(y, net.plain(w), net.plain(b), (shape[1],) + (1,) * (len(shape) - 2))


@operator("layer_norm", leaves=True)
def layer_norm(net: Any, x: Any, normalized: Any, w: Any, b: Any, eps: float, _: Any):
    """Record layer norm; of channels that were moved last, where they were before."""
    x = net.plain(x)
    rank = len(x.shape)
    moved = F.layer_of(x, F.Transpose)
    if moved is not None and len(normalized) == 1:
        y = normalised(net, x.node.operands[0], (moved.axes[-1],), w, b, eps)
        if y is not None:
            return F.transpose(y, moved.axes)
    axes = tuple(range(rank - len(normalized), rank))
    y = normalised(net, x, axes, w, b, eps)
    if y is not None:
        return y
    return scaled(F.normalize(x, axes, eps), net.plain(w), net.plain(b), tuple(normalized))


@operator("instance_norm", leaves=True)
def instance_norm(
    net: Any,
    x: Any,
    w: Any,
    b: Any,
    mean: Any,
    var: Any,
    own: bool,
    momentum: float,
    eps: float,
    _: Any,
):
    """Record instance norm by the statistics of each image."""
    if not own or mean is not None:
        raise NotImplementedError("running statistics of instance norm")
    return group_norm(net, x, net.plain(x).shape[1], w, b, eps, _)


@operator("rms_norm", how="NumPy")
def rms_norm(net: Any, x: Any, sizes: Any, w: Any, eps: float | None):
    """Record a division by root mean squares over the last axes."""
    eps = float(np.finfo(x.dtype).eps) if eps is None else eps
    axes = list(range(len(x.shape) - len(sizes), len(x.shape)))
    mean = F.reduce("mean", F.arithmetic("mul", x, x), axes, True)
    spread = F.pointwise(F.arithmetic("add", mean, np.asarray(eps, x.dtype)), "sqrt")
    y = F.arithmetic("div", x, spread)
    return y if w is None else F.arithmetic("mul", y, w)
