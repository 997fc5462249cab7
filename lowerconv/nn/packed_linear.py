"""The fully connected layer whose weights never change."""

from __future__ import annotations

from copy import copy
from math import prod
from typing import Any

import numpy as np

from lowerconv.codegen.isa import host_isa
from lowerconv.nn.attributes import Parameter
from lowerconv.nn.combine import move
from lowerconv.nn.frame import Frame
from lowerconv.nn.freeze import emptied, flushed
from lowerconv.nn.layer import Layer
from lowerconv.nn.linear import Linear
from lowerconv.nn.step import Step
from lowerconv.ops.few_rows import FEW, few_rows
from lowerconv.ops.pointwise import AFFINE, FUNCTIONS, pointwise
from lowerconv.ops.product import PackedProduct, pack, packed_product
from lowerconv.runtime.threads import run


class PackedLinear(Linear):
    """A fully connected layer at inference: its weights are packed once, for all calls.

    What follows it, a sum with another value and a function of each item, it does in the same pass.
    """

    takes_activation = True
    takes_residual = True

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
        function = frame.activation.in_registers() if frame.activation else None
        after: list[tuple[int, Any, Any]] = []
        if frame.activation is not None and (function is None or rows <= FEW):
            name, *numbers = frame.activation
            a, b, scale, shift = map(frame.dtype.type, numbers)
            after.append((FUNCTIONS[name], a, b))
            if frame.activation.is_scaled:
                after.append((AFFINE, scale, shift))
        frame.kept["after"] = after
        bias = np.zeros(0, frame.dtype) if self.bias is None else flushed(self.bias.data)
        frame.kept["bias"] = np.array(bias)
        if rows <= FEW:
            frame.kept["weights"] = flushed(weight)
            return
        product = PackedProduct(
            *(rows, len(weight), weight.shape[1], frame.dtype, host_isa()),
            activates=frame.relu or (frame.activation is not None and not after),
            function=function,
        )
        key = self.weight.origin, ("linear", product.NR)
        shared = frame.filters if self.weight.origin else None
        packed = None if shared is None else shared.get(key)
        if packed is None:
            packed = pack(flushed(weight), product.NR)
            if shared is not None:
                shared[key] = packed
        frame.kept["weights"], frame.kept["product"] = packed, product.arguments
        if frame.constant:  # then this layer is nobody else's
            self.weight = emptied(self.weight)

    def compute(self, frame: Frame, step: Step) -> None:
        """Multiply."""
        x, y, kept = frame.x, frame.y, frame.kept
        adds = frame.residual is not None
        if frame.residual is not None and not frame.over_residual:
            move(frame.residual, y, False)
        if "product" not in kept:
            relu = frame.relu
            run(few_rows, x.array, kept["weights"], kept["bias"], y.array, relu, adds)
        else:
            product = kept["product"]
            run(packed_product, x.flat, kept["weights"], kept["bias"], y.flat, adds, *product)
        for function in kept["after"]:
            run(pointwise, y.images, y.images, *function)

    def launches(self, frame: Frame) -> bool:
        """Return whether `compute` only launches kernels: always, arrays being whole."""
        return True
