"""Elementwise layers: ReLU and dropout."""

from __future__ import annotations

import numpy as np

from lowerconv.codegen.activation import RELU, Activation
from lowerconv.nn.frame import Frame, Tensor
from lowerconv.nn.graph import Value
from lowerconv.nn.layer import Layer, always
from lowerconv.nn.moving import move, moves_compiled
from lowerconv.nn.step import Step
from lowerconv.ops.elementwise import dropout, relu_grad
from lowerconv.ops.elementwise import relu as relu_kernel
from lowerconv.runtime.threads import run


class ReLU(Layer):
    """``max(x, 0)``.

    After a convolution, a fully connected layer, batch norm or an addition it is computed there, in
    the same pass.
    """

    keeps_y = True
    in_place = True
    is_capturable = takes_half = always

    @property
    def activation(self) -> Activation:
        """The function, as layers before can apply it."""
        return RELU

    def compute(self, frame: Frame, step: Step) -> None:
        """Keep the positive part."""
        run(relu_kernel, frame.x.images, frame.y.images)

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Keep the gradient where the result was positive."""
        y, dy, dx = frame.y, frame.gradient, frame.dx
        if dx is not None:
            run(relu_grad, y.images, dy.images, dx.images, frame.adds[0])


def relu(value: Value) -> Value:
    """Return the positive part of a value, in a module's `forward`.

    Parameters
    ----------
    value : Value

    Returns
    -------
    Value
        Of the same shape.
    """
    return ReLU()(value)


class Dropout(Layer):
    """Zero a fraction of the activations in training, and scale the rest to keep their mean.

    What is dropped depends on the run's seed, the step, the place in the network and the place in
    the global batch alone: not on the number of threads or ranks.

    Parameters
    ----------
    p : float
        Fraction dropped, 0 <= p < 1.

    Raises
    ------
    ValueError
        `p` is out of that range.
    """

    in_place = True
    takes_half = always

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"p: got {p}, expected 0 <= p < 1")
        self.p = float(p)

    def compute(self, frame: Frame, step: Step) -> None:
        """Zero the dropped elements; at inference do nothing."""
        if step.training and self.p:
            self._apply(frame, step, frame.x, frame.y, False)
        elif not frame.views[0]:
            move(frame.x, frame.y, False)

    def is_capturable(self, frame: Frame) -> bool:
        """Return whether `compute` only launches kernels, at inference."""
        return frame.views[0] or moves_compiled(frame.x)

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Zero the gradients of the same elements."""
        if frame.dx is None:
            return
        if self.p:
            self._apply(frame, step, frame.gradient, frame.dx, frame.adds[0])
        elif not frame.views_gradient[0]:
            move(frame.gradient, frame.dx, frame.adds[0])

    def _apply(self, frame: Frame, step: Step, x: Tensor, y: Tensor, adding: bool) -> None:
        threshold = np.uint64(int(self.p * 2.0**64))
        scale = frame.dtype.type(1 / (1 - self.p))
        segments, full = self.part(x.size)
        part, draw = (
            (step.places(x.shape[0]), segments, full),
            (step.key(frame.node_number), threshold, scale),
        )
        run(dropout, x.images, y.images, part, draw, adding)

    def part(self, size: int) -> tuple[np.ndarray, int]:
        """Return which items of a sample are here: all of them, unless the layer is sharded.

        Parameters
        ----------
        size : int
            Items of a sample that are here.

        Returns
        -------
        segments : ndarray, (segments, 3), int64
            Runs of items as `ops.elementwise.BatchPart` has them.
        full : int
            Items of a whole sample.
        """
        return np.array([[0, 0, size]], np.int64), size
