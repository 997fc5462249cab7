"""Comparisons, and what is chosen by them."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv.nn import functional as F
from lowerconv.torch.registry import operator, operators


def _register(name: str, function: Any) -> None:
    @operator(name, how="NumPy")
    def record(net: Any, a: Any, b: Any):
        if not hasattr(b, "dtype"):
            b = np.asarray(b)
        return F.computed(name, function, a, b)


for _name, _function in {
    "gt": np.greater,
    "ge": np.greater_equal,
    "lt": np.less,
    "le": np.less_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
}.items():
    _register(_name, _function)

operators(
    {
        "logical_not": lambda net, x: F.computed("logical_not", np.logical_not, x),
        "masked_fill.Scalar": lambda net, x, mask, v: F.where(mask, np.asarray(v, x.dtype), x),
        "where.ScalarOther": lambda net, where, a, b: F.where(where, a, np.asarray(b, a.dtype)),
        "where.ScalarSelf": lambda net, where, a, b: F.where(where, np.asarray(a, b.dtype), b),
    },
    how="NumPy",
)
