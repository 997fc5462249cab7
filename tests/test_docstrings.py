"""Docstrings of what is public, by numpydoc's rules: pyproject.toml says which, and why.

Public are the names in `__all__` of the packages below, with the methods and properties of classes.
"""

import importlib
import inspect
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

validate = pytest.importorskip("numpydoc.validate").validate
hook = importlib.import_module("numpydoc.hooks.validate_docstrings")
settings = hook.parse_config(ROOT)

# What needs a library of its own, by that library's name.
DOORS = {"lowerconv.torch": "torch", "lowerconv.sklearn": "sklearn", "lowerconv.jax": "jax"}
PACKAGES = (
    "lowerconv",
    "lowerconv.data",
    "lowerconv.nn",
    "lowerconv.nn.functional",
    "lowerconv.nn.models",
    "lowerconv.nn.optim",
    "lowerconv.onnx",
    "lowerconv.parallel",
    "lowerconv.quant",
    "lowerconv.train",
    *DOORS,
)
MEMBERS = (property, cached_property, classmethod, staticmethod)


def ours(thing: Any) -> bool:
    """Return whether something is defined in this package."""
    return str(getattr(thing, "__module__", "")).startswith("lowerconv")


def described_above(owner: type, name: str) -> bool:
    """Return whether a method overrides one that takes the same, and is described there."""

    def names(holder: type) -> list[str] | None:
        found = inspect.getattr_static(holder, name, None)
        return list(inspect.signature(found).parameters) if inspect.isfunction(found) else None

    return any(names(base) == names(owner) is not None for base in owner.__mro__[1:])


def public(package: str) -> Iterator[tuple[str, Any, set[str]]]:
    """Yield where each public thing is, the thing, and the checks that do not apply to it."""
    module = importlib.import_module(package)
    for thing in (getattr(module, name) for name in module.__all__):
        if not ours(thing) or not callable(thing):
            continue
        where = f"{thing.__module__}.{thing.__qualname__}"
        # A protocol is not called.
        yield where, thing, {"PR01"} if getattr(thing, "_is_protocol", False) else set()
        for owner in filter(ours, getattr(thing, "__mro__", ())):
            for name, member in vars(owner).items():
                if name.startswith("_"):
                    continue
                if inspect.isfunction(member) or isinstance(member, MEMBERS):
                    without = {"PR01", "RT01", "YD01"} if described_above(owner, name) else set()
                    yield f"{owner.__module__}.{owner.__qualname__}.{name}", member, without


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_are_complete(package):
    if package in DOORS:
        pytest.importorskip(DOORS[package])
    found = []
    for where, thing, without in public(package):
        text = inspect.getdoc(thing) or ""
        for check, message in validate(where)["errors"]:
            pattern = settings["overrides"].get(check)
            if check in settings["checks"] - without and not (pattern and pattern.search(text)):
                found.append(f"{where}: {check} {message}")
    assert not found, "\n".join(found)


def test_docstrings_of_optional_modules_are_complete(capsys):
    """Of libraries that need not be installed: read, and not imported."""
    names = ("jax", "sklearn", "torch/backend", "torch/convert")
    files = [str(ROOT / "lowerconv" / f"{name}.py") for name in names]
    assert not hook.run_hook(files, config=ROOT), capsys.readouterr()
