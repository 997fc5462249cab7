"""The fully connected layer, learnt or with weights that never change."""

from __future__ import annotations

from copy import copy
from math import prod
from typing import Any

import numpy as np

from lowerconv.checks import integer
from lowerconv.codegen.isa import host_isa
from lowerconv.nn.codes import WeightCodes
from lowerconv.nn.combine import mask
from lowerconv.nn.execution_order import ExecutionOrder
from lowerconv.nn.frame import Frame
from lowerconv.nn.freeze import emptied, flushed, taken
from lowerconv.nn.init import lecun_normal
from lowerconv.nn.layer import Layer, always
from lowerconv.nn.module import Parameter, Shape
from lowerconv.nn.moving import move
from lowerconv.nn.step import Step
from lowerconv.ops.elementwise import relu
from lowerconv.ops.few_rows import FEW, few_rows, few_rows_input_grad, few_rows_weight_grad
from lowerconv.ops.matmul import matmul
from lowerconv.ops.pointwise import AFFINE, FUNCTIONS, pointwise
from lowerconv.ops.product import PackedProduct, pack, packed_product
from lowerconv.runtime.threads import run


class Linear(Layer):
    """Fully connected layer, ``y = x w^T + b``; arguments as in PyTorch.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
        Whether to add a number to each feature.
    dtype : dtype-like, float32 or float64
        Of the parameters.

    Attributes
    ----------
    weight : Parameter, (out_features, in_features)
    bias : Parameter or None, (out_features,)
    accumulates : bool
        Whether the product adds the gradient of the weights to what is there, which saves another
        pass over all of them.
    codes : WeightCodes or None
        As of `Conv2d`.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or out of range.
    """

    keeps_x = True
    takes_relu = True
    codes: WeightCodes | None = None

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, dtype: Any = np.float32
    ) -> None:
        super().__init__()
        shape = (integer(out_features, "out_features", 1), integer(in_features, "in_features", 1))
        self.weight = Parameter(np.zeros(shape, dtype))
        self.bias = Parameter(np.zeros(shape[0], dtype)) if bias else None
        self.accumulates = False
        self.initialize(np.random.default_rng())

    @classmethod
    def of(cls, weight: np.ndarray, bias: np.ndarray | None) -> Linear:
        """Return a layer with given weights, which are not copied.

        Parameters
        ----------
        weight : ndarray, (out_features, in_features)
        bias : ndarray or None, (out_features,)

        Returns
        -------
        Linear
        """
        layer = cls.__new__(cls)
        Layer.__init__(layer)
        layer.weight = Parameter(weight)
        layer.bias = None if bias is None else Parameter(bias)
        layer.accumulates = False
        return layer

    def initialize(self, rng: np.random.Generator) -> None:
        """Draw the weights (LeCun, since the last layer has no ReLU) and set the bias to zero."""
        lecun_normal(rng, self.weight.data)
        if self.bias:
            self.bias.data[:] = 0

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return (N, out_features)."""
        outputs, inputs = self.weight.data.shape
        if len(shapes[0]) != 2 or shapes[0][1] != inputs:
            raise ValueError(f"x: got shape {shapes[0]}, expected (N, {inputs})")
        return (shapes[0][0], outputs)

    def as_constant(self) -> Layer:
        """Return a layer that packs the weights once."""
        return PackedLinear.of_layer(self) if type(self) is Linear else self

    def flops(self, *shapes: Shape) -> int:
        """Return the additions and multiplications of the forward step."""
        return 2 * shapes[0][0] * self.weight.data.size

    def weights(self, frame: Frame) -> np.ndarray:
        """Return the weights that the layer computes with: those that it learns.

        Parameters
        ----------
        frame : Frame

        Returns
        -------
        ndarray, (out_features, in_features)
        """
        return self.weight.data

    def compute(self, frame: Frame, step: Step) -> None:
        """Multiply."""
        y, weights = frame.y, self.weights(frame)
        if len(y.array) <= FEW:
            bias = self.bias.data if self.bias else weights.reshape(-1)[:0]
            run(few_rows, frame.x.array, weights, bias, y.array, frame.relu, False)
            return
        matmul(frame.x.array, weights, y.array, trans_b=True)
        if self.bias:
            np.add(y.array, self.bias.data, out=y.array)
        if frame.relu:
            run(relu, y.images, y.images)

    def is_capturable(self, frame: Frame) -> bool:
        """Return whether `compute` only launches kernels, and leaves nothing to BLAS."""
        return len(frame.y.array) <= FEW

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Compute the gradients of weights, bias and input."""
        dy, dx = frame.gradient.array, frame.dx
        if frame.relu:
            mask(frame.gradient, frame.y)
        if self.execution_order is not ExecutionOrder.WEIGHT_GRADIENTS_LATER:
            self.differentiate_weights(frame, step)
        if self.bias:
            np.sum(dy, axis=0, out=self.bias.grad)
        if dx is None:
            return
        if len(dy) <= FEW:
            run(few_rows_input_grad, dy, self.weights(frame), dx.array, frame.adds[0])
        else:
            matmul(dy, self.weights(frame), dx.array, add=frame.adds[0])

    def differentiate_weights(self, frame: Frame, step: Step) -> None:
        """Compute the gradient of the weights."""
        x, dy = frame.x.array, frame.gradient.array
        if len(x) <= FEW:  # none: zeros
            run(few_rows_weight_grad, dy, x, self.weight.grad, self.accumulates)
        else:
            matmul(dy, x, self.weight.grad, trans_a=True, add=self.accumulates)


