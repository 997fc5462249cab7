"""Layers that normalise along axes: layer, group and instance norm, and softmax."""

from __future__ import annotations

from copy import copy
from math import prod
from typing import Any

import numpy as np

from lowerconv.nn.attributes import Parameter
from lowerconv.nn.frame import Frame, Tensor
from lowerconv.nn.layer import Layer
from lowerconv.nn.module import Shape
from lowerconv.nn.step import Step
from lowerconv.ops.normalise import COLUMNS, normalise, normalise_grad
from lowerconv.ops.softmax import softmax, softmax_grad
from lowerconv.runtime.threads import run

PARTS = 64  # that the gradients of scale and shift are sums of, at most
PART_ITEMS = 1 << 20  # of all of them together, at most


def _sizes(shape: Shape, axes: tuple[int, ...]) -> tuple[int, int, int]:
    """Return a shape as (outer, middle, inner), the axes being the middle."""
    first, last = axes[0], axes[-1] + 1
    return prod(shape[:first]), prod(shape[first:last]), prod(shape[last:])


def _flat(tensor: Tensor) -> np.ndarray:
    """Return the items of a tensor: its memory, or a copy where there are others in between."""
    return tensor.flat if tensor.whole else np.ascontiguousarray(tensor.array).reshape(-1)


def _put(made: np.ndarray, tensor: Tensor, adds: bool) -> None:
    """Write or add items that are not in the memory of their tensor."""
    if made is tensor.flat:
        return
    if adds:
        tensor.array[...] += made.reshape(tensor.shape)
    else:
        tensor.array[...] = made.reshape(tensor.shape)


def _room(tensor: Tensor) -> np.ndarray:
    return tensor.flat if tensor.whole else np.empty(prod(tensor.shape), tensor.dtype)


