"""Attributes of modules: which become children or parameters, and which are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from lowerconv.checks import plain_array
from lowerconv.conv.problem import DTYPES


class Parameter:
    """An array that is learnt, and the gradient of the loss with respect to it.

    Parameters
    ----------
    data : ndarray, float32 or float64
        Is kept, not copied.

    Attributes
    ----------
    grad : ndarray
        Of the shape and dtype of `data`; zero at first.
    origin : tuple
        Of one that never changes: tells it apart from all others of its network; else empty.
    again : callable or None
        Makes `data` anew, where it is empty: of one that never changes.
    is_taken : bool
        Whether `data` is as `nn.freeze.taken` returns it, and stays so.

    Raises
    ------
    TypeError
        `data` is no array, is masked, or has another dtype.
    """

    origin: tuple[Any, ...] = ()
    again: Callable[[], np.ndarray] | None = None
    is_taken = False

    def __init__(self, data: np.ndarray) -> None:
        if plain_array(data, "data").dtype not in DTYPES:
            raise TypeError(f"data: got dtype {data.dtype}, expected float32 or float64")
        self.data = data
        self.grad = np.zeros(data.shape, data.dtype)  # takes no memory before it is written

    @property
    def whole(self) -> np.ndarray:
        """What `data` is, or was before it was emptied."""
        return self.data if self.again is None else self.again()


class Attributes:
    """The base of modules, which are their attributes that are modules and parameters.

    - One that is assigned becomes a child, or a parameter.  ``del`` and None remove it; nothing but
      another of its kind takes its place.
    - A module in several places has one set of parameters, under its first name.  It may be
      applied once in a `forward` if it has any.
    - In a list, tuple, set or dict they would not be found: these are refused.

    A network is recorded anew after any of this, and an optimizer refuses to make a step if the
    network has other parameters since.
    """

    # The last changes of what modules are made of, which makes older programs stale, and of which
    # parameters there are, those of new modules counted.
    _structures = 0
    _parameter_lists = 0
    _children: dict[str, Any]
    _recorded = False  # whether programs may know of the parameters
    _reserved: ClassVar[frozenset[str]] = frozenset()  # names that all modules use themselves

    def __init__(self) -> None:
        for name in self.__dict__.get("_children", ()):  # called again: it begins anew
            self.__dict__.pop(name, None)
        self.__dict__["_children"] = {}  # without `__setattr__`: layers are made in thousands

    def children(self) -> Mapping[str, Any]:
        """Return the modules that this one is made of, by name; to be read only."""
        return MappingProxyType(self._children)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute.

        Raises
        ------
        AttributeError
            The name is one that all modules use; or ``super().__init__()`` was not called before.
        TypeError
            A container of modules or parameters; or a value that is neither, in place of one.
        ValueError
            A name with a dot; or a module that this one is a part of.
        """
        before = self.__dict__.get(name, _MISSING)
        if type(value) in _PLAIN and type(before) in _PLAIN and name != "forward":
            object.__setattr__(self, name, value)  # most attributes, of layers made in thousands
            return
        self._check(name, before, value)
        super().__setattr__(name, value)
        self._note(name, before, value)

    def __delattr__(self, name: str) -> None:
        before = self.__dict__.get(name, _MISSING)
        super().__delattr__(name)
        self._note(name, before, _MISSING)

    def _check(self, name: str, before: Any, value: Any) -> None:
        kind = type(value).__name__
        if isinstance(value, _PARTS):
            if "_children" not in self.__dict__:
                raise AttributeError(f"{name}: set before super().__init__() was called")
            if not name or "." in name:
                raise ValueError(f"{name!r}: got a name with a dot, which stands between names")
            if name in self._reserved:
                raise AttributeError(
                    f"{name}: got a {kind}, expected another name: every {type(self).__name__} has "
                    "something else under this one"
                )
            if isinstance(value, Attributes) and _contains(value, self):
                raise ValueError(f"{name}: got a {kind} that contains this one, expected no cycle")
        elif _holds_parts(value):
            raise TypeError(
                f"{name}: got a {kind} of modules or parameters, which would be neither trained "
                "nor saved; expected an nn.ModuleList or nn.Sequential, or one attribute for each"
            )
        for part in _PARTS:
            if isinstance(before, part) and not (value is None or isinstance(value, part)):
                expected = "Parameter" if part is Parameter else "Module"
                raise TypeError(f"{name}: got {kind}, expected a {expected} or None, as before")

    def _note(self, name: str, before: Any, value: Any) -> None:
        """Keep up with an attribute that has changed."""
        if before is value:
            return
        if isinstance(value, Attributes):
            self._children[name] = value
        elif isinstance(before, Attributes):
            self._children.pop(name, None)
        modules = isinstance(before, Attributes) or isinstance(value, Attributes)
        parameters = isinstance(before, Parameter) or isinstance(value, Parameter)
        # Last: a thread that sees the number sees what it stands for.
        if modules or parameters:
            Attributes._parameter_lists = next(_changes)
        if modules or (parameters and self._recorded) or name == "forward":
            Attributes._structures = next(_changes)


_changes = count(1)
_MISSING = object()
_PARTS = (Attributes, Parameter)
_PLAIN = frozenset({bool, int, float, str, type(None), type(_MISSING), np.ndarray})


def _contains(module: Any, part: Any) -> bool:
    return module is part or any(_contains(child, part) for child in module.children().values())


def _holds_parts(value: Any) -> bool:
    if isinstance(value, dict):
        return any(isinstance(part, _PARTS) or _holds_parts(part) for part in value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return any(isinstance(part, _PARTS) or _holds_parts(part) for part in value)
    return False
