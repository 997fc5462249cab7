"""Layers whose parameters stay as they are: copies, that nobody else can change."""

from __future__ import annotations

from collections.abc import Collection
from copy import copy
from typing import Any

import numpy as np

from lowerconv.nn.attributes import Attributes, Parameter
from lowerconv.nn.graph import Graph
from lowerconv.nn.hooks import Gate
from lowerconv.runtime.threads import between_kernels


def freeze(graph: Graph, gates: Collection[Gate]) -> None:
    """Give the nodes of a graph layers of their own, with copies of all arrays.

    The copies are made between two kernels: of an update that is one kernel, such as an optimizer's
    step, they have all or nothing.
    """
    for node in graph.nodes:
        for gate in gates:
            gate(node.layer)  # who updates late does it now
    made: dict[int, Any] = {}
    with between_kernels():
        for node in graph.nodes:
            node.layer = _frozen(node.layer, made)


def emptied(parameter: Parameter) -> Parameter:
    """Return a parameter that tells shape and dtype, for data that is kept in another form."""
    twin = copy(parameter)
    twin.data = twin.grad = np.broadcast_to(np.zeros((), parameter.data.dtype), twin.data.shape)
    return twin


def _frozen(value: Any, made: dict[int, Any]) -> Any:
    """Return a copy of what holds arrays: a layer, parameters, containers of these; else `value`.

    `made` has what was copied already, by its id: what is shared stays so.
    """
    if id(value) in made:
        return made[id(value)]
    twin: Any = value
    if isinstance(value, Parameter):
        twin = emptied(value)
        twin.data = value.data.copy()
    elif isinstance(value, np.ndarray):
        twin = value.copy()
    elif isinstance(value, Attributes):
        twin = made[id(value)] = object.__new__(type(value))  # known to what refers back to it
        whole: Any = value
        twin.__setstate__({k: _frozen(v, made) for k, v in whole.__getstate__().items()})
    elif type(value) in (list, tuple):
        twin = type(value)(_frozen(v, made) for v in value)
    elif type(value) is dict:
        twin = {key: _frozen(v, made) for key, v in value.items()}
    made[id(value)] = twin
    return twin
