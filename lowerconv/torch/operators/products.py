"""Products of matrices, and attention."""

from __future__ import annotations

from math import prod, sqrt
from typing import Any

import numpy as np

from lowerconv.nn import functional as F
from lowerconv.nn.graph import Value
from lowerconv.nn.linear import Linear
from lowerconv.torch.operators.convolution import is_leaf
from lowerconv.torch.registry import operator


def swapped(x: Any) -> Any:
    """Return matrices transposed."""
    axes = list(range(len(x.shape)))
    return F.transpose(x, (*axes[:-2], axes[-1], axes[-2]))


@operator("linear", leaves=True)
def linear(net: Any, x: Any, w: Any, b: Any):
    """Record a fully connected layer."""
    x = net.plain(x)
    known = is_leaf(w) and len(w.shape) == 2 and (b is None or is_leaf(b))
    if not known or not isinstance(x, Value) or 0 in x.shape[1:]:
        w, b = net.plain(w), net.plain(b)
        y = F.matmul(x, F.transpose(w, (1, 0)) if len(w.shape) == 2 else w)
        return y if b is None else F.arithmetic("add", y, b)

    def make() -> Linear:
        made = Linear.of(w.array, None if b is None else b.array)
        net.bind(made.weight, w)
        net.bind(made.bias, b)
        return made

    y = net.layer(make)(F.reshape(x, (prod(x.shape[:-1]), x.shape[-1])))
    return F.reshape(y, (*x.shape[:-1], y.shape[1]))


@operator("matmul", "mm", "bmm", "mv", how="NumPy")
def matmul(net: Any, a: Any, b: Any):
    """Record a product of matrices."""
    return F.matmul(a, b)


@operator("addmm", how="NumPy")
def addmm(net: Any, c: Any, a: Any, b: Any, beta: float, alpha: float):
    """Record ``beta * c + alpha * a b``."""
    return F.arithmetic("add", F.scaled(c, beta), F.scaled(F.matmul(a, b), alpha))


@operator("scaled_dot_product_attention", how="NumPy")
def attention(
    net: Any, q: Any, k: Any, v: Any, mask: Any, dropout: float, causal: bool, scale: Any, gqa: bool
):
    """Record attention."""
    if dropout or gqa:
        raise NotImplementedError("attention with dropout, or with grouped queries")
    factor = 1 / sqrt(q.shape[-1]) if scale is None else scale
    scores = F.scaled(F.matmul(q, swapped(k)), factor)
    if causal:
        allowed = np.tril(np.ones((q.shape[-2], k.shape[-2]), bool))
        mask = allowed
    if mask is not None:
        if mask.dtype == np.bool_:
            if isinstance(mask, Value):
                raise NotImplementedError("a mask that is computed")
            mask = np.where(mask, 0, -np.inf).astype(q.dtype)
        scores = F.arithmetic("add", scores, mask)
    return F.matmul(F.softmax(scores, -1), v)
