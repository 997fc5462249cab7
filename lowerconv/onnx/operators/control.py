"""If and Loop: followed while a network is recorded, or once arrays are there.

Conditions and numbers of turns must be known by then: `lowerconv.onnx.contents` sees to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lowerconv.nn import functional as F
from lowerconv.nn.graph import Value
from lowerconv.onnx.registry import Body, Node, operator

LIMIT = 100_000  # turns of a loop: no network has as many, and damaged files may never end
Follow = Callable[[Body, list[Any]], list[Any]]


def _known(value: Any, name: str) -> Any:
    """Return the one item of an operand."""
    if isinstance(value, Value):
        raise ValueError(f"{name}: depends on the contents of the input, expected constants")
    return np.reshape(value, -1)[0].item()


@operator("If", contents=(0,), moves=True)
def branch(node: Node, condition: Any, *_: Any, follow: Follow) -> Any:
    """Import If: the branch that is taken."""
    chosen = "then_branch" if _known(condition, "cond") else "else_branch"
    return tuple(follow(node.bodies[chosen], []))


@operator("Loop", contents=(0, 1), moves=True)
def loop(node: Node, most: Any = None, condition: Any = None, *rest: Any, follow: Follow) -> Any:
    """Import Loop: its body as often as it is computed."""
    body = node.bodies["body"]
    carried = len(body.inputs) - 2
    state = list(rest[:carried])
    kept: list[list[Any]] = [[] for _ in body.outputs[1 + carried :]]
    end = None if most is None else _known(most, "M")
    going, turn = condition is None or bool(_known(condition, "cond")), 0
    while going and (end is None or turn < end):
        if turn == LIMIT:
            raise ValueError(f"got more than {LIMIT} turns, expected fewer")
        made = follow(body, [np.array(turn, np.int64), np.array(True), *state])
        going, turn = bool(_known(made[0], "cond")), turn + 1
        state = made[1 : 1 + carried]
        for values, value in zip(kept, made[1 + carried :], strict=True):
            values.append(F.reshape(value, (1, *value.shape)))
    if kept and not turn:
        raise ValueError("got a loop of no turns with results of each, expected at least one")
    return (*state, *(F.concat(values, 0) for values in kept))