class Normalise(Layer):
    """Items less their mean over axes, over their standard deviation; then scaled and shifted.

    Parameters
    ----------
    axes : tuple of int
        That follow each other.
    eps : float
        Added to the variance.
    period : int
        Scale and shift are repeated every `period` sets of items; in a set each of their items is
        for a run of neighbours, all runs of the same length.

    Attributes
    ----------
    weight, bias : Parameter or None
        Scale and shift, 1-D.
    features : tuple of int or None
        The extents of the axes where these are the last ones, and known.
    dtype : dtype
        Of the operand, where that is known.
    """

    keeps_x = True
    features: Shape | None = None
    dtype = np.dtype(np.float32)

    def __init__(self, axes: tuple[int, ...], eps: float, period: int = 1) -> None:
        super().__init__()
        self.axes, self.eps, self.period = axes, float(eps), period
        self.weight: Parameter | None = None
        self.bias: Parameter | None = None

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return the shape of the operand."""
        (shape,) = shapes
        middle = _sizes(shape, self.axes)[1]
        for name, parameter in self.own_parameters().items():
            items = parameter.data.size
            if not items or (self.period * middle) % items or items % self.period:
                raise ValueError(
                    f"{name}: got {items} items, expected a divisor of {self.period * middle}"
                )
        return shape

    def absorbs(self, following: Layer) -> Layer | None:
        """Return a layer that does this one and then scales and shifts each item of the axes."""
        if self.features is None or self.period != 1:
            return None
        found = following.scale_and_shift_items(self.features)
        items = prod(self.features)
        if found is None or any(p.data.size != items for p in self.own_parameters().values()):
            return None
        scale, shift = found
        weight = np.ones(items) if self.weight is None else self.weight.data
        bias = np.zeros(items) if self.bias is None else self.bias.data
        both = copy(self)
        both.weight = Parameter((weight * scale).astype(self.dtype))
        both.bias = Parameter((bias * scale + shift).astype(self.dtype))
        return both

    def saved(self, *shapes: Shape) -> dict[str, tuple[Shape, Any]]:
        """Return the statistics."""
        outer, _, inner = _sizes(shapes[0], self.axes)
        kind = np.dtype(np.float64)
        return {"mean": ((outer * inner,), kind), "inv_std": ((outer * inner,), kind)}

    def prepare(self, frame: Frame) -> None:
        """Decide how arrays are cut."""
        sizes = frame.prepared["sizes"] = _sizes(frame.x.shape, self.axes)
        nothing = np.zeros(0, frame.dtype)
        frame.prepared["none"] = (nothing, nothing, 1, max(1, sizes[1]))
        if frame.constant:
            frame.prepared["affine"] = self._affine(frame)
            frame.prepared["statistics"] = tuple(np.empty(sizes[0] * sizes[2]) for _ in range(2))

    def is_capturable(self, frame: Frame) -> bool:
        """Return whether `compute` only launches kernels, and copies nothing."""
        return frame.constant and frame.x.whole and frame.y.whole

    def _affine(self, frame: Frame) -> tuple[Any, ...]:
        weight, bias = self.weight, self.bias
        if "affine" in frame.prepared:
            kept: tuple[Any, ...] = frame.prepared["affine"]
            return kept
        if weight is None and bias is None:
            none: tuple[Any, ...] = frame.prepared["none"]
            return none
        items = (weight or bias).data.size  # type: ignore[union-attr]
        run_of = self.period * frame.prepared["sizes"][1] // items
        scale = np.ones(items, frame.dtype) if weight is None else weight.data
        shift = np.zeros(items, frame.dtype) if bias is None else bias.data
        return scale, shift, self.period, max(1, run_of)

    def compute(self, frame: Frame, step: Step) -> None:
        """Normalise."""
        sizes, saved, y = frame.prepared["sizes"], frame.saved, _room(frame.y)
        statistics: Any = (saved["mean"], saved["inv_std"]) if saved else None
        statistics = statistics or frame.prepared.get("statistics")
        if statistics is None:
            statistics = tuple(np.empty(sizes[0] * sizes[2]) for _ in range(2))
        run(normalise, _flat(frame.x), y, sizes, statistics, self._affine(frame), self.eps)
        _put(y, frame.y, False)

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Compute the gradients of scale, shift and operand."""
        sizes, affine, dx = frame.prepared["sizes"], self._affine(frame), frame.dx
        items = affine[0].size
        parts = max(
            1, min(sizes[0] * -(-sizes[2] // COLUMNS), PARTS, PART_ITEMS // max(1, 2 * items))
        )
        sums = np.zeros((parts, 2, items))
        target = np.empty(0, frame.dtype) if dx is None else _room(dx)
        adds = dx is not None and frame.adds[0] and target is dx.flat
        arrays = _flat(frame.x), _flat(frame.gradient), target
        statistics = frame.saved["mean"], frame.saved["inv_std"]
        run(normalise_grad, arrays, sizes, statistics, affine, sums, (dx is not None, adds))
        for parameter, total in zip((self.weight, self.bias), sums.sum(axis=0), strict=True):
            if parameter is not None:
                parameter.grad[...] = total
        if dx is not None:
            _put(target, dx, frame.adds[0])


class Softmax(Layer):
    """Exponentials over their sum along an axis, or the logarithm of that.

    Parameters
    ----------
    axis : int
    log : bool
    """

    keeps_y = True

    def __init__(self, axis: int, log: bool = False) -> None:
        super().__init__()
        self.axis, self.log = axis, log

    def prepare(self, frame: Frame) -> None:
        """Decide how arrays are cut."""
        frame.prepared["sizes"] = _sizes(frame.x.shape, (self.axis,))

    def compute(self, frame: Frame, step: Step) -> None:
        """Compute the softmax."""
        y = _room(frame.y)
        run(softmax, _flat(frame.x), y, frame.prepared["sizes"], self.log)
        _put(y, frame.y, False)

    def is_capturable(self, frame: Frame) -> bool:
        """Return whether `compute` only launches kernels, and copies nothing."""
        return frame.x.whole and frame.y.whole

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Compute the gradient of the operand."""
        dx = frame.dx
        if dx is None:
            return
        target = _room(dx)
        adds = frame.adds[0] and target is dx.flat
        arrays = _flat(frame.y), _flat(frame.gradient), target
        run(softmax_grad, *arrays, frame.prepared["sizes"], self.log, adds)
        _put(target, dx, frame.adds[0])
