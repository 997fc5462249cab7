"""Layers that apply a function of one number to every item: sigmoid, SiLU, clip, GELU."""

from __future__ import annotations

from math import inf, prod

import numpy as np

from lowerconv.nn.frame import Frame
from lowerconv.nn.layer import Layer
from lowerconv.nn.module import Shape
from lowerconv.nn.step import Step
from lowerconv.ops.activate import Activation
from lowerconv.ops.pointwise import FUNCTIONS, pointwise, pointwise_grad
from lowerconv.runtime.threads import run

_DEFAULTS = {
    "clip": (-inf, inf),
    "leaky_relu": (0.01, 0.0),
    "hard_sigmoid": (1 / 6, 0.5),
    "silu": (1.0, 0.0),
    "elu": (1.0, 1.0),
    "softplus": (1.0, 0.0),
    "affine": (1.0, 0.0),
}


def constants(function: str, a: float | None, b: float | None) -> tuple[float, float]:
    """Return the constants of a function, where they are not given those of PyTorch's."""
    defaults = _DEFAULTS.get(function, (0.0, 0.0))
    return float(defaults[0] if a is None else a), float(defaults[1] if b is None else b)


class Pointwise(Layer):
    """A function of each item.

    Parameters
    ----------
    function : str
        One of `lowerconv.ops.pointwise.FUNCTIONS`, where the formulas are.
    a, b : float, optional
        Its constants; by default those of PyTorch's function of that name.
    """

    keeps_x = True
    in_place = True

    @property
    def activation(self) -> Activation:
        """The function, as layers before can apply it."""
        return Activation(self.function, self.a, self.b)

    def __init__(self, function: str, a: float | None = None, b: float | None = None) -> None:
        super().__init__()
        if function not in FUNCTIONS:
            raise ValueError(f"function: got {function!r}, expected one of {sorted(FUNCTIONS)}")
        self.function = function
        self.a, self.b = constants(function, a, b)

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return the shape of the operand."""
        return shapes[0]

    def scale_and_shift(self, channels: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the factor and the summand of a linear function."""
        if self.function != "affine":
            return None
        return np.full(channels, self.a), np.full(channels, self.b)

    def scale_and_shift_items(self, shape: Shape) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the factor and the summand of a linear function."""
        return self.scale_and_shift(prod(shape))

    def _constants(self, frame: Frame) -> tuple[int, float, float]:
        kind = frame.dtype.type
        return FUNCTIONS[self.function], kind(self.a), kind(self.b)

    def compute(self, frame: Frame, step: Step) -> None:
        """Apply the function."""
        run(pointwise, frame.x.images, frame.y.images, *self._constants(frame))

    def is_capturable(self, frame: Frame) -> bool:
        """Return whether `compute` only launches kernels: always."""
        return True

    def takes_half(self, frame: Frame) -> bool:
        """Return whether kernels take 16 bits: always."""
        return True

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Multiply the gradient with the derivative."""
        dy, dx = frame.gradient, frame.dx
        if dx is not None:
            kind, *constants = self._constants(frame)
            images = frame.x.images, dy.images, dx.images
            run(pointwise_grad, *images, kind, tuple(constants), frame.adds[0])
