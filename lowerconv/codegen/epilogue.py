"""What kernels do to results before they store them: add what is there, then apply a function.

Where results are integers the function is ReLU.  Constants of other functions are read.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from llvmlite import ir

from lowerconv.codegen.activation import IN_REGISTERS, RELU, Activation
from lowerconv.codegen.emit import I32, Emitter
from lowerconv.codegen.signatures import ACTIVATE, ADD
from lowerconv.copying import not_copied

SIXTH = 1 / 6
CONSTANTS = Activation._fields[1:]  # as items of the dtype in memory


@not_copied("emit the kernel there")
class Epilogue:
    """Writes the last instructions on results.

    Parameters
    ----------
    e : Emitter
    mode : ir.Value
        Bits of `codegen.signatures`, known at run time.
    activation : Activation, optional
        The kind of what is applied where the mode has ``ACTIVATE``.
    constants : ir.Value, optional
        Where those of the function lie: an address.  ReLU has none.

    Attributes
    ----------
    adds : ir.Value
        Whether to add to what is there.
    """

    def __init__(
        self,
        e: Emitter,
        mode: ir.Value,
        activation: Activation = RELU,
        constants: ir.Value | None = None,
    ) -> None:
        self._e, self._activation = e, activation
        b = e.builder
        self.adds = b.icmp_signed("!=", b.and_(mode, e.constant(ADD)), e.constant(0))
        self._last = b.icmp_signed("!=", b.and_(mode, e.constant(ACTIVATE)), e.constant(0))
        zero, lowest = ir.Constant(e.scalar, 0.0), ir.Constant(e.scalar, -np.inf)
        if e.dtype.kind == "i":
            least = int(np.iinfo(e.dtype).min)
            zero, lowest = ir.Constant(e.scalar, 0), ir.Constant(e.scalar, least)
        relu = activation == RELU
        self._floor = e.splat(b.select(self._last, zero, lowest)) if relu else None
        # Vectors are made here, once: written out at each use they are most of a kernel's text.
        self._vectors: dict[float | str, ir.Value] = {}
        if not relu:
            assert constants is not None
            own = (0.0, 1.0, 3.0, 6.0, SIXTH, self._rest)
            self._vectors |= {x: e.splat(self._number(x)) for x in own}
            read = CONSTANTS if activation.is_scaled else CONSTANTS[:2]
            self._vectors |= {name: e.broadcast(constants, i) for i, name in enumerate(read)}

    def for_each_mode(self, store: Callable[[bool], None]) -> None:
        """Write ``store(add)`` twice: where results are added to what is there, and elsewhere."""
        with self._e.builder.if_else(self.adds, likely=False) as (adding, plain):
            with adding:
                store(True)
            with plain:
                store(False)

    def apply(self, value: ir.Value) -> ir.Value:
        """Return results, a vector or a single one, with the function applied where it is due."""
        e = self._e
        if self._floor is not None:
            floor = self._floor
            if value.type == e.scalar:
                floor = e.builder.extract_element(floor, e.constant(0, I32))
            return e.at_least(value, floor)
        return e.builder.select(self._last, self._applied(value), value)

    def _number(self, x: float) -> ir.Constant:
        return ir.Constant(self._e.scalar, float(self._e.dtype.type(x)))

    @property
    def _rest(self) -> float:
        """What a sixth has beyond its nearest number of the dtype."""
        return SIXTH - float(self._e.dtype.type(SIXTH))

    def _sixth(self, value: ir.Value, number: Callable[[float | str], ir.Value]) -> ir.Value:
        """Return a sixth, rounded once.

        With a factor that is rounded itself all results would be too large by its rounding, and
        those of layers that follow each other more and more so.
        """
        e, builder = self._e, self._e.builder
        if not e.isa.fma:
            return builder.fdiv(value, number(6.0))
        kind = e.scalar.intrinsic_name
        kind = kind if value.type == e.scalar else f"v{e.lanes}{kind}"
        rest = builder.fmul(number(self._rest), value)
        return e.call_named(f"llvm.fma.{kind}", [number(SIXTH), value, rest], value.type)

    def _applied(self, value: ir.Value) -> ir.Value:
        name = self._activation.function
        e, builder = self._e, self._e.builder

        def number(x: float | str) -> ir.Value:
            vector = self._vectors[x]
            if value.type == e.scalar:
                return builder.extract_element(vector, e.constant(0, I32))
            return vector

        def between(x: ir.Value, low: float | str, high: float | str) -> ir.Value:
            return e.at_most(e.at_least(x, number(low)), number(high))

        def line(x: ir.Value, slope: float | str, offset: float | str) -> ir.Value:
            return builder.fadd(builder.fmul(number(slope), x), number(offset))

        if name == "affine":
            result = line(value, "a", "b")
        elif name == "clip":
            result = between(value, "a", "b")
        elif name == "hard_sigmoid":
            result = between(line(value, "a", "b"), 0.0, 1.0)
        elif name == "hard_swish":
            gate = between(builder.fadd(value, number(3.0)), 0.0, 6.0)
            result = builder.fmul(value, self._sixth(gate, number))
        elif name == "leaky_relu":
            positive = builder.fcmp_ordered(">", value, number(0.0))
            result = builder.select(positive, value, builder.fmul(number("a"), value))
        else:
            raise ValueError(f"function: got {name!r}, expected one of {', '.join(IN_REGISTERS)}")
        return line(result, "scale", "shift") if self._activation.is_scaled else result
