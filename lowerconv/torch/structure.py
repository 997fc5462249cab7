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
    """The submodules of a module, with their attributes, parameters and buffers.

    Parameters
    ----------
    module : torch.nn.Module

    Attributes
    ----------
    modules : list of torch.nn.Module
    names : dict of str to (dict, str)
        Where each parameter and buffer is.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self.modules = list(module.modules())
        self._children = [part._modules for part in self.modules]
        self._found = [dict(children) for children in self._children]
        self.names: dict[str, tuple[dict[str, Any], str]] = {}
        self._absent: list[tuple[dict[str, Any], str]] = []
        for prefix, part in module.named_modules(remove_duplicate=False):
            for kept in (part._parameters, part._buffers):
                for name, tensor in kept.items():
                    if tensor is not None:
                        self.names[f"{prefix}.{name}" if prefix else name] = (kept, name)
                    else:
                        self._absent.append((kept, name))
        # Those of torch.fx compile themselves when they are called: their attributes change.
        self._plain = [p for p in self.modules if not isinstance(p, torch.fx.GraphModule)]
        self._attributes = [part.__dict__ for part in self._plain]
        self._hooks = [hooks for part in self.modules for hooks in _hooks(part)]
        self._first = [dict(attributes) for attributes in self._attributes]
        self._alike: dict[tuple[bool, ...], list[dict[str, Any]]] = {}

    def changed(self) -> str | None:
        """Return what of the module is another than it was, None where all is as it was."""
        if self._children != self._found:
            return "its modules"
        for kept, name in self._absent:
            if kept.get(name) is not None:
                return f"{name!r}, which was None"
        flags = self.flags()
        alike = self._alike.get(flags)
        if alike is None:
            pairs = zip(self._first, map(_training, self._plain), strict=True)
            alike = [{**first, "training": flag} for first, flag in pairs]
            self._alike[flags] = alike
        try:
            if self._attributes == alike:
                return None
        except Exception:  # of comparisons of whatever it is
            pass
        return self._different(alike)

    def _different(self, alike: list[dict[str, Any]]) -> str | None:
        """Return the name of an attribute that is another than it was."""
        for part, now, before in zip(self._plain, self._attributes, alike, strict=True):
            for name in {**now, **before}:
                if name not in now or name not in before or not _same(now[name], before[name]):
                    return f"the attribute {name!r} of a {type(part).__name__}"
        return None

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
        if any(self._hooks):
            part = next(part for part in self.modules if any(_hooks(part)))
            raise UnsupportedError(f"a {type(part).__name__} in it has hooks")


def _same(a: Any, b: Any) -> bool:
    try:
        return a is b or bool(a == b)
    except Exception:  # of whatever class
        return False
