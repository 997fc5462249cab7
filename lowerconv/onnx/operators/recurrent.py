"""LSTM, GRU and RNN: all sequences of a batch at once, step after step, by NumPy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np

from lowerconv.nn import functional as F
from lowerconv.onnx.registry import Node, operator

Function = Callable[[np.ndarray], np.ndarray]
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_ACTIVATIONS: dict[str, Callable[..., np.ndarray]] = {
    "sigmoid": lambda x, a, b: 1 / (1 + np.exp(-x)),
    "tanh": lambda x, a, b: np.tanh(x),
    "relu": lambda x, a, b: np.maximum(x, 0),
    "affine": lambda x, a, b: a * x + b,
    "leakyrelu": lambda x, a, b: np.where(x < 0, a * x, x),
    "thresholdedrelu": lambda x, a, b: np.where(x > a, x, 0),
    "scaledtanh": lambda x, a, b: a * np.tanh(b * x),
    "hardsigmoid": lambda x, a, b: np.clip(a * x + b, 0, 1),
    "elu": lambda x, a, b: np.where(x < 0, a * np.expm1(x), x),
    "softsign": lambda x, a, b: x / (1 + np.abs(x)),
    "softplus": lambda x, a, b: np.logaddexp(x, 0),
}
_CONSTANTS = {"leakyrelu": (0.01, 0.0), "hardsigmoid": (0.2, 0.5)}  # others: 1 and 0


class Cell(NamedTuple):
    """What the steps of one direction share: functions, weights and options."""

    kind: str
    functions: list[Function]
    R: np.ndarray
    shift: np.ndarray  # the bias of the recurrent part
    peepholes: np.ndarray
    reset_last: bool
    couples: bool  # input and forget gates
    limit: float


def _apply(function: Callable[..., np.ndarray], a: float, b: float, x: np.ndarray) -> np.ndarray:
    return function(x, a, b)


def _functions(node: Node, directions: int) -> list[list[Function]]:
    """Return the activations of each direction."""
    each = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
    default = each[node.operator]
    names = [str(name).lower() for name in node.get("activations") or default * directions]
    if len(names) != len(default) * directions or not {*names} <= {*_ACTIVATIONS}:
        raise ValueError(
            f"activations: got {names}, expected {len(default) * directions} of "
            f"{sorted(_ACTIVATIONS)}"
        )
    alphas, betas = list(node.get("activation_alpha", [])), list(node.get("activation_beta", []))
    found: list[Function] = []
    for name in names:
        a, b = _CONSTANTS.get(name, (1.0, 0.0))
        takes_a = name in ("affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid")
        takes_b = name in ("affine", "scaledtanh", "hardsigmoid")
        if (takes_a or name == "elu") and alphas:
            a = alphas.pop(0)
        if takes_b and betas:
            b = betas.pop(0)
        found.append(partial(_apply, _ACTIVATIONS[name], a, b))
    return [found[i : i + len(default)] for i in range(0, len(found), len(default))]


def _step(cell: Cell, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[Any, Any]:
    """Return the new state, given the input's part of the gates (batch, gates * H)."""
    H, limit = h.shape[1], cell.limit

    def bounded(v: np.ndarray) -> np.ndarray:
        return np.clip(v, -limit, limit) if limit else v

    if cell.kind == "RNN":
        return cell.functions[0](bounded(x + h @ cell.R.T + cell.shift)), c
    f, g = cell.functions[:2]
    if cell.kind == "GRU":
        both = bounded(x[:, : 2 * H] + h @ cell.R[: 2 * H].T + cell.shift[: 2 * H])
        z, r = f(both[:, :H]), f(both[:, H:])
        last, shift = cell.R[2 * H :], cell.shift[2 * H :]
        part = r * (h @ last.T + shift) if cell.reset_last else (r * h) @ last.T + shift
        return (1 - z) * g(bounded(x[:, 2 * H :] + part)) + z * h, c
    i, o, forget, new = np.split(x + h @ cell.R.T + cell.shift, 4, axis=1)
    p_i, p_o, p_f = np.split(cell.peepholes, 3)
    i = f(bounded(i + p_i * c))
    forget = 1 - i if cell.couples else f(bounded(forget + p_f * c))
    c = forget * c + i * g(bounded(new))
    return f(bounded(o + p_o * c)) * cell.functions[2](c), c


