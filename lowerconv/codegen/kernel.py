"""Emitted kernels: what they are made from, and where their code lies once it is compiled."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, ClassVar

import numpy as np
from llvmlite import ir

from lowerconv.codegen.emit import Emitter
from lowerconv.codegen.isa import Isa
from lowerconv.codegen.jit import assembly, load


class Kernel:
    """The specification of a kernel: a frozen dataclass, which is the key of its code as well."""

    name: ClassVar[str]
    signature: ClassVar[type[Any]]  # of `codegen.signatures`
    isa: Isa
    dtype: np.dtype

    def emit(self, e: Emitter) -> None:
        """Write the instructions of the function."""
        raise NotImplementedError

    def build(self) -> ir.Module:
        """Return the module of the function."""
        e = Emitter.function(self.name, self.signature, self.isa, self.dtype)
        self.emit(e)
        return e.finish()

    def address(self) -> int:
        """Return the address of the compiled function."""
        return load(self, self.build, self.isa, self.name, type(self).__module__)

    def assembly(self) -> str:
        """Return the assembly of the function."""
        return assembly(self.build(), self.isa)


def kernel_address(
    signature: type[Any],
    emit: Callable[..., None],
    isa: Isa,
    dtype: np.dtype,
    *options: Hashable,
) -> int:
    """Return the address of the function that ``emit(e, *options)`` writes, and is named after."""
    name = emit.__name__.lstrip("_")

    def build() -> ir.Module:
        e = Emitter.function(name, signature, isa, dtype)
        emit(e, *options)
        return e.finish()

    return load((dtype.str, *options), build, isa, name, emit.__module__)
