"""What a module is made of, and whether it still is, at the cost of a look at each part."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch

from lowerconv.torch.registry import UnsupportedError

# These run before every call, over hundreds of modules: loops in C, not in Python.
_training = attrgetter("training")
_hooks = attrgetter(
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
)


class Structure:
    """The submodules, parameters and buffers of a module.

    Attributes
    ----------
    modules : list of Module
    names : dict of str to (dict, str)
        Where each parameter and buffer is.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self.modules = list(module.modules())
        self._children = [part._modules for part in self.modules]
        self._found = [dict(children) for children in self._children]
        self.names: dict[str, tuple[dict[str, Any], str]] = {}
        for prefix, part in module.named_modules(remove_duplicate=False):
            for kept in (part._parameters, part._buffers):
                for name, tensor in kept.items():
                    if tensor is not None:
                        self.names[f"{prefix}.{name}" if prefix else name] = (kept, name)

    def holds(self) -> bool:
        """Return whether the submodules are those that there were."""
        return self._children == self._found

    def tensor(self, name: str) -> torch.Tensor:
        """Return a parameter or buffer as it is now."""
        kept, own = self.names[name]
        found: torch.Tensor = kept[own]
        return found

    def flags(self) -> tuple[bool, ...]:
        """Return which submodules are in training."""
        return tuple(map(_training, self.modules))

    def check_hooks(self) -> None:
        """Raise UnsupportedError where a submodule has hooks, which would not be called."""
        if any(map(any, map(_hooks, self.modules))):
            part = next(part for part in self.modules if any(_hooks(part)))
            raise UnsupportedError(f"a {type(part).__name__} in it has hooks")