def _direction(
    cell: Cell, gates: np.ndarray, lengths: np.ndarray, h: np.ndarray, c: np.ndarray, back: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all states (steps, batch, H) and the last ones, of one direction."""
    T, B = gates.shape[:2]
    steps = np.arange(T)[:, None]
    # A reversed sequence is read from its own end, whatever others of the batch have.
    at = np.where(steps < lengths, lengths - 1 - steps, steps) if back else steps + 0 * lengths
    rows = np.arange(B)
    y = np.zeros((T, B, h.shape[1]), gates.dtype)
    for t in range(T):
        new_h, new_c = _step(cell, gates[at[t], rows], h, c)
        going = (t < lengths)[:, None]
        h, c = np.where(going, new_h, h), np.where(going, new_c, c)
        y[at[t], rows] = np.where(going, new_h, 0)
    return y, h, c


@operator("LSTM", "GRU", "RNN", how="NumPy")
def recurrent(node: Node, x: Any, w: Any, r: Any, *more: Any) -> Any:
    """Import LSTM, GRU and RNN."""
    every: list[Any] = [*more, None, None, None, None, None]
    b, lengths, h0, c0, peepholes = every[:5]
    D, H, kind = w.shape[0], r.shape[2], node.operator
    if node.get("direction", "forward") not in ("forward", "reverse", "bidirectional"):
        raise ValueError(f"direction: got {node.get('direction')!r}")
    turned = bool(node.get("layout", 0))  # the batch comes first
    T, B = (x.shape[1], x.shape[0]) if turned else x.shape[:2]
    functions = _functions(node, D)
    limit = float(node.get("clip", 0.0))
    reset_last, couples = bool(node.get("linear_before_reset", 0)), bool(node.get("input_forget"))
    wide = GATES[kind] * H
    given = [o for o in (x, w, r, b, lengths, h0, c0, peepholes) if o is not None]
    which = [o is not None for o in (x, w, r, b, lengths, h0, c0, peepholes)]

    def function(*arrays: np.ndarray) -> np.ndarray:
        left = list(arrays)
        X, W, R, bias, count, h, c, p = (left.pop(0) if there else None for there in which)
        assert X is not None and W is not None and R is not None
        if turned:
            X = X.swapaxes(0, 1)
            h, c = (None if s is None else s.swapaxes(0, 1) for s in (h, c))
        dtype = X.dtype
        bias = np.zeros((D, 2 * wide), dtype) if bias is None else bias
        count = np.full(B, T) if count is None else count.astype(np.int64)
        zero = np.zeros((D, B, H), dtype)
        h, c = zero if h is None else h, zero if c is None else c
        p = np.zeros((D, 3 * H), dtype) if p is None else p
        found = []
        for d in range(D):
            cell = Cell(
                *(kind, functions[d], R[d], bias[d, wide:], p[d], reset_last, couples, limit)
            )
            gates = X @ W[d].T + bias[d, :wide]
            back = node.get("direction") == "reverse" or d == 1
            found.append(_direction(cell, gates, count, h[d], c[d], back))
        Y, last, cells = (
            np.stack([part[i] for part in found], 1 if i == 0 else 0) for i in (0, 1, 2)
        )
        if turned:
            Y, last, cells = Y.transpose(2, 0, 1, 3), last.swapaxes(0, 1), cells.swapaxes(0, 1)
        parts = (part.astype(dtype).reshape(-1) for part in (Y, last, cells))
        return np.concatenate(list(parts))

    # All outputs in one array: they are computed together.
    packed = F.computed(kind.lower(), function, *given)
    state = (B, D, H) if turned else (D, B, H)
    shapes = [(B, T, D, H) if turned else (T, D, B, H), state, state]
    outputs, begin = [], 0
    for shape, name in zip(shapes, node.outputs, strict=False):
        part = F.getitem(packed, (slice(begin, begin + prod(shape)),)) if name else None
        outputs.append(None if part is None else F.reshape(part, shape))
        begin += prod(shape)
    return tuple(outputs)
