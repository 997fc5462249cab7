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

PIECE = 1 << 16  # items that are looked at while they are in a cache


def freeze(
    graph: Graph, gates: Collection[Gate], shared: Collection[int], never_change: bool = False
) -> None:
    """Give the nodes of a graph layers of their own, with copies of all arrays.

    The copies are made between two kernels: of an update that is one kernel, such as an optimizer's
    step, they have all or nothing.

    Parameters
    ----------
    graph : Graph
    gates : collection of callable
        Called with each layer before.
    shared : collection of int
        The ids of layers that others have, too.
    never_change : bool
        Whether parameters that are read-only are so for everybody: they stay the same arrays, of
        which programs share what they keep.
    """
    for node in graph.nodes:
        for gate in gates:
            gate(node.layer)  # who updates late does it now
    made: dict[int, Any] = {}
    with between_kernels():
        for node in graph.nodes:
            if never_change and _is_read_only(node.layer):
                node.layer = _with_origins(copy(node.layer))
            elif id(node.layer) in shared or _holds_arrays(node.layer):
                node.layer = _frozen(node.layer, made)
    for node in graph.nodes:
        node.layer = node.layer.as_constant()  # runs kernels of its own


def _is_read_only(layer: Any) -> bool:
    """Return whether a layer has parameters, and all of them are read-only."""
    own = layer.own_parameters().values()
    return bool(own) and not any(parameter.data.flags.writeable for parameter in own)


def _with_origins(layer: Any) -> Any:
    """Return a layer whose parameters never change; they are told apart from now on."""
    for parameter in layer.own_parameters().values():
        parameter.origin = (_Itself(parameter.data),)
    return layer


class _Itself:
    """An array as a key: equal to itself alone, which nothing that comes after it can be."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __hash__(self) -> int:
        return id(self.array)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.array is other.array


def _holds_arrays(layer: Any) -> bool:
    return any(
        isinstance(value, _COPIED) and name not in _EMPTY for name, value in vars(layer).items()
    )


def emptied(parameter: Parameter) -> Parameter:
    """Return a parameter that tells shape and dtype, for data that is kept in another form."""
    twin = copy(parameter)
    data = parameter.data  # as `np.broadcast_to` makes it, which takes 10 us
    empty = np.ndarray(data.shape, data.dtype, _ZERO, strides=(0,) * data.ndim)
    empty.flags.writeable = False
    twin.data = twin.grad = empty
    return twin


_ZERO = bytes(16)  # one item of any dtype


def flushed(array: np.ndarray) -> np.ndarray:
    """Return constant weights with zeros for what is subnormal: below 1.2e-38 in float32.

    A product with such a number takes a hundred times as long on CPUs of today, and adds nothing
    that results show; weights that decay has brought to nothing are many of them.

    Parameters
    ----------
    array : ndarray
        Of float32 or float64.

    Returns
    -------
    ndarray
        `array` itself where there are none.
    """
    least, flat = np.finfo(array.dtype).tiny, array.reshape(-1)
    sizes, small = np.empty(PIECE, array.dtype), np.empty(PIECE, bool)
    found = False
    for begin in range(0, flat.size, PIECE):
        size = np.abs(flat[begin : begin + PIECE], out=sizes[: flat.size - begin])
        below = np.less(size, least, out=small[: size.size])
        if below.any() and size[below].any():
            found = True
            break
    return np.where(np.abs(array) < least, array.dtype.type(0), array) if found else array


def taken(parameter: Parameter) -> np.ndarray:
    """Return constant data as kernels take it: flushed, an array of its own, writable.

    Those of a file are not, and kernels are compiled for arrays that are.
    """
    return parameter.data if parameter.is_taken else np.array(flushed(parameter.data))


def _frozen(value: Any, made: dict[int, Any]) -> Any:
    """Return a copy of what holds arrays: a layer, parameters, containers of these; else `value`.

    `made` has what was copied already, by its id, with the original, whose id no other object gets
    meanwhile: what is shared stays so.
    """
    if id(value) in made:
        return made[id(value)][1]
    twin: Any = value
    if isinstance(value, Parameter):
        twin = emptied(value)
        twin.data = value.data.copy()
    elif isinstance(value, np.ndarray):
        twin = value.copy()
    elif isinstance(value, Attributes):
        twin = object.__new__(type(value))
        made[id(value)] = value, twin  # known to what refers back to it
        whole: Any = value
        twin.__setstate__({k: _frozen(v, made) for k, v in whole.__getstate__().items()})
    elif type(value) in (list, tuple):
        twin = type(value)(_frozen(v, made) for v in value)
    elif type(value) is dict:
        twin = {key: _frozen(v, made) for key, v in value.items()}
    made[id(value)] = value, twin
    return twin


_COPIED = (Parameter, np.ndarray, Attributes, list, tuple, dict)
_EMPTY = ("_children", "_watches", "_gates")  # of layers that have nothing else
