"""Which inputs and nodes shapes depend on by their contents, and what becomes of these.

A network is recorded for the shapes of its inputs.  Where a shape depends on the contents of a
small input, such as the operand `shape` of Reshape, it is recorded for these contents, too.
Nodes whose results have a size that nobody knows before they are computed, and all that reads from
them, are computed on arrays, one by one, after the program of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from lowerconv.onnx.registry import OPERATORS, Node

SMALL = 64  # items of an input that is looked at
Declared = dict[str, tuple[tuple | None, np.dtype | None]]  # shape and dtype of each input


class Division(NamedTuple):
    """What `divide` returns.

    Attributes
    ----------
    looked_at : set of str
        Inputs whose contents the program depends on.
    program, after : tuple of Node
        Those of the program, and those that are computed after it.
    """

    looked_at: set[str]
    program: tuple[Node, ...]
    after: tuple[Node, ...]


def divide(nodes: Sequence[Node], inputs: Declared) -> Division:
    """Divide the nodes of a network into those of its program and those after it.

    Parameters
    ----------
    nodes : sequence of Node
        Each after those that it reads from.
    inputs : dict
        Declared shape and dtype by name.
    """
    sources: dict[str, frozenset[str]] = {name: frozenset([name]) for name in inputs}
    looked_at: set[str] = set()
    late: set[str] = set()
    program, after = [], []
    for node in nodes:
        known = OPERATORS[node.operator]
        at = known.contents
        positions = tuple(range(len(node.inputs))) if isinstance(at, str) else at
        names = [node.inputs[i] for i in positions if i < len(node.inputs) and node.inputs[i]]
        needed = {source for name in names for source in sources.get(name, ())}
        direct = {*names} & {*inputs}
        follows = known.dynamic or any(name in late for name in node.inputs)
        if not follows and all(_small(*inputs[s], s in direct) for s in needed):
            looked_at |= needed
            program.append(node)
        else:
            after.append(node)
            late.update(name for name in node.outputs if name)
        made = frozenset().union(*(sources.get(name, ()) for name in node.inputs))
        shape_alone = node.operator in ("Shape", "Size")
        sources.update((name, frozenset() if shape_alone else made) for name in node.outputs)
    return Division(looked_at, tuple(program), tuple(after))


def _small(shape: tuple | None, dtype: np.dtype | None, direct: bool) -> bool:
    """Return whether an input is one that describes shapes rather than one to compute with."""
    if shape is None or len(shape) > 1 or dtype is None:
        return False
    if all(isinstance(n, int) for n in shape) and prod(shape) > SMALL:
        return False
    return dtype.kind in "iub" or direct
