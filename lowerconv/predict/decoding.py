"""Objects of dataclasses from JSON, whose types say what each field may be."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Annotated, Any

from lowerconv.arguments import checked


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the fields of an object of JSON; raise ValueError where one is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a field twice, of {', '.join(name for name, _ in pairs[:5])}...")
    return found


def decoded(kind: Any, value: Any, where: str) -> Any:
    """Return a value of JSON as an object of a type; the message of an error begins with where."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind):
        return _decoded_object(kind, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise TypeError(f"{where}: got {_short(value)}, expected a list")
        return tuple(decoded(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise TypeError(f"{where}: got {_short(value)}, expected an object")
        return {k: decoded(arguments[1], v, f"{where}[{k}]") for k, v in value.items()}
    if origin is Annotated:
        return checked(where, arguments[1], value)
    return value


def _decoded_object(kind: Any, value: Any, where: str) -> Any:
    prefix = f"{where}." if where else ""
    if not isinstance(value, Mapping):
        raise TypeError(f"{where}: got {_short(value)}, expected an object")
    hints = typing.get_type_hints(kind, include_extras=True)
    for name in value:
        if name not in hints:
            raise ValueError(f"{prefix}{name}: no such field, expected {', '.join(hints)}")
    found = {}
    for name, hint in hints.items():
        if name not in value:
            raise ValueError(f"{prefix}{name}: missing")
        found[name] = decoded(hint, value[name], prefix + name)
    return kind(**found)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 40 else f"{text[:37]}..."
