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


@operator("einsum", how="NumPy")
def einsum(net: Any, equation: str, operands: Any, _: Any = None):
    """Record a sum of products of one or two operands, by products of matrices."""
    left, _, out = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    plain = "->" in equation and "." not in equation and len(terms) <= 2
    if not plain or any(len(set(t)) < len(t) for t in (*terms, out)):
        raise NotImplementedError(f"the equation {equation!r}")
    rest = ["".join(terms[:i] + terms[i + 1 :]) + out for i in range(len(terms))]
    found = []
    for term, x, others in zip(terms, operands, rest, strict=True):
        gone = [i for i, letter in enumerate(term) if letter not in others]
        x = F.reduce("sum", x, gone, False) if gone else x
        found.append(("".join(c for i, c in enumerate(term) if i not in gone), x))
    if len(found) == 1:
        ((letters, y),) = found
        return F.transpose(y, [letters.index(c) for c in out])
    (ta, a), (tb, b) = found
    sizes = {c: n for t, x in found for c, n in zip(t, x.shape, strict=True) if n > 1}
    if any(sizes.get(c, 1) != n for t, x in found for c, n in zip(t, x.shape, strict=True)):
        raise NotImplementedError("extents of one that stand for others")
    many = [c for c in ta if c in tb and c in out]
    inner = [c for c in ta if c in tb and c not in out]
    rows, columns = [c for c in ta if c not in tb], [c for c in tb if c not in ta]

    def grouped(letters: str, x: Any, *groups: list[str]) -> Any:
        x = F.transpose(x, [letters.index(c) for group in groups for c in group])
        extents = [sizes.get(c, 1) for c in groups[0]]
        return F.reshape(x, (*extents, *(prod(sizes.get(c, 1) for c in g) for g in groups[1:])))

    y = F.matmul(grouped(ta, a, many, rows, inner), grouped(tb, b, many, inner, columns))
    order = [*many, *rows, *columns]
    y = F.reshape(y, [sizes.get(c, 1) for c in order])
    return F.transpose(y, [order.index(c) for c in out])
