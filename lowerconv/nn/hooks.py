"""Functions that are told what a module computes: as many as wanted, each removed on its own."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import Any, TypeAlias

from lowerconv.copying import not_copied

Hooks: TypeAlias = "OrderedDict[int, Any]"  # in the order in which they are called

_numbers = itertools.count()


@not_copied("register the function with the copy, too")
class Handle:
    """Stands for a function that was added to others, until `remove`."""

    def __init__(self, hooks: Hooks, function: Any, first: bool = False) -> None:
        self._hooks, self._number = hooks, next(_numbers)
        hooks[self._number] = function
        if first:
            hooks.move_to_end(self._number, last=False)

    def remove(self) -> None:
        """Take the function out again; the second time nothing happens."""
        self._hooks.pop(self._number, None)
