"""Memory of the gradients that autograd takes over, used again once nobody has it any more.

A gradient in fresh memory costs a page fault for each page of it, at every step: a tenth of a step
of VGG-16 at small batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import ref

import numpy as np
import torch

from lowerconv.nn.attributes import Parameter
from lowerconv.nn.program import Program
from lowerconv.torch.network import TorchNetwork


class LentArray:
    """An array that tensors are made of, one after the other.

    Parameters
    ----------
    shape : tuple of int
    dtype : dtype
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self._array = np.empty(shape, dtype)
        self._lent: Any = None  # a weak reference to what the storage of the latest tensor keeps

    def free(self) -> np.ndarray:
        """Return the array, or another one where a tensor of it is still there."""
        if self._lent is not None and self._lent() is not None:
            self._array = np.empty(self._array.shape, self._array.dtype)
            self._lent = None
        return self._array

    def lend(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Return a new tensor of the array, which is free."""
        kept = self._array.reshape(shape)
        self._lent = ref(kept)
        return torch.from_numpy(kept)


class Gradients:
    """Where a program writes the gradients of some parameters.

    Parameters
    ----------
    network : TorchNetwork
        The program's.
    program : Program
    read : sequence of (str, tuple of int or None)
        The parameters' names and shapes; None where autograd does not ask for the gradient.
    lent : dict of str to LentArray
        Memory by those names, for all programs of the network; added to.
    """

    def __init__(
        self,
        network: TorchNetwork,
        program: Program,
        read: Sequence[tuple[str, tuple[int, ...] | None]],
        lent: dict[str, LentArray],
    ) -> None:
        live = {
            id(parameter)
            for layer in program.learners
            if layer not in program.unreached
            for parameter in layer.own_parameters().values()
        }
        places = {name: (i, shape) for i, (name, shape) in enumerate(read) if shape is not None}
        self._count = len(read)
        self._lent: list[tuple[Parameter, LentArray, int, tuple[int, ...]]] = []
        self._own: list[tuple[Parameter, np.ndarray]] = []
        first: dict[str, Parameter] = {}
        self._several: list[tuple[Parameter, np.ndarray]] = []
        for parameter, name in network.bound:
            shape, dtype = parameter.data.shape, parameter.data.dtype
            if name not in places or id(parameter) not in live:
                self._own.append((parameter, np.empty(shape, dtype)))
            elif name in first:  # applied in several places
                own = np.empty(shape, dtype)
                self._own.append((parameter, own))
                self._several.append((first[name], own))
            else:
                first[name] = parameter
                if name not in lent:
                    lent[name] = LentArray(shape, dtype)
                self._lent.append((parameter, lent[name], *places[name]))

    def place(self) -> None:
        """Have the program write where nobody else reads."""
        for parameter, own in self._own:
            parameter.grad = own
        for parameter, memory, _, _ in self._lent:
            parameter.grad = memory.free()

    def lend(self) -> list[torch.Tensor | None]:
        """Return what was written, each a tensor of the caller's own; None for what is not read."""
        for parameter, own in self._several:
            parameter.grad += own.reshape(parameter.grad.shape)
        made: list[torch.Tensor | None] = [None] * self._count
        for _, memory, place, shape in self._lent:
            made[place] = memory.lend(shape)
        return made
