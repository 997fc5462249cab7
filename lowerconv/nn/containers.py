"""Modules in a row: a list of them, and one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from math import inf
from typing import Any

from lowerconv.nn.graph import Value
from lowerconv.nn.module import Module


class ModuleList(Module):
    """Modules that are children of it, named by their place: ``"0"``, ``"1"``, ...

    For networks whose `forward` applies them as it likes.

    Parameters
    ----------
    modules : iterable of Module

    Raises
    ------
    TypeError
        One of them is no module; the message says which.

    Examples
    --------
    >>> from lowerconv import nn
    >>> class Tower(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
    ...
    ...     def forward(self, x):
    ...         for block in self.blocks:
    ...             x = x + block(x)
    ...         return x
    >>> list(Tower().parameters())
    ['blocks.0.weight', 'blocks.0.bias', 'blocks.1.weight', 'blocks.1.bias']
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        for module in modules:
            self.append(module)

    def append(self, module: Module) -> None:
        """Put a module behind the others.

        Parameters
        ----------
        module : Module

        Raises
        ------
        TypeError
            It is no module.
        """
        places = count(len(self))
        self._set(next(place for place in places if str(place) not in self._children), module)

    def _note(self, name: str, before: Any, value: Any) -> None:
        super()._note(name, before, value)
        # By their places, whenever they were put there.
        order = sorted(self._children, key=lambda name: int(name) if name.isdecimal() else inf)
        if order != list(self._children):
            for name in order:
                self._children[name] = self._children.pop(name)

    def __len__(self) -> int:
        return len(self._children)

    def __iter__(self) -> Iterator[Module]:
        return iter(list(self._children.values()))

    def __getitem__(self, place: int) -> Module:
        return list(self._children.values())[place]

    def __setitem__(self, place: int, module: Module) -> None:
        self._set(list(self._children)[place], module)

    def _set(self, name: str | int, module: Module) -> None:
        if not isinstance(module, Module):
            raise TypeError(f"modules[{name}]: got {module!r}, expected a Module")
        setattr(self, str(name), module)


class Sequential(ModuleList):
    """Modules one after the other, named by their place.

    Parameters
    ----------
    *modules : Module

    Examples
    --------
    >>> import numpy as np
    >>> from lowerconv import nn
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 10))
    >>> net(np.zeros((2, 1, 8, 8), np.float32)).shape
    (2, 10)
    """

    def __init__(self, *modules: Module) -> None:
        super().__init__(modules)

    def forward(self, *values: Value) -> Value:
        """Return the value of the last module.

        Parameters
        ----------
        *values : Value
            One, for the first module.

        Returns
        -------
        Value
        """
        (x,) = values
        for module in self:
            x = module(x)
        return x
