"""Calls generated code on arrays that lie flush against memory nobody may touch.

The calls are made in a fork of this process, since code that reads or writes one element too far is
ended there.  It notes the name of each call before it begins, so that the last one named is the
culprit.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
import tempfile
import traceback
from typing import Any, NamedTuple

import numpy as np
import pytest

from lowerconv.codegen import gathering, joining, packing, transforms
from lowerconv.codegen.amx import configuration, configure_address
from lowerconv.codegen.isa import ISAS, Isa, host_extensions
from lowerconv.machine.features import instruction_set

from ..conv.guard_pages import guarded
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

if emulator.is_asked():  # for others, which run in an emulator
    HOST_ISAS, EXTENDED = emulator.PLAIN, emulator.EXTENDED

MODULES = packing, gathering, joining, transforms
TILES = configuration()
TIMEOUT = 300  # seconds: a hundred times what the calls of a test take

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


def run(job: Job, address: int) -> np.ndarray:
    """Call the code at an address, and return what the result's array then holds."""
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


def prepare(job: Job) -> int:
    """Return the address of a job's code; tiles are configured for this thread, from now on."""
    if getattr(job.kernel, "uses_amx", False):
        configure = ctypes.CFUNCTYPE(None, ctypes.c_int64)(configure_address(job.isa))
        configure(TILES.ctypes.data)
    return job.address()


def call(jobs: list[Job]) -> list[np.ndarray]:
    """Run jobs in a process of their own, and return what the results' arrays then hold."""
    if emulator.is_asked():
        return emulator.call(jobs)
    addresses = [prepare(job) for job in jobs]  # generated here, so that others find it
    if not hasattr(os, "fork"):
        return [run(job, address) for job, address in zip(jobs, addresses, strict=True)]
    with tempfile.TemporaryFile() as names, tempfile.TemporaryFile() as results:
        child = os.fork()
        if child == 0:
            _run_all(jobs, addresses, names, results)
        _, status = os.waitpid(child, 0)
        names.seek(0)
        messages = names.read().decode()
        assert status == 0, f"status {os.waitstatus_to_exitcode(status)} in {messages[-2000:]}"
        results.seek(0)
        return pickle.load(results)


def _run_all(jobs: list[Job], addresses: list[int], names: Any, results: Any) -> None:
    """Run jobs in a process that ends here, whatever happens."""
    status = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(TIMEOUT)
        found = []
        for job, address in zip(jobs, addresses, strict=True):
            os.write(names.fileno(), f"{job.name}\n".encode())
            found.append(run(job, address))
        pickle.dump(found, results)
        results.flush()
        status = 0
    except BaseException:
        os.write(names.fileno(), traceback.format_exc().encode())
    finally:
        os._exit(status)
