"""The convolutional layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from lowerconv.checks import Pair, integer, pair
from lowerconv.kernels.call import share, spread
from lowerconv.machine.threads import get_num_threads, parallel_region
from lowerconv.nn.init import he_normal
from lowerconv.nn.module import Layer, Parameter, Step
from lowerconv.plan import ConvPlan
from lowerconv.plan_cache import cached_plan


# Additions may be reordered, which lets them be vector code.
@njit(cache=True, nogil=True, fastmath={"reassoc"})
def _bias_grad_share(worker, workers, dy, db):
    N, K, pixels = dy.shape
    first, last = share(K, worker, workers)
    for k in range(first, last):
        total = 0.0  # in float64: the sum runs over every pixel of the batch
        for n in range(N):
            part = dy.dtype.type(0)
            for i in range(pixels):
                part += dy[n, k, i]
            total += part
        db[k] = total


@njit(cache=True, nogil=True)
def _bias_grad(team, dy, db):
    spread(team, _bias_grad_share, (dy, db))


class Conv2d(Layer):
    """Convolution with learnt filters and bias; arguments as in PyTorch.

    Parameters
    ----------
    in_channels, out_channels : int
        C and K.
    kernel_size : int or (R, S)
    stride, padding, dilation, groups
        As for :func:`lowerconv.conv2d`.
    bias : bool
    algorithm : str
        As for :func:`lowerconv.conv2d`.
    dtype : dtype-like
        float32 or float64.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: Any = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        algorithm: str = "auto",
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        channels = integer(in_channels, "in_channels", 1)
        filters = integer(out_channels, "out_channels", 1)
        groups = integer(groups, "groups", 1)
        if channels % groups or filters % groups:
            raise ValueError(
                f"groups: got {groups}, expected a divisor of in_channels {channels} and of "
                f"out_channels {filters}"
            )
        shape = (filters, channels // groups, *pair(kernel_size, "kernel_size", 1))
        self.weight = Parameter(np.zeros(shape, dtype))
        self.bias = Parameter(np.zeros(filters, dtype)) if bias else None
        self.geometry = (stride, padding, dilation, groups)
        self.algorithm = algorithm
        self._x: np.ndarray | None = None
        self.initialize(np.random.default_rng())

    def initialize(self, rng: np.random.Generator) -> None:
        """Draw the filters (He) and set the bias to zero."""
        he_normal(rng, self.weight.data)
        if self.bias:
            self.bias.data[:] = 0

    def own_parameters(self) -> dict[str, Parameter]:
        """Return the filters and the bias."""
        return {"weight": self.weight} | ({"bias": self.bias} if self.bias else {})

    def _plan(self, x_shape: tuple[int, ...], op: str, **options: Any) -> ConvPlan:
        return cached_plan(
            x_shape,
            self.weight.data.shape,
            *self.geometry,
            names=("x", "weight"),
            op=op,
            dtype=self.weight.data.dtype,
            algorithm=self.algorithm,
            **options,
        )

    def forward(self, x: np.ndarray, step: Step) -> np.ndarray:
        """Return the convolution of `x` (N, C, H, W)."""
        self._x = x if step.training else None
        plan = self._plan(x.shape, "forward", bias=self.bias is not None)
        operands = (x, self.weight.data) + ((self.bias.data,) if self.bias else ())
        return plan(*operands, out=self._array("y", plan.result_shape, x.dtype))

    def backward(self, dy: np.ndarray, need_dx: bool = True) -> np.ndarray | None:
        """Set the gradients of filters and bias; return that of the images."""
        x = self._x
        if x is None:
            raise RuntimeError("Conv2d.backward: no forward step with training=True came before")
        self._plan(x.shape, "weight_grad")(dy, x, out=self.weight.grad)
        if self.bias:
            N, K, P, Q = dy.shape
            with parallel_region(get_num_threads()) as team:
                _bias_grad(team, dy.reshape(N, K, P * Q), self.bias.grad)
        if not need_dx:
            return None
        plan = self._plan(x.shape, "input_grad")
        return plan(dy, self.weight.data, out=self._array("dx", plan.result_shape, x.dtype))
