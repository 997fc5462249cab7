"""Sums, means and extremes over axes, and softmax."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from lowerconv.nn import functional as F
from lowerconv.onnx.operators.shapes import numbers
from lowerconv.onnx.registry import Node, operator


def _over(node: Node, x: Any, axes: Any) -> tuple[list[int] | None, bool]:
    found = node.get("axes") if axes is None else numbers(axes, "axes")
    if not found:
        found = [] if node.get("noop_with_empty_axes", 0) else None
    return found, bool(node.get("keepdims", 1))


def _reduction(name: str) -> Any:
    def importer(node: Node, x: Any, axes: Any = None) -> Any:
        return F.reduce(name, x, *_over(node, x, axes))

    return importer


for _name in ("Sum", "Mean", "Max", "Min", "Prod"):
    _how = "NumPy" if _name == "Prod" else "compiled"
    operator(f"Reduce{_name}", how=_how, contents=(1,))(_reduction(_name.lower()))


@operator("ReduceL1", how="NumPy", contents=(1,))
def l1(node: Node, x: Any, axes: Any = None) -> Any:
    """Import ReduceL1."""
    size = F.pointwise(x, "abs") if x.dtype.kind == "f" else F.computed("abs", np.abs, x)
    return F.reduce("sum", size, *_over(node, x, axes))


@operator("ReduceL2", how="NumPy", contents=(1,))
def l2(node: Node, x: Any, axes: Any = None) -> Any:
    """Import ReduceL2."""
    total = F.reduce("sum", F.arithmetic("mul", x, x), *_over(node, x, axes))
    if total.dtype.kind != "f":
        return F.computed("sqrt", lambda v: np.sqrt(v).astype(v.dtype), total)
    return F.pointwise(total, "sqrt")


@operator("ReduceSumSquare", how="NumPy", contents=(1,))
def sum_square(node: Node, x: Any, axes: Any = None) -> Any:
    """Import ReduceSumSquare."""
    return F.reduce("sum", F.arithmetic("mul", x, x), *_over(node, x, axes))


@operator("ReduceLogSum", how="NumPy", contents=(1,))
def log_sum(node: Node, x: Any, axes: Any = None) -> Any:
    """Import ReduceLogSum."""
    return F.pointwise(F.reduce("sum", x, *_over(node, x, axes)), "log")


@operator("ReduceLogSumExp", how="NumPy", contents=(1,))
def log_sum_exp(node: Node, x: Any, axes: Any = None) -> Any:
    """Import ReduceLogSumExp."""
    over, keep = _over(node, x, axes)
    if over == []:
        return x
    at = None if over is None else tuple(over)

    def function(x: np.ndarray) -> np.ndarray:
        most = x.max(axis=at, keepdims=True, initial=-np.inf)
        most = np.where(np.isfinite(most), most, 0)
        total = np.log(np.exp(x - most).sum(axis=at, keepdims=True)) + most
        return (total if keep else total.reshape(x.sum(axis=at).shape)).astype(x.dtype)

    return F.computed("log_sum_exp", function, x)


@operator("Softmax", "LogSoftmax", since=1)
def softmax_of_rows(node: Node, x: Any) -> Any:
    """Import Softmax as before version 13: over all axes from `axis` on."""
    axis = node.get("axis", 1)
    axis = axis + len(x.shape) if axis < 0 else axis
    rows = F.reshape(x, (prod(x.shape[:axis]), prod(x.shape[axis:])))
    return F.reshape(F.softmax(rows, 1, node.operator == "LogSoftmax"), x.shape)


@operator("Softmax", "LogSoftmax", since=13)
def softmax(node: Node, x: Any) -> Any:
    """Import Softmax over one axis."""
    return F.softmax(x, node.get("axis", -1), node.operator == "LogSoftmax")


@operator("Hardmax", since=13, how="NumPy")
def hardmax(node: Node, x: Any) -> Any:
    """Import Hardmax."""
    axis = node.get("axis", -1)

    def function(x: np.ndarray) -> np.ndarray:
        y = np.zeros(x.shape, x.dtype)
        np.put_along_axis(y, np.expand_dims(np.argmax(x, axis), axis), 1, axis)
        return y

    return F.computed("hardmax", function, x)


@operator("CumSum", how="NumPy", contents=(1,))
def cum_sum(node: Node, x: Any, axis: Any) -> Any:
    """Import CumSum."""
    over = numbers(axis, "axis")[0]
    exclusive, reverse = bool(node.get("exclusive", 0)), bool(node.get("reverse", 0))

    def function(x: np.ndarray) -> np.ndarray:
        x = np.flip(x, over) if reverse else x
        y = np.cumsum(x, axis=over, dtype=x.dtype)
        y = y - x if exclusive else y
        return np.flip(y, over) if reverse else y

    return F.computed("cumsum", function, x)
