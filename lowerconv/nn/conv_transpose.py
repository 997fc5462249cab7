"""The transposed convolution: the input gradient of a convolution, as a layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv.checks import Pair, pair
from lowerconv.conv.executable import Options
from lowerconv.conv.plan import ConvPlan
from lowerconv.conv.problem import Op, conv_problem
from lowerconv.nn.conv import checked_channels
from lowerconv.nn.frame import Frame
from lowerconv.nn.init import he_normal
from lowerconv.nn.layer import Layer
from lowerconv.nn.module import Parameter, Shape
from lowerconv.nn.step import Step
from lowerconv.ops.arithmetic import ADD, combine
from lowerconv.ops.elementwise import bias_relu_grad
from lowerconv.runtime.threads import run


class ConvTranspose2d(Layer):
    """Transposed convolution with learnt filters and bias; arguments as in PyTorch.

    Parameters
    ----------
    in_channels, out_channels : int
        C and K.
    kernel_size : int or (R, S)
    stride, output_padding, dilation : int or (rows, columns)
    padding : int, (rows, columns) or ((top, bottom), (left, right))
        Pixels that the result lacks.
    groups : int
    bias : bool
    dtype : dtype-like
        float32 or float64.
    """

    keeps_x = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: Any = 0,
        output_padding: int | Pair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | Pair = 1,
        *,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        channels, filters, groups = checked_channels(in_channels, out_channels, groups)
        shape = (channels, filters // groups, *pair(kernel_size, "kernel_size", 1))
        self.weight = Parameter(np.zeros(shape, dtype))
        self.bias = Parameter(np.zeros(filters, dtype)) if bias else None
        self.stride, self.dilation = pair(stride, "stride", 1), pair(dilation, "dilation", 1)
        self.padding, self.output_padding = padding, pair(output_padding, "output_padding", 0)
        self.groups = groups
        self.initialize(np.random.default_rng())

    @classmethod
    def of(cls, weight: np.ndarray, bias: np.ndarray | None, *geometry: Any) -> ConvTranspose2d:
        """Return a layer with these filters (C, K/groups, R, S).

        `geometry` is stride, padding, output_padding, dilation and groups.
        """
        layer = cls.__new__(cls)
        Layer.__init__(layer)
        layer.weight = Parameter(weight)
        layer.bias = None if bias is None else Parameter(bias)
        layer.stride, layer.padding, layer.output_padding = geometry[:3]
        layer.dilation, layer.groups = geometry[3:]
        return layer

    def initialize(self, rng: np.random.Generator) -> None:
        """Draw the filters (He) and set the bias to zero."""
        he_normal(rng, self.weight.data)
        if self.bias:
            self.bias.data[:] = 0

    def _sides(self) -> tuple[Pair, Pair]:
        padding = self.padding
        rows, columns = (padding, padding) if isinstance(padding, int) else padding
        sides = tuple((p, p) if isinstance(p, int) else tuple(p) for p in (rows, columns))
        return sides  # type: ignore[return-value]

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return (N, K, P, Q)."""
        (shape,) = shapes
        C, K = self.weight.data.shape[:2]
        if len(shape) != 4 or shape[1] != C:
            raise ValueError(f"x: got shape {shape}, expected (N, {C}, H, W)")
        rows = zip(
            *(shape[2:], self.weight.data.shape[2:], self.stride, self.dilation, self._sides()),
            self.output_padding,
            strict=True,
        )
        pixels = [(n - 1) * s - sum(p) + d * (r - 1) + 1 + o for n, r, s, d, p, o in rows]
        if min(pixels) < 1:
            raise ValueError(f"x: got shape {shape}, expected one large enough for a result")
        return (shape[0], K * self.groups, *pixels)

    def flops(self, *shapes: Shape) -> int:
        """Return the operations of the forward step."""
        N, _, H, W = shapes[0]
        return 2 * N * H * W * self.weight.data.size

    def _geometry(self, x_shape: Shape) -> tuple[Any, ...]:
        """Return the convolution of which this is the gradient, from the result to `x`."""
        sides = self._sides()
        # Pixels that only output_padding adds lie beyond the last window: less padding after.
        far = tuple(
            (before, after - o)
            for (before, after), o in zip(sides, self.output_padding, strict=True)
        )
        return self.stride, far, self.dilation, self.groups

    def prepare(self, frame: Frame) -> None:
        """Plan the passes."""
        stride, sides, dilation, groups = self._geometry(frame.x.shape)
        # Where padding after would be negative the gradient has rows that nothing reaches.
        beyond = tuple(max(0, -after) for _, after in sides)
        sides = tuple((before, max(0, after)) for before, after in sides)
        shape = frame.y.shape
        reached = (*shape[:2], *(n - b for n, b in zip(shape[2:], beyond, strict=True)))
        frame.prepared["reached"] = reached
        problem = conv_problem(
            *(reached, self.weight.data.shape, stride, sides, dilation, groups, frame.dtype),
            names=("y", "weight"),
        )
        passes: tuple[tuple[str, Op], ...] = (
            ("forward", "input_grad"),
            ("dx", "forward"),
            ("dw", "weight_grad"),
        )
        for name, op in passes:
            if name != "forward" and frame.dy is None:
                continue
            add = name == "dx" and frame.adds[0]
            plan = ConvPlan(problem, op, Options(add=add))
            frame.workspace_bytes = max(frame.workspace_bytes, plan.workspace_bytes)
            frame.prepared[name] = plan

    def compute(self, frame: Frame, step: Step) -> None:
        """Compute the gradient of the convolution, and add the bias."""
        y, reached = frame.y, frame.prepared["reached"]
        if reached == y.shape:
            frame.prepared["forward"](frame.x.array, self.weight.data, out=y.array)
        else:
            part = frame.prepared["forward"](frame.x.array, self.weight.data)
            y.array[...] = 0
            y.array[:, :, : reached[2], : reached[3]] = part
        if self.bias is None:
            return
        run(combine, y.images, (self.bias.data, 0), y.images, y.shape[1], ADD, True)

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Compute the gradients of bias, filters and images."""
        dy, reached = frame.gradient, frame.prepared["reached"]
        if self.bias is not None:
            run(bias_relu_grad, dy.images, dy.images, self.bias.grad, False)
        array = np.ascontiguousarray(dy.array[:, :, : reached[2], : reached[3]])
        frame.prepared["dw"](frame.x.array, array, out=self.weight.grad)
        if frame.dx is not None:
            frame.prepared["dx"](array, self.weight.data, out=frame.dx.array)
