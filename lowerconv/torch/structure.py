"""What a module is made of, and whether it still is, at the cost of a look at each part."""

from __future__ import annotations

from typing import Any

import torch

from lowerconv.torch.registry import UnsupportedError

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


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
        self._edges = [
            (parent._modules, name, child)
            for parent in self.modules
            for name, child in parent._modules.items()
        ]
        self.names: dict[str, tuple[dict[str, Any], str]] = {}
        for prefix, part in module.named_modules(remove_duplicate=False):
            for kept in (part._parameters, part._buffers):
                for name, tensor in kept.items():
                    if tensor is not None:
                        self.names[f"{prefix}.{name}" if prefix else name] = (kept, name)

    def holds(self) -> bool:
        """Return whether the submodules are those that there were."""
        return all(kept.get(name) is child for kept, name, child in self._edges)

    def tensor(self, name: str) -> torch.Tensor:
        """Return a parameter or buffer as it is now."""
        kept, own = self.names[name]
        found: torch.Tensor = kept[own]
        return found

    def flags(self) -> tuple[bool, ...]:
        """Return which submodules are in training."""
        return tuple(part.training for part in self.modules)

    def check_hooks(self) -> None:
        """Raise UnsupportedError where a submodule has hooks, which would not be called."""
        for part in self.modules:
            if (
                part._forward_hooks
                or part._forward_pre_hooks
                or part._backward_hooks
                or part._backward_pre_hooks
            ):
                raise UnsupportedError(f"a {type(part).__name__} in it has hooks")
