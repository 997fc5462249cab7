"""Layers for modules of PyTorch alone: parameters as values, batch norm by fixed statistics."""

from __future__ import annotations

import numpy as np

from lowerconv.nn.frame import Frame
from lowerconv.nn.graph import Node, Value
from lowerconv.nn.layer import Layer
from lowerconv.nn.module import Parameter, Shape
from lowerconv.nn.norm import BatchNorm2d
from lowerconv.nn.step import Step


class Learnt(Layer):
    """A parameter as a value, for operators that no layer with parameters stands for.

    Its operand is not read: every node has one.
    """

    def __init__(self, data: np.ndarray) -> None:
        super().__init__()
        self.weight = Parameter(data)

    def forward(self, *values: Value) -> Value:
        """Record the layer."""
        return Node(self, values, self.weight.data.shape, self.weight.data.dtype).result

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return the shape of the parameter."""
        return self.weight.data.shape

    def compute(self, frame: Frame, step: Step) -> None:
        """Copy the parameter."""
        frame.y.array[...] = self.weight.data

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Copy the gradient."""
        self.weight.grad[...] = frame.gradient.array
        if frame.dx is not None and not frame.adds[0]:
            frame.dx.array[...] = 0


class Detached(Layer):
    """The same items, without their gradient."""

    is_view = True
    passes_gradients = False

    def compute(self, frame: Frame, step: Step) -> None:
        """Do nothing, or copy."""
        if not frame.views[0]:
            frame.y.array[...] = frame.x.array


class FixedBatchNorm2d(BatchNorm2d):
    """Batch norm by the running statistics, in training too."""

    takes_relu = False
    takes_residual = False

    def saved(self, *shapes: Shape) -> dict[str, tuple[Shape, np.dtype]]:
        """Return nothing."""
        return {}

    def compute(self, frame: Frame, step: Step) -> None:
        """Normalise by the running statistics."""
        super().compute(frame, Step())

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Compute the gradients of scale, shift and operand."""
        wide = (-1, 1, 1)
        inv_std = 1 / np.sqrt(self.running_var.astype(np.float64) + self.eps)
        x, dy, over = frame.x.array, frame.gradient.array, (0, 2, 3)
        sums = dy.sum(axis=over, dtype=np.float64)
        products = (dy * x).sum(axis=over, dtype=np.float64)
        self.bias.grad[...] = sums
        self.weight.grad[...] = (products - sums * self.running_mean) * inv_std
        if frame.dx is not None:
            dx = dy * (self.weight.data * inv_std).astype(frame.dtype).reshape(wide)
            if frame.adds[0]:
                frame.dx.array[...] += dx
            else:
                frame.dx.array[...] = dx
