"""The modules of the package that can be imported here."""

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import lowerconv


def importable() -> Iterator[ModuleType]:
    """Yield all modules, without those whose optional packages are not installed."""
    for info in pkgutil.walk_packages(lowerconv.__path__, "lowerconv."):
        if info.name.endswith("__main__"):
            continue
        try:
            yield importlib.import_module(info.name)
        except ImportError as error:
            if "pip install 'lowerconv[" not in str(error):
                raise
