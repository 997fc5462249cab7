"""Layers: the modules that compute, and what each of them can do."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv.codegen.activation import Activation
from lowerconv.nn.execution_order import ExecutionOrder
from lowerconv.nn.frame import Frame
from lowerconv.nn.graph import Node, Value
from lowerconv.nn.module import Module, Shape
from lowerconv.nn.step import Step


def always(self: Layer, frame: Frame) -> bool:
    """Return True: for `Layer.is_capturable` and `Layer.takes_half`."""
    return True


class Layer(Module):
    """A module that computes: one node of the graph.

    What a layer computes with is in a `Frame`, one for each place where it is applied.

    Attributes
    ----------
    keeps_x, keeps_y : bool
        Whether `differentiate` reads what the layer was given, or what it returned.
    in_place : bool
        Whether the result may be written over the first operand, where nobody reads that any more,
        and the gradient of the operand over that of the result.
    is_view : bool
        Whether the result is the first operand in another shape.
    passes_gradients : bool
        Whether operands and parameters get gradients at all.
    takes_relu, takes_activation, takes_residual : bool
        Whether the layer can apply a ReLU that follows it, or an activation of any kind, and before
        that add another value.
    packs_weight : bool
        Whether `prepare`, where parameters never change, reads ``weight.whole`` and
        ``freeze.taken(bias)``, and afterwards nobody reads ``weight.data``.
    is_sum, is_concatenation : bool
        Whether the layer adds two values, or sets values side by side: graphs make it part of its
        neighbours.
    execution_order : ExecutionOrder
        When the layer computes among the others.
    result_dtype : dtype or None
        Of the result, where that is not the first operand's.
    """

    keeps_x = False
    keeps_y = False
    in_place = False
    is_view = False
    passes_gradients = True
    takes_relu = False
    takes_activation = False
    takes_residual = False
    packs_weight = False
    is_sum = False
    is_concatenation = False
    execution_order = ExecutionOrder.IN_ORDER
    result_dtype: np.dtype | None = None

    @property
    def activation(self) -> Activation | None:
        """What the layer does, where that is a function of each item."""
        return None

    def forward(self, *values: Value) -> Value:
        """Record the layer.

        Parameters
        ----------
        *values : Value
            The operands.

        Returns
        -------
        Value

        Raises
        ------
        TypeError, ValueError
            An operand is no value, or has a shape that does not fit.
        """
        for i, value in enumerate(values):
            if not isinstance(value, Value):
                name = f"values[{i}]" if len(values) > 1 else "x"
                raise TypeError(f"{name}: got {type(value).__name__}, expected a numpy array")
        shapes = tuple(value.extents for value in values)
        dtype = values[0].dtype if self.result_dtype is None else self.result_dtype
        return Node(self, values, self.result_shape(*shapes), dtype).result

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return the shape of the result, by default that of the first operand.

        Parameters
        ----------
        *shapes : tuple of int
            Of the operands.

        Returns
        -------
        tuple of int

        Raises
        ------
        ValueError
            The operands do not fit.
        """
        return shapes[0]

    def fitted(self, *shapes: Shape) -> Layer:
        """Return the layer for operands of other shapes than it was recorded with.

        Parameters
        ----------
        *shapes : tuple of int

        Returns
        -------
        Layer
            The layer itself, unless it was made for extents.
        """
        return self

    def as_constant(self) -> Layer:
        """Return a layer that does the same while its parameters stay as they are.

        Returns
        -------
        Layer
        """
        return self

    def absorbs(self, following: Layer) -> Layer | None:
        """Return a layer that does what this one and then another do at inference.

        Parameters
        ----------
        following : Layer

        Returns
        -------
        Layer or None
            None where there is no such layer.
        """
        return None

    def scale_and_shift(self, channels: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return by what each channel is multiplied, and what is added to it, at inference.

        Parameters
        ----------
        channels : int
            C of the operand.

        Returns
        -------
        (scale, shift) or None
            Of (C,); None for a layer that does anything else.
        """
        return None

    def scale_and_shift_items(self, shape: Shape) -> tuple[np.ndarray, np.ndarray] | None:
        """Return by what each item of the last axes is multiplied, and what is added to it.

        Parameters
        ----------
        shape : tuple of int
            Of these axes.

        Returns
        -------
        (scale, shift) or None
            1-D; None for a layer that does anything else.
        """
        return None

    def saved(self, *shapes: Shape) -> dict[str, tuple[Shape, Any]]:
        """Return which arrays the layer keeps from a forward step to the backward step.

        Parameters
        ----------
        *shapes : tuple of int
            Of the operands.

        Returns
        -------
        dict
            Name to (shape, dtype).
        """
        return {}

    def flops(self, *shapes: Shape) -> int:
        """Return the additions and multiplications of a forward step: those of products alone.

        Parameters
        ----------
        *shapes : tuple of int
            Of the operands.

        Returns
        -------
        int
        """
        return 0

    def prepare(self, frame: Frame) -> None:
        """Decide once how to compute a frame: kernels, plans, scratch memory.

        Parameters
        ----------
        frame : Frame
        """

    def compute(self, frame: Frame, step: Step) -> None:
        """Compute forward: write ``frame.y``.

        Parameters
        ----------
        frame : Frame
        step : Step
        """
        raise NotImplementedError

    def is_capturable(self, frame: Frame) -> bool:
        """Return whether `compute`, at inference, does nothing but launch kernels.

        They work on arrays that the frame or the layer keeps. From the third inference on `compute`
        is not called: what NumPy computes in it, a temporary array that a kernel reads, or a number
        taken from `step` would be lost.

        Parameters
        ----------
        frame : Frame
            Of a program whose parameters never change.

        Returns
        -------
        bool
        """
        return False

    def takes_half(self, frame: Frame) -> bool:
        """Return whether `compute` and `differentiate` take a frame with tensors of 16 bits.

        Parameters
        ----------
        frame : Frame
            With tensors as they are stored: some, or all, are `HalfTensor`.

        Returns
        -------
        bool
            False: they are converted to float32 before, and results after.
        """
        return False

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Set the gradients of the parameters, and write or add to ``frame.dxs``.

        ``frame.adds`` tells for each operand whether to add; a gradient that is None is not wanted.
        ``frame.dy`` is complete, and no other layer reads it: it may be changed.
        ``frame.dresidual`` is written before ``frame.dxs``, and these in their order.

        Parameters
        ----------
        frame : Frame
        step : Step
        """
        raise NotImplementedError

    def differentiate_weights(self, frame: Frame, step: Step) -> None:
        """Set the gradients that `differentiate` leaves with ``WEIGHT_GRADIENTS_LATER``.

        Parameters
        ----------
        frame : Frame
        step : Step
        """


Layer._reserved = frozenset(dir(Layer()))
