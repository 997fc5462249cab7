"""Layers that have a part of the channels or features, and of the weights that belong to it.

Each is made of a layer, which keeps nothing but the shapes of its arrays.
"""

from __future__ import annotations

import copy
from typing import NamedTuple, TypeVar

import numpy as np

from lowerconv.nn.activation import Dropout
from lowerconv.nn.combine import mask
from lowerconv.nn.conv import Conv2d
from lowerconv.nn.execution_order import ExecutionOrder
from lowerconv.nn.frame import Frame
from lowerconv.nn.layer import Layer
from lowerconv.nn.linear import Linear
from lowerconv.nn.module import Parameter, Shape
from lowerconv.nn.moving import move
from lowerconv.nn.norm import BatchNorm2d
from lowerconv.nn.step import Step
from lowerconv.ops.elementwise import relu
from lowerconv.parallel.sharding.layout import Layout
from lowerconv.runtime.threads import run

L = TypeVar("L", bound=Layer)


class Sharding(NamedTuple):
    """How an array is divided: along which axis, and what of that each rank has."""

    axis: int
    layout: Layout

    def shard(self, whole: np.ndarray, rank: int, ranks: int) -> np.ndarray:
        """Return a rank's shard of an array, contiguous memory of its own."""
        return np.ascontiguousarray(whole.take(self.layout.index(rank, ranks), self.axis))

    def shape(self, shard: Shape) -> Shape:
        """Return the shape of the whole that a shard is of."""
        return (*shard[: self.axis], self.layout.items, *shard[self.axis + 1 :])


class Shard(NamedTuple):
    """Layers in place of one, and how the arrays of that are divided among them.

    Attributes
    ----------
    layers : tuple of Layer
    shardings : dict of str to Sharding
        By the name of the parameter or buffer; what all ranks have is not in it.
    """

    layers: tuple[Layer, ...]
    shardings: dict[str, Sharding]


def split_outputs(layer: Conv2d | Linear, rank: int, ranks: int) -> Shard:
    """Return some of the filters of a convolution, or of the rows of a fully connected layer."""
    rows = Sharding(0, Layout.of(layer.weight.data.shape[0]))
    shard = copy.copy(layer)
    shard.weight = Parameter(rows.shard(layer.weight.data, rank, ranks))
    shard.bias = Parameter(rows.shard(layer.bias.data, rank, ranks)) if layer.bias else None
    # Others wait for the gradient of the operand.
    shard.execution_order = ExecutionOrder.WEIGHT_GRADIENTS_LATER
    return Shard((shard,), dict.fromkeys(layer.own_parameters(), rows))


def split_inputs(layer: Linear, layout: Layout, whole: bool, rank: int, ranks: int) -> Shard:
    """Return some of the columns of a fully connected layer, and what comes behind the sum.

    Parameters
    ----------
    layer : Linear
    layout : Layout
        Of its operand.
    whole : bool
        Whether every rank gets the whole sum; else its part of the features.
    rank, ranks : int
    """
    columns, rows = Sharding(1, layout), Sharding(0, Layout.of(layer.weight.data.shape[0]))
    shard = copy.copy(layer)
    shard.weight = Parameter(columns.shard(layer.weight.data, rank, ranks))
    shard.bias = None
    if layer.bias is None:
        return Shard((shard,), {"weight": columns})
    if whole:
        return Shard((shard, Bias(layer.bias.data.copy())), {"weight": columns})
    bias = Bias(rows.shard(layer.bias.data, rank, ranks))
    return Shard((shard, bias), {"weight": columns, "bias": rows})


def split_norm(layer: BatchNorm2d, layout: Layout, rank: int, ranks: int) -> Shard:
    """Return batch norm of some of the channels."""
    sharding = Sharding(0, layout)
    shard = copy.copy(layer)
    for name, parameter in layer.own_parameters().items():
        setattr(shard, name, Parameter(sharding.shard(parameter.data, rank, ranks)))
    for name, array in layer.own_buffers().items():
        setattr(shard, name, sharding.shard(array, rank, ranks))
    return Shard((shard,), dict.fromkeys([*layer.own_parameters(), *layer.own_buffers()], sharding))


def forget(layer: Layer) -> None:
    """Free the arrays of a layer that others have taken the place of; their shapes stay."""
    for parameter in layer.own_parameters().values():
        parameter.data = _nothing(parameter.data)
        parameter.grad = _nothing(parameter.grad)
    for name, array in layer.own_buffers().items():
        setattr(layer, name, _nothing(array))


def _nothing(array: np.ndarray) -> np.ndarray:
    """Return zeros that take no memory, and cannot be written."""
    return np.broadcast_to(np.zeros((), array.dtype), array.shape)


class Bias(Layer):
    """A number for each feature, added to it, and a ReLU where one follows.

    Parameters
    ----------
    bias : ndarray, (features,)
    """

    takes_relu = True
    in_place = True

    def __init__(self, bias: np.ndarray) -> None:
        super().__init__()
        self.bias = Parameter(bias)

    def compute(self, frame: Frame, step: Step) -> None:
        """Add."""
        y = frame.y
        np.add(frame.x.array, self.bias.data, out=y.array)
        if frame.relu:
            run(relu, y.images, y.images)

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Sum the gradient over the samples, and pass it on."""
        dy, dx = frame.gradient, frame.dx
        if frame.relu:
            mask(dy, frame.y)
        np.sum(dy.array, axis=0, out=self.bias.grad)
        if dx is not None and not (
            dx.flat.ctypes.data == dy.flat.ctypes.data and not frame.adds[0]
        ):
            move(dy, dx, frame.adds[0])


class DropoutShard(Dropout):
    """Dropout of some of the features: drops of these what dropout of all would.

    Parameters
    ----------
    p : float
    layout : Layout
        Of the channels or features.
    rank, ranks : int
    """

    def __init__(self, p: float, layout: Layout, rank: int, ranks: int) -> None:
        super().__init__(p)
        self._runs = layout.runs(rank, ranks)
        self._here, self._whole = layout.size(rank, ranks), layout.items

    def part(self, size: int) -> tuple[np.ndarray, int]:
        """Return which items of a full sample the `size` here are, and how many that has."""
        pixels = size // self._here if self._here else 1
        return self._runs * pixels, self._whole * pixels
