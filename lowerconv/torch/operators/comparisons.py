"""Comparisons, and what is chosen by them."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv.nn import functional as F
from lowerconv.torch.registry import operator


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


@operator("logical_not", how="NumPy")
def logical_not(net: Any, x: Any):
    """Record what is zero."""
    return F.computed("logical_not", np.logical_not, x)


@operator("masked_fill.Scalar", how="NumPy")
def masked_fill(net: Any, x: Any, mask: Any, value: Any):
    """Record a number where a mask holds."""
    return F.where(mask, np.asarray(value, x.dtype), x)


@operator("where.ScalarOther", how="NumPy")
def where_other(net: Any, condition: Any, a: Any, b: Any):
    """Record a choice between items and a number."""
    return F.where(condition, a, np.asarray(b, a.dtype))


@operator("where.ScalarSelf", how="NumPy")
def where_self(net: Any, condition: Any, a: Any, b: Any):
    """Record a choice between a number and items."""
    return F.where(condition, np.asarray(a, b.dtype), b)
