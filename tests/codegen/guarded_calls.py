"""Calls generated code on arrays that lie flush against memory nobody may touch.

A process of its own, as ``tests/conv/guard_pages.py`` is, which makes the pages: pickled calls come
in through stdin, the results leave through stdout, and the name of each goes to stderr before it
begins, so that the last one named is the culprit.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import lowerconv
from lowerconv.codegen import gathering, joining, packing, transforms
from lowerconv.codegen.amx import configuration, configure_address
from lowerconv.codegen.isa import ISAS, Isa, host_extensions
from lowerconv.machine.features import instruction_set

if __name__ != "__main__":
    from ..emulated import emulator

ORDERS = ("avx512", "avx2", "sse"), *((sve, "neon", "generic") for sve in ("sve512", "sve256"))
CPU = instruction_set()
# Those that can run here; on x86-64 "generic" is SSE with smaller tiles, and tried once.
HOST = next((order[order.index(CPU) :] for order in ORDERS if CPU in order), ("generic",))
DTYPES = [np.dtype("float32"), np.dtype("float64")]
# Elsewhere than on Linux there are no guard pages, but results can be right or wrong.
PLACES = ("at-start", "at-end") if sys.platform == "linux" else ("anywhere",)

HOST_ISAS = [ISAS[name] for name in HOST]
# ... and with the extensions that this CPU has, for words; "generic" multiplies those its own way.
EXTENDED = {isa.name: isa for isa in [*HOST_ISAS, ISAS["generic"]]}
EXTENDED |= {
    isa.name: isa for isa in (isa.extended(*host_extensions(isa.name)) for isa in HOST_ISAS)
}

if __name__ != "__main__" and emulator.is_asked():  # for others, which run in an emulator
    HOST_ISAS, EXTENDED = emulator.PLAIN, emulator.EXTENDED

MODULES = packing, gathering, joining, transforms
TILES = configuration()

by_isa = pytest.mark.parametrize("isa", HOST_ISAS, ids=[isa.name for isa in HOST_ISAS])
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


class Job(NamedTuple):
    """One call: integers are passed on, arrays by their addresses.

    Attributes
    ----------
    name : str
    kernel : object
        What has an ``address()``, or the name of a function of one of `MODULES` that returns an
        address, with its arguments, an `Isa` the first.
    arguments : list of int or ndarray
    result : int
        Number of the argument that is written; all other arrays are read-only.
    place : str
    """

    name: str
    kernel: Any
    arguments: list[Any]
    result: int
    place: str

    @property
    def isa(self) -> Isa:
        """The instruction set of the code."""
        return self.kernel[1] if isinstance(self.kernel, tuple) else self.kernel.isa

    def address(self) -> int:
        """Return the address of the code, generated now if need be."""
        if not isinstance(self.kernel, tuple):
            return self.kernel.address()
        name, *arguments = self.kernel
        return next(getattr(m, name) for m in MODULES if hasattr(m, name))(*arguments)


def run(job: Job, guarded: Any) -> np.ndarray:
    print(job.name, file=sys.stderr, flush=True)
    address = job.address()
    if getattr(job.kernel, "uses_amx", False):  # of this thread, from now on
        configure = ctypes.CFUNCTYPE(None, ctypes.c_int64)(configure_address(job.isa))
        configure(TILES.ctypes.data)
    words: list[int] = []
    dtype = job.arguments[job.result].dtype
    kept, result = [], None  # arrays live as long as their addresses
    for i, argument in enumerate(job.arguments):
        if isinstance(argument, np.ndarray):
            # The helper fills what is beside an array with NaN: so offsets come as if they were.
            array = argument.view(np.float32) if argument.dtype.kind in "iu" else argument
            array = array.copy()
            if job.place != "anywhere":
                array = guarded(array, job.place, read_only=i != job.result)
            kept.append(array)
            argument = array.ctypes.data
            if i == job.result:
                result = array
        words.append(argument)
    ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(words))(address)(*words)
    assert result is not None
    return result.view(dtype).copy()


def call(jobs: list[Job]) -> list[np.ndarray]:
    """Run jobs in a process of their own, and return what the results' arrays then hold."""
    if emulator.is_asked():
        return emulator.call(jobs)
    folders = (Path(lowerconv.__file__).parents[1], Path(__file__).parents[1] / "conv")
    path = os.pathsep.join(filter(None, [*map(str, folders), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, __file__],
        # Plain tuples: the child knows the class of the jobs under another module's name.
        input=pickle.dumps([tuple(job) for job in jobs]),
        capture_output=True,
        env=os.environ | {"PYTHONPATH": path},
        timeout=300,
    )
    messages = done.stderr.decode()
    assert done.returncode == 0, f"return code {done.returncode} in {messages[-2000:]}"
    return pickle.loads(done.stdout)


if __name__ == "__main__":
    import guard_pages

    jobs = [Job(*fields) for fields in pickle.load(sys.stdin.buffer)]
    sys.stdout.buffer.write(pickle.dumps([run(job, guard_pages.guarded) for job in jobs]))
