"""Layers that NumPy computes: whatever moves or combines items and is seldom a network's work."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lowerconv.nn.frame import Frame
from lowerconv.nn.graph import Node, Value
from lowerconv.nn.layer import Layer
from lowerconv.nn.module import Shape
from lowerconv.nn.step import Step

Function = Callable[..., np.ndarray]


class Computed(Layer):
    """A function of arrays.

    Parameters
    ----------
    name : str
        For people.
    function : callable
        Given the operands as arrays, returns the result; its shape and dtype depend on those of
        the operands alone.
    gradient : callable, optional
        Given the gradient of the result, the result and the operands, returns the gradient of each
        operand, or None for one that has none.
    trial : float
        What all operands are filled with to find out shape and dtype of the result.
    """

    keeps_x = True
    keeps_y = True
    how = "NumPy"  # or what else computes it, for people

    def __init__(
        self,
        name: str,
        function: Function,
        gradient: Callable[..., Sequence[np.ndarray | None]] | None = None,
        trial: float = 1,
    ) -> None:
        super().__init__()
        self.trial = trial
        self.name, self.function, self.gradient = name, function, gradient

    def __repr__(self) -> str:
        return self.name

    def forward(self, *values: Value) -> Value:
        """Record the layer: a trial tells shape and dtype of the result."""
        number = self.trial
        trial = [np.broadcast_to(np.full((), number, v.dtype), v.shape) for v in values]
        with np.errstate(all="ignore"):
            result = np.asarray(self.function(*trial))
        return Node(self, values, result.shape, result.dtype).result

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return the shape of the result for operands of float32."""
        return self.forward(*(Value(shape, np.dtype(np.float32)) for shape in shapes)).shape

    def compute(self, frame: Frame, step: Step) -> None:
        """Call the function."""
        with np.errstate(all="ignore"):  # as compiled loops do: infinities and NaN say enough
            frame.y.array[...] = self.function(*(x.array for x in frame.xs))

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Call the gradient's function."""
        if self.gradient is None:
            raise NotImplementedError(f"{frame.name}: {self.name} has no gradient")
        xs = [x.array for x in frame.xs]
        with np.errstate(all="ignore"):
            gradients = self.gradient(frame.gradient.array, frame.y.array, *xs)
        for dx, adds, gradient in zip(frame.dxs, frame.adds, gradients, strict=True):
            if dx is None:
                continue
            if gradient is None:
                gradient = np.zeros((), dx.dtype)
            if adds:
                dx.array[...] += gradient
            else:
                dx.array[...] = gradient


def summed_to(gradient: np.ndarray, shape: Shape) -> np.ndarray:
    """Return the gradient of an operand that was broadcast: summed over what it was repeated."""
    extra = gradient.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(
        extra + i for i, n in enumerate(shape) if n == 1 and gradient.shape[extra + i] != 1
    )
    return gradient.sum(axis=axes).reshape(shape) if axes else gradient
