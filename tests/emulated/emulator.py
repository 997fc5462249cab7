"""Calls generated code of instruction sets that this machine does not have, in an emulator.

`call` takes what ``tests/codegen/guarded_calls.py`` does natively.  Kernels are compiled for their
target as they always are, and kept as objects instead of being loaded; those of one call are linked
with ``harness.c``, and ``qemu-aarch64`` runs all of its jobs at once.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

import lowerconv.codegen.kernel
from lowerconv.codegen.isa import ISAS, Isa
from lowerconv.codegen.jit import parsed, target_machine

ENVIRONMENT = "LOWERCONV_EMULATED"
EMULATOR, COMPILER = "qemu-aarch64", "aarch64-linux-gnu-gcc"
HARNESS = Path(__file__).with_name("harness.c")
TIMEOUT = 600  # seconds: a hundred times what a call takes

# CPUs that have what an instruction set needs, and not more where QEMU knows one: an instruction of
# another extension ends the run.
CPUS = {
    "neon": "cortex-a57",
    "neon+dotprod": "neoverse-n1",
    "neon+dotprod+i8mm+bf16": "max,sve=off",
    "sve256": "a64fx,sve512=off",
    "sve256+i8mm+bf16": "max,sve256=on,sve512=off,sve-default-vector-length=32",
    "sve512": "a64fx",
    "sve512+i8mm+bf16": "max,sve512=on,sve-default-vector-length=64",
}


def _named(name: str) -> Isa:
    base, *extensions = name.split("+")
    return ISAS[base].extended(*extensions)


EXTENDED = {name: _named(name) for name in CPUS}
PLAIN = [isa for isa in EXTENDED.values() if not isa.extensions]


def is_asked() -> bool:
    """Return whether tests of generated code are to be about these instruction sets."""
    return os.environ.get(ENVIRONMENT) == "1"


def missing() -> str | None:
    """Return why nothing can be emulated here; None where it can."""
    if not is_asked():
        return f"emulated: {ENVIRONMENT}=1"
    absent = [tool for tool in (EMULATOR, COMPILER) if shutil.which(tool) is None]
    return f"emulated: there is no {' and no '.join(absent)}" if absent else None


class _Objects:
    """Stands for the loader of kernels: what it returns is no address but a number of an object."""

    def __init__(self) -> None:
        self.known: dict[Any, int] = {}
        self.folder = tempfile.TemporaryDirectory(prefix="lowerconv-emulated-")

    def load(self, key: Any, build: Any, isa: Isa, name: str, generator: str) -> int:
        """Compile a kernel, if it is a new one."""
        which = generator, name, isa, key
        number = self.known.setdefault(which, len(self.known))
        if not self.path(number).exists():
            module = parsed(build(), isa)
            module.get_function(name).name = self.symbol(number)
            self.path(number).write_bytes(target_machine(isa).emit_object(module))
        return number

    def symbol(self, number: int) -> str:
        return f"kernel_{number}"

    def path(self, number: int) -> Path:
        return Path(self.folder.name, f"{number}.o")

    def linked(self, numbers: Sequence[int]) -> Path:
        """Return the program that calls these kernels, by their places here."""
        symbols = [self.symbol(number) for number in numbers]
        table = "".join(f"void {symbol}(void);\n" for symbol in symbols)
        table += f"void *kernels[] = {{{', '.join(symbols)}}};\n"
        program, source = (Path(self.folder.name, name) for name in ("program", "table.c"))
        source.write_text(table)
        # Names of thousands of objects are longer than a command may be.
        names = Path(self.folder.name, "names")
        names.write_text("\n".join(str(self.path(number)) for number in numbers))
        done = subprocess.run(
            [COMPILER, "-O1", "-static", "-o", program, HARNESS, source, f"@{names}"],
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        return program


@lru_cache
def _objects() -> _Objects:
    return _Objects()


def _number(job: Any) -> int:
    """Return the number of a job's kernel, compiled now if need be."""
    with mock.patch.object(lowerconv.codegen.kernel, "load", _objects().load):
        return job.address()


def _words(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}q", *numbers)


def _packed(job: Any, place_of: dict[int, int], number: int) -> bytes:
    """Return a job as the harness reads it."""
    parts = [_words(place_of[number], len(job.arguments), job.result, job.place == "at-end")]
    for argument in job.arguments:
        if isinstance(argument, np.ndarray):
            content = argument.tobytes()
            parts += [_words(len(content)), content, bytes(-len(content) % 8)]
        else:
            parts.append(_words(-1, int(argument)))
    return b"".join(parts)


def _run(isa: Isa, jobs: Sequence[Any]) -> list[np.ndarray]:
    """Run jobs of one instruction set."""
    numbers = [_number(job) for job in jobs]
    place_of = {number: place for place, number in enumerate(dict.fromkeys(numbers))}
    program = _objects().linked(list(place_of))
    packed = [_packed(job, place_of, number) for job, number in zip(jobs, numbers, strict=True)]
    done = subprocess.run(
        [EMULATOR, "-cpu", CPUS[isa.name], program],
        input=_words(len(jobs)) + b"".join(packed),
        capture_output=True,
        timeout=TIMEOUT,
    )
    told, *begun = done.stderr.decode().splitlines() or [""]
    last = [line for line in begun if line.isdecimal()]
    culprit = jobs[int(last[-1])].name if last else told
    assert done.returncode == 0, f"return code {done.returncode} in {culprit}: {begun[-1:]}"
    if isa.scalable:
        assert told == f"vectors of {isa.bits // 8} bytes", told
    results, begin = [], 0
    for job in jobs:
        array = job.arguments[job.result]
        results.append(np.frombuffer(done.stdout, array.dtype, array.size, begin).copy())
        begin += array.nbytes
    assert begin == len(done.stdout)
    return results


def call(jobs: Sequence[Any]) -> list[np.ndarray]:
    """Run jobs, and return what the results' arrays then hold."""
    if reason := missing():
        pytest.skip(reason)
    results: dict[int, np.ndarray] = {}
    for name, isa in EXTENDED.items():
        own = [i for i, job in enumerate(jobs) if job.isa.name == name]
        if own:
            found = _run(isa, [jobs[i] for i in own])
            results |= dict(zip(own, found, strict=True))
    assert len(results) == len(jobs), "jobs of other instruction sets"
    return [results[i] for i in range(len(jobs))]
