"""Layers: the modules that compute, and what each of them can do."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv.nn.frame import Frame
from lowerconv.nn.graph import Node, Value
from lowerconv.nn.module import Module, Shape
from lowerconv.nn.schedule import Schedule
from lowerconv.nn.step import Step


class Layer(Module):
    """A module that computes: one node of the graph.

    What a layer computes with is in a `Frame`, one for each place where it is applied.

    Attributes
    ----------
    keeps_x, keeps_y : bool
        Whether `differentiate` reads what the layer was given, or what it returned.
    in_place : bool
        Whether a result may be written over the first operand, and the gradient of that over the
        result's.
    is_view : bool
        Whether the result is the first operand in another shape.
    takes_relu, takes_residual : bool
        Whether the layer can apply a ReLU that follows it, and before that add another value.
    is_sum, is_relu, is_concatenation : bool
        Whether the layer adds two values, is a ReLU, or sets values side by side: graphs make it
        part of its neighbours.
    schedule : Schedule
        When the layer has its turn.
    """

    keeps_x = False
    keeps_y = False
    in_place = False
    is_view = False
    takes_relu = False
    takes_residual = False
    is_sum = False
    is_relu = False
    is_concatenation = False
    schedule = Schedule.IN_ORDER

    def forward(self, *values: Value) -> Value:
        """Record the layer."""
        for i, value in enumerate(values):
            if not isinstance(value, Value):
                name = f"values[{i}]" if len(values) > 1 else "x"
                raise TypeError(f"{name}: got {type(value).__name__}, expected a numpy array")
        shapes = tuple(value.shape for value in values)
        return Node(self, values, self.result_shape(*shapes), values[0].dtype).result

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return the shape of the result; raise ValueError where operands do not fit."""
        raise NotImplementedError

    def absorbs(self, following: Layer) -> Layer | None:
        """Return a layer that does what this one and then `following` do at inference, if any."""
        return None

    def scale_and_shift(self, channels: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the factor and the summand of each channel, if it is only that at inference."""
        return None

    def saved(self, *shapes: Shape) -> dict[str, tuple[Shape, Any]]:
        """Return shapes and dtypes of what the layer keeps from a forward to a backward step."""
        return {}

    def flops(self, *shapes: Shape) -> int:
        """Return the additions and multiplications of a forward step that count: of products."""
        return 0

    def prepare(self, frame: Frame) -> None:
        """Decide once how to compute a frame."""

    def compute(self, frame: Frame, step: Step) -> None:
        """Write ``frame.y``."""
        raise NotImplementedError

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Set the gradients of the parameters, and write or add to ``frame.dxs``.

        ``frame.dy`` is complete and nobody else's: it may be changed.  ``frame.dresidual`` comes
        before ``frame.dxs``, each of these in its turn.
        """
        raise NotImplementedError

    def differentiate_weights(self, frame: Frame, step: Step) -> None:
        """Set the gradients that `differentiate` leaves with ``WEIGHT_GRADIENTS_LATER``."""


Layer._reserved = frozenset(dir(Layer()))
