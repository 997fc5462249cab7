"""What compiled code was made from: a hash of the sources that it may depend on."""

from __future__ import annotations

import functools
import hashlib
import re
from pathlib import Path
from typing import Any, NamedTuple

_ROOT = Path(__file__).parents[1]
_LOADER: Any = __spec__.loader

# Imports at a file's left margin: the others are not there when a function is compiled.
_IMPORT = re.compile(rb"^from (lowerconv[\w.]*) import (\([^)]*\)|.*)", re.M)


class _Source(NamedTuple):
    """The source of a module of this package."""

    hash: str
    is_package: bool
    imports: list[tuple[str, list[str]]]  # modules of this package, and the names asked of them


@functools.cache
def source_hash(module: str, package: str = "lowerconv") -> str | None:
    """Return a hash of the sources of a module and of all that it imports from a package.

    Parameters
    ----------
    module : str
        Its full name.
    package : str
        This package or one inside it; imports from elsewhere, and what those import, do not count.

    Returns
    -------
    str or None
        None where the source is not there: only byte code is, or it is of another package.
    """
    found: dict[str, str] = {}
    waiting, met = [module], {module}
    while waiting:
        name = waiting.pop()
        source = _source(name) if f"{name}.".startswith(f"{package}.") else None
        if source is None:  # no module: something else that is imported from a package
            continue
        found[name] = source.hash
        for imported, names in source.imports:
            inner = _source(imported)
            modules = [imported]
            if inner is not None and inner.is_package:
                modules += [f"{imported}.{each}" for each in names]
            waiting += [each for each in modules if each not in met]
            met.update(modules)
    if module not in found:
        return None
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()


@functools.cache
def _source(module: str) -> _Source | None:
    package, *parts = module.split(".")
    if package != _ROOT.name:
        return None
    path = _ROOT.joinpath(*parts)
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        try:
            content = _LOADER.get_data(str(file))  # which may be that of a zip archive
        except OSError:
            continue
        imports = [
            (match[1].decode(), re.findall(r"\w+", match[2].decode()))
            for match in _IMPORT.finditer(content)
        ]
        return _Source(hashlib.sha256(content).hexdigest(), file.stem == "__init__", imports)
    return None
