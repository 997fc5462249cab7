"""Sums, products and quotients of two values, or of a value and constants, with broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from lowerconv.nn.computed import summed_to
from lowerconv.nn.frame import Frame, Tensor
from lowerconv.nn.graph import Node, Value
from lowerconv.nn.layer import Layer
from lowerconv.nn.module import Shape
from lowerconv.nn.step import Step
from lowerconv.ops import arithmetic as kernels
from lowerconv.ops.arithmetic import combine
from lowerconv.runtime.threads import run


def _prelu(x: np.ndarray, slope: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return ``x * slope`` where `x` is negative, else `x`."""
    y = np.where(x < 0, x * slope, x)
    if out is None:
        return y
    out[...] = y
    return out


_NUMPY: dict[str, Callable[..., np.ndarray]] = {
    "prelu": _prelu,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "min": np.minimum,
    "max": np.maximum,
    "pow": np.power,
}
_KINDS: dict[str, tuple[int, int | None]] = {
    "prelu": (kernels.PRELU, None),
    "add": (kernels.ADD, kernels.ADD),
    "sub": (kernels.SUB, kernels.REVERSED_SUB),
    "mul": (kernels.MUL, kernels.MUL),
    "div": (kernels.DIV, kernels.REVERSED_DIV),
    "min": (kernels.MIN, kernels.MIN),
    "max": (kernels.MAX, kernels.MAX),
}


