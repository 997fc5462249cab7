"""From LLVM IR to the address of a function: compiled once per machine, then read from disk.

Kernels are modules of their own, without numba: compiling one takes some ten milliseconds, and its
address is a plain integer that cached numba code can be given and call.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from functools import lru_cache
from importlib import resources
from typing import Any

import llvmlite
import llvmlite.binding as llvm
from llvmlite import ir

from lowerconv.codegen.isa import Isa
from lowerconv.codegen.sources import source_hash
from lowerconv.machine.disk_cache import cached_file, read_checked, write_checked

# What is loaded: addresses by generator, name and key, and the engines that own the machine code.
_addresses: dict[tuple[str, str, Isa, Hashable], int] = {}
_engines: list[Any] = []
_started = False


@lru_cache
def target_machine(isa: Isa) -> llvm.TargetMachine:
    """Return LLVM's code generator for an instruction set, which need not be the host's."""
    global _started
    if not _started:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        _started = True
    triple = llvm.get_process_triple()
    own = triple.replace("arm64", "aarch64", 1)  # as Apple's systems call it
    if isa.triple and not own.startswith(isa.triple):
        triple = f"{isa.triple}-unknown-linux-gnu"
    return llvm.Target.from_triple(triple).create_target_machine(
        cpu=isa.cpu, features=isa.features, opt=2, reloc="pic", codemodel="small"
    )


def parsed(module: ir.Module, isa: Isa) -> llvm.ModuleRef:
    """Return the module as LLVM holds it, for the target of `isa`."""
    machine = target_machine(isa)
    module.triple = machine.triple
    module.data_layout = str(machine.target_data)
    return llvm.parse_assembly(str(module))


def assembly(module: ir.Module, isa: Isa) -> str:
    """Return the target's assembly of a module."""
    return target_machine(isa).emit_assembly(parsed(module, isa))


@lru_cache
def _sources(generator: str) -> str:
    """Return a hash of the sources that emitted code depends on: an edit of them makes it anew.

    Those are of the module that emits it and of what that imports from here.  Where they are not
    there (only byte code is, or the module is of another package) all files of this one count.
    """
    known = source_hash(generator, __package__)
    if known is not None:
        return known
    digest = hashlib.sha256()
    files = resources.files(__package__).iterdir()  # may be in a zip archive
    for name, file in sorted((file.name, file) for file in files):
        if name.endswith((".py", ".pyc")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def load(key: Hashable, build: Callable[[], ir.Module], isa: Isa, name: str, generator: str) -> int:
    """Return the address of function `name` of the module that `build` makes.

    `key` says everything that the module depends on, besides the sources of `generator`, the Python
    module that emits it, and of what that imports: the object code is kept on disk under the hash
    of them, and `build` is not called when it is there.
    """
    known = _addresses.get((generator, name, isa, key))
    if known is not None:
        return known
    versions = llvmlite.__version__, llvm.get_process_triple()
    text = repr((_sources(generator), *versions, isa, name, key))
    digest = hashlib.sha256(text.encode()).hexdigest()[:32]
    path = cached_file("kernels", f"{digest}.o")
    code = read_checked(path)
    if code is None:
        code = target_machine(isa).emit_object(parsed(build(), isa))
        write_checked(path, code)
    address = _addresses[generator, name, isa, key] = _linked(code, isa, name)
    return address


def load_once(module: ir.Module, isa: Isa, name: str) -> int:
    """Return the address of a function that is for this process alone, and kept nowhere."""
    return _linked(target_machine(isa).emit_object(parsed(module, isa)), isa, name)


def _linked(code: bytes, isa: Isa, name: str) -> int:
    # LLVM's own memory manager may put code and constants more than 2 GiB apart, where large arrays
    # lie between, and then ends the process; llvmlite's takes one piece of memory for both, but
    # has no room for calls of functions by their names: code here calls them by their addresses.
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target_machine(isa), use_lmm=True)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return engine.get_function_address(name)
