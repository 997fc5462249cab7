"""Where layers stand in a network that is recorded anew for each shape of its input."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lowerconv.nn.combine import View
from lowerconv.nn.module import Shape


class Place(NamedTuple):
    """Where a layer stands in a network.

    Attributes
    ----------
    name : str
        Of the layer that it was made of.
    operands : tuple of int
        Numbers of values: the input is 0, and the result of the first layer 1.
    """

    name: str
    operands: tuple[int, ...]


class Reshaped(View):
    """A view whose shape is told in part: 0 is that of the operand, -1 is what is left over.

    Parameters
    ----------
    pattern : tuple of int
    """

    def __init__(self, pattern: Shape) -> None:
        super().__init__(())
        self.pattern = pattern

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return the shape of the result."""
        (shape,) = shapes
        wanted = [shape[i] if n == 0 else n for i, n in enumerate(self.pattern)]
        return np.broadcast_to(np.empty(()), shape).reshape(wanted).shape
