"""The table of operators: which function imports which operator, in which versions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lowerconv.nn.layer import Layer

Importer = Callable[..., Any]


@dataclass
class Body:
    """A part of a graph that a node computes; no other value of the network has its names.

    Attributes
    ----------
    inputs, outputs : tuple of str
    nodes : tuple of Node
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]


@dataclass
class Node:
    """A node of a model, as importers see it.

    Attributes
    ----------
    operator, name : str
    inputs, outputs : tuple of str
        Names of tensors; "" where an optional one is absent.  What its bodies read of what is
        around them is among the inputs, last.
    attributes : dict
        Values of Python and NumPy by name.
    version : int
        Of the operators of the model.
    layer : Layer or None
        With the parameters of the node, where it has some of its own.
    protos : tuple of NodeProto
        What it is in the file: of those that ONNX Runtime computes there may be several.
    bodies : dict of Body
        By the names of the attributes that they are.
    own : Operator or None
        How it is imported, if no operator of the table says so.
    """

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    version: int
    protos: tuple[Any, ...] = ()
    layer: Layer | None = None
    bodies: dict[str, Body] = field(default_factory=dict)
    own: Operator | None = None

    @property
    def known(self) -> Operator:
        """How it is imported."""
        return self.own or OPERATORS[self.operator]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute."""
        return self.attributes.get(name, default)


@dataclass
class Operator:
    """How an operator is imported.

    Attributes
    ----------
    versions : list of (int, callable)
        First version, and the function for it and later ones: given the node and its operands,
        returns the result, or a tuple of results.
    layer : callable or None
        Given the node and its constant operands by position, returns the layer that has them as
        parameters, or None where they are not what such a layer has.
    how : str
        For people: "compiled", "NumPy" or "onnx.reference".
    contents : tuple of int, or "all"
        Positions of operands whose contents the shape of the result depends on, or whose contents
        the importer has to know.
    dynamic : bool
        Whether the size of the result depends on the contents of any operand.
    moves : bool
        Whether the results have items of the operands, or numbers of another type: the operator
        does without arithmetics.
    """

    versions: list[tuple[int, Importer]] = field(default_factory=list)
    layer: Callable[[Node, dict[int, np.ndarray]], Layer | None] | None = None
    how: str = "compiled"
    contents: tuple[int, ...] | str = ()
    dynamic: bool = False
    moves: bool = False

    def importer(self, version: int) -> Importer | None:
        """Return the function for a version, None where there is none."""
        fitting = [function for since, function in self.versions if since <= version]
        return fitting[-1] if fitting else None


OPERATORS: dict[str, Operator] = {}


def operator(
    *names: str,
    since: int = 1,
    how: str = "compiled",
    contents: tuple[int, ...] | str = (),
    dynamic: bool = False,
    moves: bool = False,
) -> Callable[[Importer], Importer]:
    """Return a decorator that makes a function the importer of operators, as of `Operator`."""

    def register(function: Importer) -> Importer:
        for name in names:
            found = OPERATORS.setdefault(name, Operator())
            found.versions.append((since, function))
            found.versions.sort(key=lambda entry: entry[0])
            found.how = how
            found.contents = contents or found.contents
            found.dynamic = dynamic or found.dynamic
            found.moves = moves or found.moves
        return function

    return register


def parameters(*names: str) -> Callable[[Any], Any]:
    """Return a decorator that makes a function the maker of the layers of operators."""

    def register(function: Any) -> Any:
        for name in names:
            OPERATORS.setdefault(name, Operator()).layer = function
        return function

    return register


def importer_of(name: str, version: int) -> Importer | None:
    """Return the function that imports an operator in a version, None where there is none."""
    found = OPERATORS.get(name)
    return found.importer(version) if found else None
