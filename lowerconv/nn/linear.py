"""The fully connected layer, and the change of shape before it."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv.checks import integer
from lowerconv.nn.init import lecun_normal
from lowerconv.nn.module import Layer, Parameter, Step
from lowerconv.pipeline.gemm import matmul


class Flatten(Layer):
    """(N, C, H, W) to (N, C*H*W), without copying."""

    def forward(self, x: np.ndarray, step: Step) -> np.ndarray:
        """Return `x` as one row per sample."""
        self._shape = x.shape
        return x.reshape(len(x), int(np.prod(x.shape[1:])))

    def backward(self, dy: np.ndarray, need_dx: bool = True) -> np.ndarray | None:
        """Return `dy` in the shape of the input."""
        return dy.reshape(self._shape)


class Linear(Layer):
    """Fully connected layer, ``y = x w^T + b``; arguments as in PyTorch.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    dtype : dtype-like
        float32 or float64.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, dtype: Any = np.float32
    ) -> None:
        super().__init__()
        shape = (integer(out_features, "out_features", 1), integer(in_features, "in_features", 1))
        self.weight = Parameter(np.zeros(shape, dtype))
        self.bias = Parameter(np.zeros(shape[0], dtype)) if bias else None
        self._x: np.ndarray | None = None
        self.initialize(np.random.default_rng())

    def initialize(self, rng: np.random.Generator) -> None:
        """Draw the weights (LeCun, since the last layer has no ReLU) and set the bias to zero."""
        lecun_normal(rng, self.weight.data)
        if self.bias:
            self.bias.data[:] = 0

    def own_parameters(self) -> dict[str, Parameter]:
        """Return the weights and the bias."""
        return {"weight": self.weight} | ({"bias": self.bias} if self.bias else {})

    def forward(self, x: np.ndarray, step: Step) -> np.ndarray:
        """Return the product for `x` (N, in_features)."""
        outputs, inputs = self.weight.data.shape
        if x.ndim != 2 or x.shape[1] != inputs:
            raise ValueError(f"x: got shape {x.shape}, expected (N, {inputs})")
        self._x = x if step.training else None
        y = self._array("y", (len(x), outputs), x.dtype)
        matmul(x, self.weight.data, y, trans_b=True)
        if self.bias:
            y += self.bias.data
        return y

    def backward(self, dy: np.ndarray, need_dx: bool = True) -> np.ndarray | None:
        """Set the gradients of weights and bias; return that of the input."""
        x = self._x
        if x is None:
            raise RuntimeError("Linear.backward: no forward step with training=True came before")
        if len(x):
            matmul(dy, x, self.weight.grad, trans_a=True)
        else:
            self.weight.grad[:] = 0
        if self.bias:
            np.sum(dy, axis=0, out=self.bias.grad)
        if not need_dx:
            return None
        dx = self._array("dx", x.shape, x.dtype)
        matmul(dy, self.weight.data, dx)
        return dx
