"""What a call of a plan takes and returns: names and shapes of the arrays, and their checks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from lowerconv.checks import plain_array
from lowerconv.conv.arrays import are_slices, contiguous, overlap
from lowerconv.conv.problem import FLOAT32, ConvProblem, Op

#        pass:          its operands and its result, as the public functions name them
NAMES: dict[Op, tuple[str, str, str]] = {
    "forward": ("x", "w", "y"),
    "input_grad": ("dy", "w", "dx"),
    "weight_grad": ("dy", "x", "dw"),
}

Arrays = tuple[np.ndarray, ...]


class Operand(NamedTuple):
    """An array that is passed, or returned."""

    name: str
    shape: tuple[int, ...]
    batch_shape: tuple[int, ...]  # the same with the batch extent, where the caller passes none
    is_images: bool
    dtype: np.dtype


@dataclass(frozen=True)
class Call:
    """What a call of a plan takes and returns."""

    operands: tuple[Operand, ...]
    result: Operand

    @cached_property
    def without_filters(self) -> Call:
        """The call of a plan whose filters are packed."""
        return Call(tuple(o for o in self.operands if o.name != "w"), self.result)

    def fits(self, arrays: Arrays, out: np.ndarray | None, slices: bool) -> bool:
        """Return whether kernels can take the arrays as they are: the usual case, quickly checked.

        Images may be some channels of larger ones where kernels take `slices`.
        """
        if len(arrays) != len(self.operands):
            return False
        given, expected = arrays, self.operands
        if out is not None:
            given, expected = (*arrays, out), (*self.operands, self.result)
        for array, (_, shape, _, is_images, dtype) in zip(given, expected, strict=True):
            if type(array) is not np.ndarray or array.shape != shape or array.dtype != dtype:
                return False
            flags = array.flags
            plain = flags.c_contiguous and flags.aligned and flags.writeable
            if not plain and not (is_images and slices and are_slices(array)):
                return False
        return out is None or not any(np.may_share_memory(out, array) for array in arrays)

    def copied(self, arrays: tuple[Any, ...], out: Any, add: bool) -> tuple[Arrays, np.ndarray]:
        """Check everything, and return arrays that kernels can take, and one for the result.

        They are the same memory where that is possible, else copies.
        """
        if len(arrays) != len(self.operands):
            raise TypeError(
                f"plan: got {len(arrays)} arrays, expected {len(self.operands)}: "
                + ", ".join(operand.name for operand in self.operands)
            )
        for array, operand in zip(arrays, self.operands, strict=True):
            self.check(operand, array)
        if out is not None:
            self._check_out(out, arrays)
        plain = tuple(
            contiguous(array, operand.name)
            for array, operand in zip(arrays, self.operands, strict=True)
        )
        if out is not None and out.flags.c_contiguous and out.flags.aligned:
            return plain, np.asarray(out)
        result = np.empty(self.result.shape, self.result.dtype)
        if add:
            result[...] = out
        return plain, result

    @staticmethod
    def check(operand: Operand, array: Any, name: str | None = None) -> None:
        """Raise TypeError or ValueError for an array that is not of the shape and the dtype."""
        name = name or operand.name
        plain_array(array, name)
        if array.dtype != operand.dtype:
            raise TypeError(f"{name}: got dtype {array.dtype}, expected {operand.dtype}")
        if array.shape != operand.shape:
            raise ValueError(f"{name}: got shape {array.shape}, expected {operand.shape}")

    def _check_out(self, out: Any, arrays: tuple[Any, ...]) -> None:
        self.check(self.result, out, "out")
        if not out.flags.writeable:
            raise ValueError("out: got a read-only array, expected a writable one")
        steps = zip(out.shape, out.strides, strict=True)
        if out.size and any(step == 0 and extent > 1 for extent, step in steps):
            raise ValueError("out: got elements that share memory, expected one cell for each")
        for array, operand in zip(arrays, self.operands, strict=True):
            # The bounds first: the exact question can be expensive.
            if np.may_share_memory(out, array) and overlap(out, array):
                raise ValueError(f"out: got memory of {operand.name}, expected memory of its own")


def make_call(problem: ConvProblem, op: Op, bias: bool, single: bool) -> Call:
    """Return the call of a pass; with `single`, images have no batch extent.

    What is not images is float32 where images are bits of bf16.
    """
    rest = FLOAT32 if problem.has_bits else problem.dtype
    shapes = {"x": problem.x_shape, "w": problem.w_shape, "y": problem.y_shape}

    def operand(name: str) -> Operand:
        shape, is_images = shapes[name[-1]], name[-1] != "w"
        own = shape[1:] if single and is_images else shape
        return Operand(name, own, shape, is_images, problem.dtype if is_images else rest)

    *operands, result = map(operand, NAMES[op])
    if bias:
        operands.append(Operand("bias", (problem.K,), (problem.K,), False, rest))
    return Call(tuple(operands), result)
