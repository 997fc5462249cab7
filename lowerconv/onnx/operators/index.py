"""Operators that pick items by their indices."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv.nn import functional as F
from lowerconv.onnx.operators.shapes import numbers
from lowerconv.onnx.registry import Node, operator


@operator("Gather", how="NumPy", moves=True)
def gather(node: Node, x: Any, indices: Any) -> Any:
    """Import Gather."""
    axis = node.get("axis", 0) % len(x.shape)
    if isinstance(indices, np.ndarray) and indices.ndim == 0:
        index: Any = (slice(None),) * axis + (int(indices),)
        return F.getitem(x, index)
    return F.take(x, indices, axis)


@operator("GatherElements", how="NumPy", moves=True)
def gather_elements(node: Node, x: Any, indices: Any) -> Any:
    """Import GatherElements."""
    axis = node.get("axis", 0)
    return F.computed("gather_elements", lambda x, i: np.take_along_axis(x, i, axis), x, indices)


@operator("ArgMax", "ArgMin", how="NumPy")
def arg_extreme(node: Node, x: Any) -> Any:
    """Import ArgMax and ArgMin."""
    axis, keep = node.get("axis", 0) % len(x.shape), bool(node.get("keepdims", 1))
    last = bool(node.get("select_last_index", 0))
    best = np.argmax if node.operator == "ArgMax" else np.argmin

    def function(x: np.ndarray) -> np.ndarray:
        found = best(np.flip(x, axis) if last else x, axis=axis)
        found = x.shape[axis] - 1 - found if last else found
        found = found.astype(np.int64)
        return np.expand_dims(found, axis) if keep else found

    return F.computed(node.operator.lower(), function, x)


@operator("TopK", since=1, how="NumPy")
def top_k_by_attribute(node: Node, x: Any) -> Any:
    """Import TopK, whose number is an attribute before version 10."""
    return _top_k(node, x, int(node.attributes["k"]))


@operator("TopK", since=10, how="NumPy", contents=(1,))
def top_k(node: Node, x: Any, k: Any) -> Any:
    """Import TopK."""
    return _top_k(node, x, numbers(k, "k")[0])


def _top_k(node: Node, x: Any, k: int) -> Any:
    axis, largest = node.get("axis", -1) % len(x.shape), bool(node.get("largest", 1))

    def order(x: np.ndarray) -> np.ndarray:
        if largest:  # of equal items the first comes first
            flipped = np.flip(x, axis)
            found = x.shape[axis] - 1 - np.flip(np.argsort(flipped, axis, kind="stable"), axis)
        else:
            found = np.argsort(x, axis, kind="stable")
        return np.take(found, np.arange(k), axis)

    values = F.computed("top_k", lambda x: np.take_along_axis(x, order(x), axis), x)
    return values, F.computed("top_k indices", lambda x: order(x).astype(np.int64), x)
