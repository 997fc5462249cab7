"""Weights and activations that are multiples of a step, which is learnt.

Esser, McKinstry, Bablani, Appuswamy, Modha, "Learned step size quantization" (2020).
"""

from __future__ import annotations

from math import sqrt

import numpy as np

from lowerconv.codegen.activation import RELU
from lowerconv.nn.activation import Dropout
from lowerconv.nn.frame import Frame
from lowerconv.nn.graph import Value
from lowerconv.nn.layer import Layer
from lowerconv.nn.module import Parameter
from lowerconv.nn.pooling import AvgPool2d, GlobalAvgPool2d, MaxPool2d
from lowerconv.nn.step import Step
from lowerconv.ops.learned_step import (
    levels,
    quantize,
    quantize_grad,
    quantize_rows,
    quantize_rows_grad,
)
from lowerconv.quant.fake_quant import WeightQuantizer
from lowerconv.runtime.threads import run


def signed_range(bits: int) -> tuple[int, int]:
    """Return the least and the greatest integer of `bits` bits: -Q_N and Q_P of section 2."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def first_step(mean_magnitude: float, high: int) -> float:
    """Return the step that values of a mean magnitude begin with (section 2.1)."""
    return 2 * mean_magnitude / sqrt(high)


def gradient_scale(items: int, high: int) -> float:
    """Return what the gradient of a step is multiplied with (section 2.2).

    So a step changes, in proportion to its size, about as fast as weights do.
    """
    return 1 / sqrt(max(1, items) * high)


class LearnedStepWeights(WeightQuantizer):
    """Weights as signed integers of `bits` bits times a learnt step.

    Parameters
    ----------
    bits : int
    by_filter : bool
        Whether each filter has a step of its own, or all have one in common.
    """

    def __init__(self, bits: int, by_filter: bool = False) -> None:
        self.bits, self.by_filter = bits, by_filter
        self._low, self._high = signed_range(bits)

    def first_steps(self, weight: np.ndarray) -> np.ndarray:
        """Return (1,) or (K,) steps, from the mean magnitudes."""
        magnitudes = np.abs(weight.reshape(len(weight), -1).astype(np.float64)).mean(1)
        means = magnitudes if self.by_filter else magnitudes.mean(keepdims=True)
        return np.array([first_step(mean, self._high) for mean in means], weight.dtype)

    def quantize(self, weight: np.ndarray, steps: np.ndarray | None, result: np.ndarray) -> None:
        """Write multiples of the steps, whose signs do not count."""
        assert steps is not None
        limits = levels(self._low, self._high, weight.dtype)
        run(quantize_rows, _rows(weight), _rows(result), np.abs(steps), limits)

    def scales(self, rounded: np.ndarray, steps: np.ndarray | None) -> np.ndarray | None:
        """Return the steps, one for each filter."""
        assert steps is not None
        return np.broadcast_to(np.abs(steps), (len(rounded),))

    def differentiate(self, weight: Parameter, steps: Parameter | None) -> None:
        """Keep the gradients of weights within the range, and set those of the steps."""
        assert steps is not None
        w, dw, s = _rows(weight.data), _rows(weight.grad), steps.data
        sums = np.zeros(len(w))
        limits = levels(self._low, self._high, w.dtype)
        run(quantize_rows_grad, w, dw, np.abs(s), limits, sums)
        if not self.by_filter:
            sums = sums.sum(keepdims=True)
        scale = gradient_scale(w.size // len(sums), self._high)
        steps.grad[...] = sums * scale * np.sign(s)


def _rows(weight: np.ndarray) -> np.ndarray:
    return weight.reshape(len(weight), -1)


class LearnedStep(Layer):
    """Activations of `bits` bits, unsigned where the layer before cannot give negative ones.

    Until the first batch of training has come, the step is 0, and values pass as they are. That
    batch, of all ranks together, gives the first step.

    Parameters
    ----------
    bits : int
    dtype : dtype-like

    Attributes
    ----------
    step : Parameter, (1,)
    signed : bool
        Whether values may be negative, as of the last time that the layer was recorded.
    """

    keeps_x = True

    def __init__(self, bits: int, dtype: np.dtype) -> None:
        super().__init__()
        self.bits, self.signed = bits, True
        self.step = Parameter(np.zeros(1, dtype))

    def initialize(self, rng: np.random.Generator) -> None:
        """Forget the step."""
        self.step.data[...] = 0

    def forward(self, *values: Value) -> Value:
        """Record the layer, and look at what made the value."""
        result = super().forward(*values)
        self.signed = not never_negative(values[0])
        return result

    @property
    def range(self) -> tuple[int, int]:
        """The lowest and the highest multiple of the step."""
        return signed_range(self.bits) if self.signed else (0, (1 << self.bits) - 1)

    def compute(self, frame: Frame, step: Step) -> None:
        """Round, to a step that this batch gives where it is the first."""
        if step.training and not self.step.data[0]:
            self._begin(frame.x.array, step)
        run(quantize, frame.x.images, frame.y.images, *self._constants(frame))

    def _begin(self, x: np.ndarray, step: Step) -> None:
        total, count = float(np.abs(x).sum(dtype=np.float64)), float(x.size)
        if step.communicator is not None:
            total, count = step.communicator.sum_numbers(total, count)
        if count:
            self.step.data[...] = first_step(total / count, self.range[1])

    def _constants(self, frame: Frame) -> tuple[np.floating, tuple[np.floating, ...]]:
        return frame.dtype.type(abs(self.step.data[0])), levels(*self.range, frame.dtype)

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Pass the gradient within the range, and set that of the step."""
        dy = frame.gradient
        dx = dy if frame.dx is None else frame.dx  # which nobody reads then
        images = frame.x.images, dy.images, dx.images
        adding = frame.dx is not None and frame.adds[0]
        slope = np.zeros(1)
        run(quantize_grad, *images, *self._constants(frame), adding, slope)
        # Items of a sample, so that ranks that share a batch agree.
        scale = gradient_scale(frame.x.size, self.range[1])
        self.step.grad[...] = slope * scale * np.sign(self.step.data)


def never_negative(value: Value) -> bool:
    """Return whether a value comes from a ReLU, whatever moved, pooled or added it since."""
    if value.node is None:
        return False
    layer = value.node.layer
    if layer.activation == RELU:
        return True
    passes = layer.is_view or layer.is_concatenation or layer.is_sum
    if passes or isinstance(layer, (MaxPool2d, AvgPool2d, GlobalAvgPool2d, Dropout)):
        return all(never_negative(operand) for operand in value.node.operands)
    return False
