"""A module of loops to compile, in a directory of its own."""

import errno
import importlib.util
import os
import sys

import numpy as np

from lowerconv.codegen import compiled

LOOPS = """
    from numba import types
    from lowerconv.codegen.compiled import callback, njit

    @njit(cache=True, nogil=True)
    def double(x):
        return 2 * x

    @njit(cache=True, nogil=True)
    def total(xs):
        result = 0.0
        for x in xs:
            result += double(x)
        return result

    def add(pointer, number):
        pass

    def call():
        return callback(types.void(types.CPointer(types.int64), types.int64), add)
"""


XS = np.array([1.0, 2.0, 4.0])


class Loops:
    """A module of loops, imported anew each time, as each process does."""

    def __init__(self, file):
        self.file = file

    def load(self):
        spec = importlib.util.spec_from_file_location("loops", self.file)
        module = sys.modules["loops"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def run(self):
        """Return how many functions a new process loads, having run them."""
        module = self.load()
        assert module.total(XS) == 14
        return sum(sum(f.stats.cache_hits.values()) for f in (module.total, module.double))

    @property
    def beside(self):
        return self.file.parent / "__pycache__"


def kept(directory):
    return sorted(directory.rglob("*.nb?"))


def refuse(monkeypatch, directory, error=errno.EROFS):
    """Have nothing be written below a directory, whoever we are."""
    store = compiled.store_checked

    def refusing(path, data):
        if path.is_relative_to(directory):
            raise OSError(error, os.strerror(error))
        store(path, data)

    monkeypatch.setattr(compiled, "store_checked", refusing)