class PackedLinear(Linear):
    """A fully connected layer at inference: its weights are packed once, for all calls.

    What follows it, a sum with another value and a function of each item, it does in the same pass.
    """

    takes_activation = True
    takes_residual = True
    packs_weight = True
    is_capturable = always

    @classmethod
    def of_layer(cls, layer: Linear) -> PackedLinear:
        """Return a layer with the parameters of another.

        Parameters
        ----------
        layer : Linear

        Returns
        -------
        PackedLinear
        """
        twin = cls.__new__(cls)
        Layer.__init__(twin)
        twin.weight, twin.bias, twin.codes = layer.weight, layer.bias, layer.codes
        twin.accumulates = False
        return twin

    def absorbs(self, following: Layer) -> Layer | None:
        """Return a layer that does this one and then scales and shifts each feature."""
        weight = self.weight.data
        found = following.scale_and_shift_items((len(weight),))
        if found is None:
            return None
        scale, shift = found
        bias = self.bias.data.astype(np.float64) if self.bias else 0.0
        both = copy(self)
        both.codes = self.codes and self.codes.scaled(scale)
        if (scale != 1).any():
            both.weight = Parameter((weight * scale[:, None]).astype(weight.dtype))
            if self.weight.origin:
                both.weight.origin = (*self.weight.origin, scale.tobytes())
        both.bias = Parameter((bias * scale + shift).astype(weight.dtype))
        return both

    def prepare(self, frame: Frame) -> None:
        """Pack the weights."""
        weight, rows = self.weight.data, prod(frame.y.shape[:-1])
        activation = frame.activation
        after: list[tuple[int, Any, Any]] = []
        if activation and not frame.relu and (rows <= FEW or not activation.in_registers):
            name, *numbers = activation
            a, b, scale, shift = map(frame.dtype.type, numbers)
            after.append((FUNCTIONS[name], a, b))
            if activation.is_scaled:
                after.append((AFFINE, scale, shift))
            activation = None
        frame.prepared["after"] = after
        frame.prepared["bias"] = taken(self.bias) if self.bias else np.zeros(0, frame.dtype)
        if rows <= FEW:
            frame.prepared["weights"] = flushed(self.weight.whole)
            return
        product = PackedProduct(
            *(rows, len(weight), weight.shape[1], frame.dtype, host_isa()), activation
        )
        key = self.weight.origin, ("linear", product.NR)
        shared = frame.filters if self.weight.origin else None
        packed = None if shared is None else shared.get(key)
        if packed is None:
            packed = pack(flushed(self.weight.whole), product.NR)
            if shared is not None:
                shared[key] = packed
        frame.prepared["weights"], frame.prepared["product"] = packed, product.arguments()
        if frame.constant and self.weight.again is None:  # then this layer is nobody else's
            self.weight = emptied(self.weight)

    def compute(self, frame: Frame, step: Step) -> None:
        """Multiply."""
        x, y, kept = frame.x, frame.y, frame.prepared
        adds = frame.residual is not None
        if frame.residual is not None and not frame.over_residual:
            move(frame.residual, y, False)
        if "product" not in kept:
            relu = frame.relu
            run(few_rows, x.array, kept["weights"], kept["bias"], y.array, relu, adds)
        else:
            product = kept["product"]
            run(packed_product, x.flat, kept["weights"], kept["bias"], y.flat, adds, product)
        for function in kept["after"]:
            run(pointwise, y.images, y.images, *function)
