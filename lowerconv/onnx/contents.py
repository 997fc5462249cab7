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

from lowerconv.onnx.registry import Node

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
    found = _Reader(inputs)
    looked_at: set[str] = set()
    program, after = [], []
    for node in nodes:
        needed, direct, follows = found.read(node)
        if not follows and all(_small(*inputs[s], s in direct) for s in needed):
            looked_at |= needed
            program.append(node)
        else:
            after.append(node)
            found.late.update(name for name in node.outputs if name)
    return Division(looked_at, tuple(program), tuple(after))


class _Reader:
    """Finds out which inputs of a network what it computes depends on.

    Attributes
    ----------
    inputs : dict
        As of `divide`.
    sources : dict of str to frozenset of str
        The inputs that the contents of each value depend on, other than by their shapes.
    late : set of str
        Values that are made after the program.
    """

    def __init__(self, inputs: Declared) -> None:
        self.inputs = inputs
        self.sources = {name: frozenset([name]) for name in inputs}
        self.late: set[str] = set()

    def of(self, *names: str) -> frozenset[str]:
        """Return what values depend on, all together."""
        return frozenset().union(*(self.sources.get(name, ()) for name in names))

    def read(self, node: Node) -> tuple[set[str], set[str], bool]:
        """Note what the results of a node depend on.

        Returns
        -------
        (set of str, set of str, bool)
            The inputs whose contents must be known while it is recorded; those of them that it
            reads itself; and whether it comes after the program whatever they are.
        """
        at = node.known.contents
        positions = tuple(range(len(node.inputs))) if isinstance(at, str) else at
        names = [node.inputs[i] for i in positions if i < len(node.inputs) and node.inputs[i]]
        needed, direct = {*self.of(*names)}, {*names} & {*self.inputs}
        follows = node.known.dynamic or any(name in self.late for name in node.inputs)
        made = self.of(*node.inputs)
        if node.operator == "Loop":
            self._enter_loop(node)
        for body in node.bodies.values():
            for inner in body.nodes:
                more, also, later = self.read(inner)
                needed |= more
                direct |= also
                follows |= later
            made |= self.of(*body.outputs)
        if node.operator == "Loop":  # what it goes on by must be known as well
            needed |= self.of(node.bodies["body"].outputs[0])
        shape_alone = node.operator in ("Shape", "Size")
        self.sources.update((name, frozenset() if shape_alone else made) for name in node.outputs)
        return needed, direct, follows

    def _enter_loop(self, node: Node) -> None:
        """Note what the inputs of a loop's body depend on, whichever turn it is."""
        body = node.bodies["body"]
        given = node.inputs[2 : len(body.inputs)]
        first = zip(body.inputs[2:], map(self.of, given), strict=True)
        self.sources.update(first)
        while True:
            for inner in body.nodes:
                self.read(inner)
            before = [self.of(name) for name in body.inputs]
            for name, made in zip(body.inputs[2:], body.outputs[1:], strict=False):
                self.sources[name] = self.of(name, made)
            if [self.of(name) for name in body.inputs] == before:
                return


def _small(shape: tuple | None, dtype: np.dtype | None, direct: bool) -> bool:
    """Return whether an input is one that describes shapes rather than one to compute with."""
    if shape is None or len(shape) > 1 or dtype is None:
        return False
    if all(isinstance(n, int) for n in shape) and prod(shape) > SMALL:
        return False
    return dtype.kind in "iub" or direct
