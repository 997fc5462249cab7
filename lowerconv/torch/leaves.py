"""The parameters and buffers of a module, as they are at each call of what was traced."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Any

import numpy as np
import torch

from lowerconv.torch.exported import Exported
from lowerconv.torch.structure import Structure

Tensors = list[torch.Tensor]

SAMPLES = 16  # numbers of each tensor that are compared, at the least; all where it has fewer

# These look at every parameter before every call: loops in C, not in Python.
_version = attrgetter("_version")
_address, _items = torch.Tensor.data_ptr, torch.Tensor.numel
_contiguous = torch.Tensor.is_contiguous


class Leaves:
    """The parameters and buffers that a trace reads: where they lie, and if they have changed.

    Attributes
    ----------
    names : list of str
    layout : object
        Where they lie: another object as soon as one lies elsewhere; None before the first look.
    read, changed : list of int
        Numbers, in `names`, of those that no step in training writes to, and of the others.
    """

    def __init__(self, exported: Exported, structure: Structure) -> None:
        self.names = sorted(set(exported.leaves.values()))
        self.layout: Any = None
        self.read: list[int] = []
        self.changed: list[int] = []
        self._watched = exported.watched
        self._kept = [structure.names[name] for name in self.names]
        self._kinds = _kinds(self.tensors())
        self._samples: list[np.ndarray] = []
        self._sampled_of: Any = None  # the layout

    def set_changed(self, names: Iterable[str]) -> None:
        """Note which of them steps in training write to."""
        names = set(names)
        self.read = [i for i, name in enumerate(self.names) if name not in names]
        self.changed = [i for i, name in enumerate(self.names) if name in names]

    def tensors(self) -> Tensors:
        """Return them as they are now."""
        return [kept[name] for kept, name in self._kept]

    def look(self) -> Tensors | None:
        """Return them as they are now, and note their layout; None where the trace is of others."""
        try:
            tensors = self.tensors()
            layout = [[*map(ask, tensors)] for ask in (_address, _items, _contiguous)]
        except (KeyError, TypeError):  # one was deleted, or is None now
            return None
        for kept, name, tensor, version in self._watched:
            same = kept.get(name) is tensor
            if not same or (tensor is not None and tensor._version != version):
                return None
        if layout != self.layout:
            if _kinds(tensors) != self._kinds:
                return None
            self.layout = layout
        return tensors

    def versions(self, tensors: Tensors) -> Any:
        """Return what is equal as long as none has changed.

        Changes of ``parameter.data`` in place, which averages of weights are often made by, have no
        version: some numbers of each tensor are looked at, too.
        """
        if self._sampled_of is not self.layout:
            self._samples = [_some(t) for t in tensors if t.is_floating_point()]
            self._sampled_of = self.layout
        numbers = np.concatenate(self._samples).tobytes() if self._samples else b""
        return self.layout, [*map(_version, tensors)], numbers

    def versions_read(self, tensors: Tensors) -> Any:
        """Return the versions of those that no step in training writes to, without any numbers."""
        return [tensors[i]._version for i in self.read]


def _kinds(tensors: Tensors) -> list[Any]:
    """Return what a trace takes for granted of tensors."""
    return [(t.shape, t.dtype, t.device) for t in tensors]


def _some(tensor: torch.Tensor) -> np.ndarray:
    """Return some of the numbers of a tensor, where they are."""
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    if not tensor.numel() or 1 + sum((n - 1) * step for n, step in pairs) != tensor.numel():
        return np.empty(0, np.float32)  # they do not lie without gaps, in any order
    flat = tensor.detach().as_strided((tensor.numel(),), (1,)).numpy()
    return flat[:: max(1, len(flat) // SAMPLES)]
