"""Layers that know float32 alone, between others that store 16 bits: converted before and after.

::

    operands  16 bits -> scratch, float32 -> layer -> scratch, float32 -> 16 bits  result

One layer computes at a time, so that all of a network have one piece of scratch memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from lowerconv.codegen.isa import LINE
from lowerconv.copying import not_copied
from lowerconv.nn.execution_order import ExecutionOrder
from lowerconv.nn.frame import Frame, HalfTensor, Tensor
from lowerconv.nn.moving import move
from lowerconv.nn.step import Step

if TYPE_CHECKING:
    from lowerconv.nn.layer import Layer


def definer(kind: type, name: str) -> type:
    """Return the class that a method of another is of."""
    return next(base for base in kind.__mro__ if name in vars(base))


def takes_half_tensors(layer: Layer, frame: Frame) -> bool:
    """Return whether a layer says so of its methods, and not of those of a class it is made of."""
    kind = type(layer)
    said = definer(kind, "takes_half")
    written = all(issubclass(said, definer(kind, name)) for name in ("compute", "differentiate"))
    return written and layer.takes_half(frame)


@not_copied("copy the network, which plans anew")
class Conversions:
    """What is converted around a layer.

    Parameters
    ----------
    stored : Frame
        With tensors as they are stored.

    Attributes
    ----------
    frame : Frame
        The one that the layer computes with.
    """

    def __init__(self, stored: Frame) -> None:
        self._stored = stored
        self._scratch: list[tuple[Tensor, int]] = []
        given: dict[int, Tensor] = {}

        def operand(tensor: Tensor) -> Tensor:
            if id(tensor) not in given:
                given[id(tensor)] = self._wide(tensor)
            return given[id(tensor)]

        self._nbytes = 0
        xs, y = tuple(map(operand, stored.xs)), self._wide(stored.y)
        self.frame = frame = Frame(stored.name, stored.dtype, xs, y)
        frame.conversions = self
        frame.activation = stored.activation
        frame.training, frame.constant = stored.training, stored.constant
        frame.node_number = stored.node_number
        frame.filters, frame.plans = stored.filters, stored.plans
        frame.residual = operand(stored.residual) if stored.residual else None
        if stored.dy is not None:
            self._differentiable()
        frame.scratch_bytes = self._nbytes

    def _differentiable(self) -> None:
        stored, frame = self._stored, self.frame
        assert stored.dy is not None
        frame.dy = self._wide(stored.dy)
        frame.dxs = tuple(dx and self._wide(dx) for dx in stored.dxs)
        frame.dresidual = stored.dresidual and self._wide(stored.dresidual)
        # What is written in float32 at once is added there; the rest when it is converted.
        frame.adds = tuple(
            adds and dx is wide
            for adds, dx, wide in zip(stored.adds, stored.dxs, frame.dxs, strict=True)
        )
        frame.add_residual = stored.add_residual and frame.dresidual is stored.dresidual

    def _wide(self, tensor: Tensor) -> Tensor:
        """Return a tensor of float32 in scratch memory, or the tensor itself if it is one."""
        if not isinstance(tensor, HalfTensor):
            return tensor
        wide = Tensor(tensor.shape, np.dtype(np.float32))
        self._scratch.append((wide, self._nbytes))
        self._nbytes += -(-wide.span * wide.dtype.itemsize // LINE) * LINE
        return wide

    def place(self, memory: np.ndarray) -> None:
        """Lie at the beginning of `memory`, bytes."""
        for tensor, offset in self._scratch:
            tensor.place(memory[offset:])

    @staticmethod
    def _move(pairs: Iterable[tuple[Tensor | None, Tensor | None]]) -> None:
        """Convert each of the first ones to the other, where they are two."""
        seen = set()
        for source, target in pairs:
            if source is not None and target is not None and source is not target:
                if id(target) not in seen:
                    move(source, target, False)
                seen.add(id(target))

    def before_compute(self) -> None:
        """Convert the operands."""
        stored, frame = self._stored, self.frame
        operands = *stored.xs, stored.residual
        self._move(zip(operands, (*frame.xs, frame.residual), strict=True))

    def after_compute(self) -> None:
        """Convert the result."""
        self._move([(self.frame.y, self._stored.y)])

    def before_differentiate(self, layer: Layer) -> None:
        """Convert what the layer reads."""
        stored, frame = self._stored, self.frame
        if layer.keeps_x:
            self._move(zip(stored.xs, frame.xs, strict=True))
        if layer.keeps_y or stored.relu:
            self._move([(stored.y, frame.y)])
        self._move([(stored.dy, frame.dy)])

    def after_differentiate(self, layer: Layer) -> None:
        """Convert the gradients, or add them."""
        stored, frame = self._stored, self.frame
        if layer.execution_order is ExecutionOrder.WEIGHT_GRADIENTS_LATER:
            self._move([(frame.dy, stored.dy)])  # as the layer has left it
        wides, targets = (frame.dresidual, *frame.dxs), (stored.dresidual, *stored.dxs)
        adding = stored.add_residual, *stored.adds
        for wide, target, adds in zip(wides, targets, adding, strict=True):
            if wide is not None and target is not None and wide is not target:
                move(wide, target, adds)

    def before_weights(self) -> None:
        """Convert what gradients of weights are made of, which another layer has overwritten."""
        stored, frame = self._stored, self.frame
        self._move(zip((*stored.xs, stored.dy), (*frame.xs, frame.dy), strict=True))


def compute(layer: Layer, frame: Frame, step: Step) -> None:
    """Have a layer compute forward."""
    if frame.conversions is None:
        layer.compute(frame, step)
        return
    frame.conversions.before_compute()
    layer.compute(frame, step)
    frame.conversions.after_compute()


def differentiate(layer: Layer, frame: Frame, step: Step) -> None:
    """Have a layer compute its gradients."""
    if frame.conversions is None:
        layer.differentiate(frame, step)
        return
    frame.conversions.before_differentiate(layer)
    layer.differentiate(frame, step)
    frame.conversions.after_differentiate(layer)


def differentiate_weights(layer: Layer, frame: Frame, step: Step) -> None:
    """Have a layer compute the gradients that it has left for later."""
    if frame.conversions is not None:
        frame.conversions.before_weights()
    layer.differentiate_weights(frame, step)
