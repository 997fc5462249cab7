"""From LLVM IR to the address of a function: compiled once per machine, then read from disk.

Kernels are modules of their own, without numba: compiling one takes some ten milliseconds, and its
address is a plain integer that cached numba code can be given and call.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Any

import llvmlite
import llvmlite.binding as llvm
from llvmlite import ir

from lowerconv.kernels.simd import Isa
from lowerconv.machine.cache import cache_directory, read_checked, write_checked

_loaded: list[Any] = []  # engines own the machine code: they live as long as the process
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
    if isa.triple and not triple.startswith(isa.triple):
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


def load(key: Hashable, build: Callable[[], ir.Module], isa: Isa, name: str) -> int:
    """Return the address of function `name` of the module that `build` makes.

    `key` says everything that the module depends on, besides this package's version: the object
    code is kept on disk under its hash, and `build` is not called when it is there.
    """
    from lowerconv.version import __version__

    text = repr((__version__, llvmlite.__version__, isa, name, key))
    digest = hashlib.sha256(text.encode()).hexdigest()[:32]
    path = cache_directory() / "kernels" / f"{digest}.o"
    code = read_checked(path)
    if code is None:
        code = target_machine(isa).emit_object(parsed(build(), isa))
        write_checked(path, code)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target_machine(isa))
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    address = engine.get_function_address(name)
    _loaded.append(engine)
    return address
