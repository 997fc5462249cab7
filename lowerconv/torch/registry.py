"""The table of operators: which function records which operator of ATen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Importer = Callable[..., Any]


class UnsupportedError(RuntimeError):
    """What keeps a module from being converted: all reasons, of which there is at least one."""


@dataclass(frozen=True)
class Operator:
    """How an operator is recorded.

    Attributes
    ----------
    importer : callable
        Given the recorder and all arguments of the operator in the order of its schema, returns
        the result, or a tuple or list of results.
    leaves : bool
        Whether it takes parameters and buffers as `Leaf`; else as values or arrays.
    how : str
        For people: "compiled" or "NumPy".
    """

    importer: Importer
    leaves: bool
    how: str


OPERATORS: dict[str, Operator] = {}


def operator(
    *names: str, leaves: bool = False, how: str = "compiled"
) -> Callable[[Importer], Importer]:
    """Return a decorator that makes a function the importer of operators.

    A name is one of ATen, such as ``"conv2d"``, or with an overload, ``"mean.dim"``; of variants
    that write in place, such as ``"relu_"``, it is that without the underscore; of others' it has
    their library, ``"lowerconv::conv2d"``.
    """

    def register(function: Importer) -> Importer:
        for name in names:
            OPERATORS[name] = Operator(function, leaves, how)
        return function

    return register


def operators(table: dict[str, Importer], how: str = "compiled") -> None:
    """Make functions the importers of operators, whose names are apart by spaces."""
    for names, function in table.items():
        operator(*names.split(), how=how)(function)


def operator_of(target: Any) -> Operator | None:
    """Return how an operator is recorded, None where it is not known."""
    schema = getattr(target, "_schema", None)
    if schema is None:
        return None
    name = schema.name.removeprefix("aten::")
    if writes_in_place(target):
        name = name.removesuffix("_")
    overload = schema.overload_name or "default"
    return OPERATORS.get(f"{name}.{overload}") or OPERATORS.get(name)


def writes_in_place(target: Any) -> bool:
    """Return whether an operator changes its first operand."""
    schema = getattr(target, "_schema", None)
    if schema is None or not schema.arguments:
        return False
    info = schema.arguments[0].alias_info
    return bool(info is not None and info.is_write)


def draws(target: Any) -> bool:
    """Return whether an operator draws random numbers."""
    return torch.Tag.nondeterministic_seeded in getattr(target, "tags", ())


def makes_view(target: Any) -> bool:
    """Return whether the result of an operator may lie where its first operand does."""
    schema = getattr(target, "_schema", None)
    if schema is None or not schema.arguments:
        return False
    name = schema.name.removeprefix("aten::")
    return schema.arguments[0].alias_info is not None or name in (
        "reshape",
        "flatten",
        "contiguous",
    )
