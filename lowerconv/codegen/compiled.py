"""Loops that numba compiles: kept on disk where there is a place for them, else in memory.

numba's own cache ends the program where there is no place, or where a file of it is damaged: a
flipped bit of object code ends the process inside LLVM, or changes the numbers.  This one is a file
for each function and signature, with a checksum, which is made again or done without.  And it knows
of what the function calls: its name holds a hash of all sources that the function may depend on.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import numba
from numba.core import config
from numba.core.caching import NullCache
from numba.core.ccallback import CFunc
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps
from numba.core.typing import Signature

from lowerconv.codegen.sources import source_hash
from lowerconv.copying import not_copied
from lowerconv.machine.disk_cache import (
    ANOTHER_DIRECTORY,
    cached_file,
    read_checked,
    store_checked,
    warn_unwritable,
)

DISABLED = "NUMBA_DISABLE_JIT is set, and Python itself cannot run lowerconv's loops: unset it"
WITH_SOURCES = "install lowerconv with its .py files, which tell when compiled code is out of date"

_NUMBA_DIRECTORY = "NUMBA_CACHE_DIR names another directory"
_CONFIG: Any = config


@not_copied("compile the function there")
class Callback(NamedTuple):
    """A function that can be called by its address, and where it comes from."""

    address: int
    loaded: bool  # from the disk, not compiled
    kept: bool  # there for later processes


def njit(*, cache: bool = False, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator as numba's ``njit``, whose cache is the one of this module.

    Parameters
    ----------
    cache : bool
        Whether what is compiled is kept for later processes.
    **options
        Further ones of numba.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        if _CONFIG.DISABLE_JIT:
            return _refused(function)
        # Without a fastmath of its own a function gets that of the first caller that is compiled.
        dispatcher = numba.njit(**{"fastmath": False, **options})(function)
        if cache:
            dispatcher._cache = Cache(function)
        return dispatcher

    return decorate


def internal(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compile a function for compiled callers alone; it is kept as a part of them.

    Wrappers by which Python and C could call it take as long to compile as the function itself.
    Decorates as ``@internal``, or with options of numba as ``@internal(fastmath=True)``.
    Divisions by zero give infinities as in NumPy: an exception would end one worker's share.
    """
    kept: dict[str, Any] = {
        "no_cpython_wrapper": True,
        "no_cfunc_wrapper": True,
        "error_model": "numpy",
    }
    decorate = njit(**kept | options)
    return decorate if function is None else decorate(function)


def callback(signature: Signature, function: Callable[..., Any]) -> Callback:
    """Compile a function that is called by its address; keep it for later processes."""
    if _CONFIG.DISABLE_JIT:
        raise RuntimeError(DISABLED)
    compiled: Any = CFunc(function, (signature.args, signature.return_type), locals={}, options={})
    compiled._cache = cache = Cache(function)
    compiled.compile()
    return Callback(int(compiled.address or 0), bool(compiled.cache_hits), cache.kept)


def _load_registries(target_context: Any) -> None:
    """Have numba load all that it compiles with, but for SciPy.

    To know whether there is a BLAS numba imports ``scipy.linalg``, which takes as long as all else
    that it loads.  Whether SciPy is installed tells as much: where a function calls BLAS, numba
    looks again.
    """
    linalg: Any = importlib.import_module("numba.np.linalg")
    find = getattr(linalg, "ensure_blas", None)
    if find is None or "numba.np.arraymath" in sys.modules:  # another numba; loaded already
        target_context.refresh()
        return
    try:
        linalg.ensure_blas = _ensure_scipy
        target_context.refresh()
    finally:
        linalg.ensure_blas = find


def _ensure_scipy() -> None:
    if importlib.util.find_spec("scipy") is None:
        raise ImportError("scipy: not installed")


def _refused(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def refuse(*arguments: object) -> None:
        raise RuntimeError(DISABLED)

    return refuse


@not_copied("compile the function there")
class Cache(NullCache):
    """What numba asks for the compiled code of one function, and gives it to be kept.

    Parameters
    ----------
    function : callable
        Of this package.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        # Now, and not when it is needed: an editor may change the files while this process runs.
        self._sources = source_hash(function.__module__)
        self.kept = False

    @property
    def cache_path(self) -> str | None:
        """The directory that is tried first."""
        return next((str(directory) for directory in self._directories()), None)

    def load_overload(self, sig: Any, target_context: Any) -> CompileResult | None:
        """Return the code for a signature, None where there is none that is whole."""
        _load_registries(target_context)
        name = self._name(sig, target_context.codegen())
        for directory in self._directories():
            data = read_checked(directory / name)
            if data is not None:
                self.kept = True
                return CompileResult._rebuild(target_context, *pickle.loads(data))
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the code for a signature, in the first directory where that is possible.

        Warns
        -----
        RuntimeWarning
            There is none.  Told once per process.
        """
        self.kept = False
        if data.library.has_dynamic_globals:  # addresses of this process are in it
            return
        name, content = self._name(sig, data.codegen), dumps(data._reduce())
        path, failure, cure = None, OSError("its sources are not there"), WITH_SOURCES
        for directory in self._directories():
            path = directory / name
            try:
                store_checked(path, content)
            except OSError as error:
                failure = error
                cure = _NUMBA_DIRECTORY if _CONFIG.CACHE_DIR else ANOTHER_DIRECTORY
            else:
                self.kept = True
                return
        warn_unwritable(path, failure, cure)

    def _directories(self) -> Iterator[Path]:
        """Yield where the code may be: beside the sources, as numba has it, else in our cache."""
        if self._sources is None:
            return
        source = Path(self._function.__code__.co_filename)
        if _CONFIG.CACHE_DIR:
            yield Path(_CONFIG.CACHE_DIR) / "lowerconv"
            return
        yield source.parent / "__pycache__"
        ours = cached_file("loops")
        if ours is not None:
            yield ours

    def _name(self, sig: Any, codegen: Any) -> str:
        """Return the name of a file: what function it is for, and a hash of what it depends on."""
        function = self._function
        code = function.__code__
        cells = tuple(cell.cell_contents for cell in function.__closure__ or ())
        parts = (
            *(numba.__version__, llvmlite.__version__, self._sources, function.__module__),
            *(repr(sig), codegen.magic_tuple(), code.co_code, dumps(cells) if cells else b""),
        )
        digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
        module = function.__module__.rpartition(".")[2]
        readable = re.sub(r"[^\w.]", "", f"{module}.{function.__qualname__}")
        line, python = code.co_firstlineno, sys.implementation.cache_tag
        return f"{readable}-{line}.{python}.{digest}.nbc"