class Arithmetic(Layer):
    """``a + b``, ``a - b``, ``a * b``, ``a / b``, ``a ** b``, the lesser or the greater.

    Parameters
    ----------
    operation : str
        "add", "sub", "mul", "div", "pow", "min", "max", or "prelu": ``a * b`` where `a` is
        negative, else `a`.
    constant : ndarray, optional
        One of the operands, of the dtype of the other; the layer has one operand then.
    first : bool
        Whether the constant is the first operand.
    """

    keeps_x = True

    def __init__(
        self, operation: str, constant: np.ndarray | None = None, first: bool = False
    ) -> None:
        super().__init__()
        if operation not in _NUMPY:
            raise ValueError(f"operation: got {operation!r}, expected one of {sorted(_NUMPY)}")
        self.operation, self.constant, self.first = operation, constant, first
        self.in_place = False

    def __repr__(self) -> str:
        return self.operation

    def forward(self, *values: Value) -> Value:
        """Record the layer."""
        shape = self.result_shape(*(value.extents for value in values))
        dtype = np.result_type(*(value.dtype for value in values), *self._constants())
        if dtype.kind in "iu" and self.operation == "div":
            raise TypeError(f"div: got operands of {dtype}, expected floating-point numbers")
        made = Node(self, values, shape, dtype).result
        self.in_place = made.has_shape_of(values[0]) and dtype == values[0].dtype
        return made

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return the shape to which the operands are broadcast."""
        return np.broadcast_shapes(*shapes, *(c.shape for c in self._constants()))

    def _constants(self) -> tuple[np.ndarray, ...]:
        return () if self.constant is None else (self.constant,)

    def scale_and_shift(self, channels: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the factor and the summand where the constant is one number for each channel."""
        constant = self.constant
        if constant is None:
            return None
        if constant.ndim < 3 or constant.shape[-3] != constant.size or constant.size != channels:
            return None
        return self._linear(constant)

    def scale_and_shift_items(self, shape: Shape) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the factors and the summands where the constant has one for each item."""
        constant = self.constant
        if constant is None or constant.shape[max(0, constant.ndim - len(shape)) :] != shape:
            return None
        return self._linear(constant) if constant.size == prod(shape) else None

    def _linear(self, constant: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Return factors and summands of an operation that is linear."""
        number, one = constant.reshape(-1).astype(np.float64), np.ones(constant.size)
        if self.operation == "mul":
            return number, 0 * one
        if self.operation == "div":
            return None if self.first else (1 / number, 0 * one)
        if self.operation == "sub":
            return (-one, number) if self.first else (one, -number)
        return (one, number) if self.operation == "add" else None

    def prepare(self, frame: Frame) -> None:
        """Find out which operand the other is combined with, and how that is broadcast."""
        tensors = list(frame.xs)
        if self.constant is not None:
            fixed = Tensor(self.constant.shape, self.constant.dtype)
            fixed.place(np.ascontiguousarray(self.constant).reshape(-1))
            tensors.insert(0 if self.first else 1, fixed)
        frame.prepared["operands"] = tensors
        frame.prepared["plan"] = None
        if self.operation not in _KINDS or any(t.dtype != frame.y.dtype for t in tensors):
            return
        if frame.y.dtype.kind != "f":
            return
        for swapped in (False, True):
            whole, other = tensors[::-1] if swapped else tensors
            split = _split(other.shape, frame.y.shape) if whole.shape == frame.y.shape else None
            kind = _KINDS[self.operation][swapped]
            # The kernel may write an item of the result before it reads that of the other.
            covered = other is frame.xs[0] and frame.views[0]
            if split is not None and kind is not None and not covered:
                frame.prepared["plan"] = (whole, other, kind, *split)
                return

    def compute(self, frame: Frame, step: Step) -> None:
        """Combine the operands."""
        y = frame.y
        if frame.prepared["plan"] is None:
            a, b = (t.array for t in frame.prepared["operands"])
            with np.errstate(all="ignore"):
                _NUMPY[self.operation](a, b, out=y.array)
            return
        whole, other, kind, planes, numbers = frame.prepared["plan"]
        repeated = len(other.shape) < len(y.shape) or other.N == 1
        b = other.flat, 0 if repeated else other.image_step
        run(combine, whole.images, b, y.images, planes, kind, numbers)

    def is_capturable(self, frame: Frame) -> bool:
        """Return whether `compute` only launches kernels, and leaves nothing to NumPy."""
        return frame.prepared["plan"] is not None

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Give each operand its part of the gradient."""
        dy = frame.gradient.array
        a, b = (t.array for t in frame.prepared["operands"])
        learnt = [0, 1]
        if self.constant is not None:
            learnt.remove(0 if self.first else 1)
        with np.errstate(all="ignore"):
            # All before any is written: that of the first operand may lie where dy does.
            parts = [
                None if dx is None else summed_to(self._part(which, dy, a, b), dx.shape)
                for which, dx in zip(learnt, frame.dxs, strict=True)
            ]
            for part, dx, adds in zip(parts, frame.dxs, frame.adds, strict=True):
                if dx is None or part is None:
                    continue
                if adds:
                    dx.array[...] += part
                else:
                    dx.array[...] = part

    def _part(self, which: int, dy: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the gradient of an operand before it is summed over what it was repeated."""
        operation = self.operation
        if operation == "prelu":
            return np.where(a < 0, dy * a, 0) if which else np.where(a < 0, dy * b, dy)
        if operation == "add":
            return dy
        if operation == "sub":
            return -dy if which else dy
        if operation == "mul":
            return dy * (a if which else b)
        if operation == "div":
            return -dy * a / (b * b) if which else dy / b
        if operation == "pow":
            return dy * np.log(a) * a**b if which else dy * b * a ** (b - 1)
        mine, others = (b, a) if which else (a, b)
        wins = mine < others if operation == "min" else mine > others
        return dy * (wins + 0.5 * (mine == others)).astype(dy.dtype)


def _split(shape: Shape, whole: Shape) -> tuple[int, bool] | None:
    """Return how a whole falls into planes with one number each of another shape, if it does.

    Returns
    -------
    (planes, numbers) or None
        Planes of an image; whether the other has one number for each of them, or all items.
    """
    shape = (1,) * (len(whole) - len(shape)) + shape
    if not whole or any(n == 0 for n in whole):
        return None
    if shape[0] not in (1, whole[0]):
        return None
    inner = shape[1:]
    if inner == whole[1:]:
        return 1, False
    axes = len(inner)
    while axes and inner[axes - 1] == 1:
        axes -= 1
    if inner[:axes] == whole[1 : 1 + axes]:
        return prod(inner[:axes]), True
    return None
