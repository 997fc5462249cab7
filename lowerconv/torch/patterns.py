"""Layers that PyTorch traces as several operators, found again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

_VIEWS = ("aten.view.", "aten.reshape.", "aten.squeeze.", "aten.unsqueeze.")


class ResponseNorm(NamedTuple):
    """`torch.nn.LocalResponseNorm`: the node that it reads, its arguments, and all nodes within."""

    x: Any
    size: int
    alpha: float
    beta: float
    k: float
    inside: tuple[Any, ...]


def response_norms(nodes: Sequence[Any]) -> dict[Any, ResponseNorm]:
    """Return the response norms of a trace, by the nodes of their results.

    Parameters
    ----------
    nodes : sequence of torch.fx.Node

    Returns
    -------
    dict
    """
    found = ((node, _response_norm(node)) for node in nodes)
    return {node: norm for node, norm in found if norm is not None}


def _response_norm(node: Any) -> ResponseNorm | None:
    """Match ``x / (alpha * mean(x * x over size channels) + k) ** beta`` of 4 axes."""
    if not _is(node, "aten.div.Tensor") or len(node.args) != 2:
        return None
    x, inside = node.args[0], []

    def step(name: str, last: Any) -> Any:
        """Return the operand of a node of an operator that nobody else reads, views left out."""
        while any(_is(last, view) for view in _VIEWS) and len(last.users) == 1:
            inside.append(last)
            last = last.args[0]
        if not _is(last, name) or len(last.users) != 1:
            return None
        inside.append(last)
        return last

    numbers = []
    last = node.args[1]
    for name in ("aten.pow.Tensor_Scalar", "aten.add.Tensor", "aten.mul.Tensor"):
        found = step(name, last)
        if found is None or found.kwargs or not isinstance(found.args[1], (int, float)):
            return None
        last = found.args[0]
        numbers.append(float(found.args[1]))
    pool = step("aten.avg_pool3d.default", last)
    if pool is None or len(pool.args) > 3 or pool.kwargs:
        return None
    size = pool.args[1][0]
    pad = step("aten.pad.default", pool.args[0])
    if pad is None or len(pad.args) != 2 or pad.kwargs:
        return None
    square = step("aten.mul.Tensor", pad.args[0])
    dims = getattr(x.meta.get("val"), "dim", lambda: 0)() if isinstance(x, torch.fx.Node) else 0
    fits = (
        square is not None
        and square.args == (x, x)
        and dims == 4
        and list(pool.args[1]) == [size, 1, 1]
        and list(pool.args[2:]) in ([], [[1, 1, 1]])
        and list(pad.args[1]) == [0, 0, 0, 0, size // 2, (size - 1) // 2]
    )
    beta, k, alpha = numbers
    return ResponseNorm(x, size, alpha, beta, k, tuple(inside)) if fits else None


def _is(node: Any, name: str) -> bool:
    return isinstance(node, torch.fx.Node) and str(node.target).startswith(name)
