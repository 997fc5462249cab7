"""The table of PyTorch's operators: which function imports which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lowerconv.nn.graph import Value

IMPORTERS: dict[str, Callable[..., Any]] = {}


class NotConverted(Exception):
    """Why a module, or an operator in it, cannot be converted."""


def operator(*names: str) -> Callable[[Any], Any]:
    """Return a decorator that makes a function the importer of operators of ATen.

    It is called with the arguments of the operator, in the order and by the names of its schema.
    """

    def register(function: Any) -> Any:
        for name in names:
            IMPORTERS[name] = function
        return function

    return register


class Weight:
    """A parameter or buffer of the module, where an operand of a node may be one.

    Attributes
    ----------
    name : str
        By which the module has it.
    array : ndarray
        The memory of the tensor itself.
    learnt : bool
        Whether it is a parameter, and gradients are wanted.
    value : callable
        Returns it as a value of the graph, which may have a gradient.
    """

    def __init__(
        self, name: str, array: np.ndarray, learnt: bool, value: Callable[[], Value]
    ) -> None:
        self.name, self.array, self.learnt, self.value = name, array, learnt, value

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.array.shape


def operand(x: Any) -> Any:
    """Return what functions of `nn.functional` take: a value or an array."""
    if isinstance(x, Weight):
        return x.value() if x.learnt else x.array
    return x
