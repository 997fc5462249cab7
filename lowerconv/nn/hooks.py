"""Functions that are told what a module computes: as many as wanted, each removed on its own."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeAlias

from lowerconv.copying import not_copied
from lowerconv.nn.frame import Frame

# Told of a layer that has computed, its frame, and whether "forward" or "backward".
Watch: TypeAlias = Callable[[Any, Frame, str], None]
# Asked before a layer computes forward.
Gate: TypeAlias = Callable[[Any], None]
Hooks: TypeAlias = "OrderedDict[int, Any]"  # in the order in which they are called

_numbers = itertools.count()


@not_copied("register the function with the copy, too")
class HookHandle:
    """Stands for a function that was added to others, until `remove`."""

    def __init__(self, hooks: Hooks, function: Any, first: bool = False) -> None:
        self._hooks, self._number = hooks, next(_numbers)
        hooks[self._number] = function
        if first:
            hooks.move_to_end(self._number, last=False)

    def remove(self) -> None:
        """Take the function out again; the second time nothing happens."""
        self._hooks.pop(self._number, None)
