"""Convolutions and fully connected layers that compute with rounded weights and operands."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from lowerconv.nn.codes import WeightCodes
from lowerconv.nn.conv import Conv2d
from lowerconv.nn.frame import Frame
from lowerconv.nn.graph import Value
from lowerconv.nn.layer import Layer
from lowerconv.nn.linear import Linear
from lowerconv.nn.module import Parameter
from lowerconv.nn.step import Step

Q = TypeVar("Q", bound="FakeQuantLayer")


class WeightQuantizer:
    """How a layer rounds its weights: the base of all ways, which has no steps to learn."""

    def first_steps(self, weight: np.ndarray) -> np.ndarray | None:
        """Return the steps that training begins with; None where there are none.

        Parameters
        ----------
        weight : ndarray, (K, ...)
        """
        return None

    def quantize(self, weight: np.ndarray, steps: np.ndarray | None, result: np.ndarray) -> None:
        """Write the rounded weights.

        Parameters
        ----------
        weight : ndarray, (K, ...)
        steps : ndarray or None
        result : ndarray
            As `weight`.
        """
        raise NotImplementedError

    def scales(self, rounded: np.ndarray, steps: np.ndarray | None) -> np.ndarray | None:
        """Return what rounded weights of each filter are multiples of; None where of no 8 bits.

        Parameters
        ----------
        rounded : ndarray, (K, ...)
        steps : ndarray or None

        Returns
        -------
        ndarray or None, (K,)
        """
        return None

    def differentiate(self, weight: Parameter, steps: Parameter | None) -> None:
        """Turn ``weight.grad``, that of the rounded weights, into that of the weights and steps.

        Here they are the same: straight through.

        Parameters
        ----------
        weight : Parameter
        steps : Parameter or None
        """


class FakeQuantLayer(Layer):
    """What both layers have in common.

    Attributes
    ----------
    input : Layer or None
        Rounds the operand.
    weight_quantizer : WeightQuantizer or None
    weight_step : Parameter or None
        The steps that the weights are multiples of, where these are learnt.
    """

    weight: Parameter
    bias: Parameter | None
    input: Layer | None = None
    weight_quantizer: WeightQuantizer | None = None
    weight_step: Parameter | None = None

    @classmethod
    def of_layer(
        cls: type[Q], layer: Layer, weights: WeightQuantizer | None, operand: Layer | None
    ) -> Q:
        """Return a layer that has the parameters of another, the same objects.

        Parameters
        ----------
        layer : Conv2d or Linear
        weights : WeightQuantizer or None
        operand : Layer or None
            Rounds the operand.

        Returns
        -------
        FakeQuantLayer
        """
        twin = cls.__new__(cls)
        twin.__setstate__(layer.__getstate__())
        twin.input, twin.weight_quantizer = operand, weights
        steps = None if weights is None else weights.first_steps(twin.weight.data)
        twin.weight_step = None if steps is None else Parameter(steps)
        return twin

    def initialize(self, rng: np.random.Generator) -> None:
        """Draw the weights, and begin with the steps that suit them."""
        super().initialize(rng)
        if self.weight_step is not None and self.weight_quantizer is not None:
            self.weight_step.data[...] = self.weight_quantizer.first_steps(self.weight.data)
        if self.input is not None:
            self.input.initialize(rng)

    def forward(self, *values: Value) -> Value:
        """Record the layer, after the one that rounds its operand."""
        if self.input is not None:
            values = tuple(self.input(value) for value in values)
        return super().forward(*values)

    def as_constant(self) -> Layer:
        """Return the plain layer with the rounded weights."""
        if self.weight_quantizer is None:
            return self
        bias = None if self.bias is None else self.bias.data
        rounded = np.empty_like(self.weight.data)
        self._quantize(rounded)
        plain = self._plain(rounded, bias)
        steps = None if self.weight_step is None else self.weight_step.data
        scales = self.weight_quantizer.scales(rounded, steps)
        if scales is not None and np.isfinite(scales).all() and (scales > 0).all():
            codes = rounded / scales.reshape(-1, *(1,) * (rounded.ndim - 1))
            plain.codes = WeightCodes(np.rint(codes).astype(np.int8), scales.astype(np.float32))
        return plain

    def _plain(self, weight: np.ndarray, bias: np.ndarray | None) -> Conv2d | Linear:
        raise NotImplementedError

    def _quantize(self, result: np.ndarray) -> None:
        steps = None if self.weight_step is None else self.weight_step.data
        if self.weight_quantizer is not None:
            self.weight_quantizer.quantize(self.weight.data, steps, result)

    def weights(self, frame: Frame) -> np.ndarray:
        """Return the rounded weights of the forward step."""
        if self.weight_quantizer is None:
            return self.weight.data
        rounded: np.ndarray = frame.prepared["weights"]
        return rounded

    def prepare(self, frame: Frame) -> None:
        """Take memory for the rounded weights, of the frame: other threads may compute, too."""
        if self.weight_quantizer is not None:
            frame.prepared["weights"] = np.empty_like(self.weight.data)
        super().prepare(frame)

    def compute(self, frame: Frame, step: Step) -> None:
        """Round the weights, and compute with them."""
        if self.weight_quantizer is not None:
            self._quantize(frame.prepared["weights"])
        super().compute(frame, step)

    def differentiate_weights(self, frame: Frame, step: Step) -> None:
        """Compute the gradient of the rounded weights, and from it those of weights and steps."""
        super().differentiate_weights(frame, step)
        if self.weight_quantizer is not None:
            self.weight_quantizer.differentiate(self.weight, self.weight_step)


class QuantConv2d(FakeQuantLayer, Conv2d):
    """A convolution that rounds its filters, its images or both; `prepare` makes it of another.

    See `Conv2d` for the parameters.
    """

    def _plain(self, weight: np.ndarray, bias: np.ndarray | None) -> Conv2d | Linear:
        return Conv2d.of(weight, bias, *self.geometry, algorithm=self.algorithm)


class QuantLinear(FakeQuantLayer, Linear):
    """A fully connected layer that rounds its weights, its operand or both.

    `prepare` makes it of another. See `Linear` for the parameters.
    """

    def _plain(self, weight: np.ndarray, bias: np.ndarray | None) -> Conv2d | Linear:
        return Linear.of(weight, bias)
