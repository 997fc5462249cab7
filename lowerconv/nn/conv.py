"""The convolutional layer."""

from __future__ import annotations

from copy import copy
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from lowerconv.checks import Pair, integer, pair
from lowerconv.conv.executable import Options
from lowerconv.conv.plan import ConvPlan
from lowerconv.conv.plan_bits import plan_bits, words_cost_less
from lowerconv.conv.plan_cache import Arguments
from lowerconv.conv.problem import ConvProblem, Op, conv_problem
from lowerconv.nn.codes import WeightCodes
from lowerconv.nn.conv_pieces import Pass, takes_words
from lowerconv.nn.execution_order import ExecutionOrder
from lowerconv.nn.frame import Frame, HalfTensor, Tensor
from lowerconv.nn.freeze import emptied, flushed, taken
from lowerconv.nn.init import he_normal
from lowerconv.nn.layer import Layer
from lowerconv.nn.module import Parameter, Shape
from lowerconv.nn.moving import move
from lowerconv.nn.step import Step
from lowerconv.ops.elementwise import bias_relu_grad
from lowerconv.runtime.threads import run


def checked_channels(in_channels: Any, out_channels: Any, groups: Any) -> tuple[int, int, int]:
    """Return these as integers; raise TypeError or ValueError for what makes no convolution."""
    channels = integer(in_channels, "in_channels", 1)
    filters = integer(out_channels, "out_channels", 1)
    groups = integer(groups, "groups", 1)
    if channels % groups or filters % groups:
        raise ValueError(
            f"groups: got {groups}, expected a divisor of in_channels {channels} and of "
            f"out_channels {filters}"
        )
    return channels, filters, groups


class Conv2d(Layer):
    """Convolution with learnt filters and bias; arguments as in PyTorch.

    Parameters
    ----------
    in_channels, out_channels : int
        C and K.
    kernel_size : int or (R, S)
        In pixels.
    stride, padding, dilation, groups : optional
        As for :func:`lowerconv.conv2d`.
    bias : bool
        Whether to add a number to each channel.
    algorithm : str
        As for :func:`lowerconv.conv2d`.
    dtype : dtype-like, float32 or float64
        Of the parameters.

    Attributes
    ----------
    weight : Parameter, (K, C/groups, R, S)
    bias : Parameter or None, (K,)
    codes : WeightCodes or None
        Integers that the filters are, where somebody has made them such: they go with `weight` as
        it is now.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or out of range; `groups` does not divide C and K.
    """

    keeps_x = True
    takes_relu = True
    takes_activation = True
    takes_residual = True
    packs_weight = True
    codes: WeightCodes | None = None

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
        channels, filters, groups = checked_channels(in_channels, out_channels, groups)
        shape = (filters, channels // groups, *pair(kernel_size, "kernel_size", 1))
        self.weight = Parameter(np.zeros(shape, dtype))
        self.bias = Parameter(np.zeros(filters, dtype)) if bias else None
        self.geometry = (stride, padding, dilation, groups)
        self.algorithm = algorithm
        self.initialize(np.random.default_rng())

    @classmethod
    def of(
        cls, weight: np.ndarray, bias: np.ndarray | None, *geometry: Any, algorithm: str = "auto"
    ) -> Conv2d:
        """Return a layer with given filters, which are not copied.

        Parameters
        ----------
        weight : ndarray, (K, C/groups, R, S)
        bias : ndarray or None, (K,)
        *geometry
            Stride, padding, dilation and groups.
        algorithm : str
            As for :func:`lowerconv.conv2d`.

        Returns
        -------
        Conv2d
        """
        layer = cls.__new__(cls)
        Layer.__init__(layer)
        layer.weight = Parameter(weight)
        layer.bias = None if bias is None else Parameter(bias)
        layer.geometry, layer.algorithm = geometry, algorithm
        return layer

    def initialize(self, rng: np.random.Generator) -> None:
        """Draw the filters (He) and set the bias to zero."""
        he_normal(rng, self.weight.data)
        if self.bias:
            self.bias.data[:] = 0

    def problem(self, x_shape: Shape) -> ConvProblem:
        """Return the convolution that the layer is for images of a shape.

        Parameters
        ----------
        x_shape : (N, C, H, W)

        Returns
        -------
        ConvProblem

        Raises
        ------
        ValueError
            Images of that shape do not fit the filters.
        """
        weight = self.weight.data
        return _problem(x_shape, weight.shape, self.geometry, weight.dtype)

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return (N, K, P, Q)."""
        problem = self.problem(shapes[0])
        return (problem.N, problem.K, problem.P, problem.Q)

    def absorbs(self, following: Layer) -> Layer | None:
        """Return a convolution that does this one and then a scaling, at inference.

        ``norm(conv(x, w) + b) = conv(x, w * scale) + (b * scale + shift)``, for each filter.
        """
        weight = self.weight.data
        found = following.scale_and_shift(len(weight))
        if found is None:
            return None
        scale, shift = found
        bias = self.bias.data.astype(np.float64) if self.bias else 0.0
        both = copy(self)
        both.weight = Parameter((weight * scale[:, None, None, None]).astype(weight.dtype))
        both.bias = Parameter((bias * scale + shift).astype(weight.dtype))
        both.codes = self.codes and self.codes.scaled(scale)
        if self.weight.origin:
            both.weight.origin = (*self.weight.origin, scale.tobytes())
        return both

    def flops(self, *shapes: Shape) -> int:
        """Return the additions and multiplications of the forward step."""
        return self.problem(shapes[0]).flops

    def weights(self, frame: Frame) -> np.ndarray:
        """Return the filters that the layer computes with: those that it learns.

        Parameters
        ----------
        frame : Frame

        Returns
        -------
        ndarray, (K, C/groups, R, S)
        """
        return self.weight.data

    def prepare(self, frame: Frame) -> None:
        """Plan the passes."""
        w_shape, half = self.weight.data.shape, frame.has_half

        def plan(op: Op, tensors: tuple[Tensor, ...], **options: Any) -> Any:
            chosen = Options(self.algorithm, **options)
            filters = prod(w_shape) if op == "weight_grad" else 0

            def problem(count: int) -> ConvProblem:
                return _problem((count, *frame.x.shape[1:]), w_shape, self.geometry, frame.dtype)

            def make(count: int) -> ConvPlan:
                # 16 bits are added to when the result is rounded.
                later = op == "input_grad" and isinstance(tensors[1], HalfTensor)
                add = chosen.add and not later
                return frame.plans.plan(problem(count), op, chosen._replace(add=add))

            def make_of_bits(count: int) -> ConvPlan:
                return plan_bits(problem(count), op, chosen)

            if half and takes_words(tensors) and words_cost_less(problem(frame.x.N), op, chosen):
                made: Any = Pass(frame, tensors, make_of_bits, filters, takes_bits=True)
            else:
                made = Pass(frame, tensors, make, filters) if half else make(frame.x.N)
            frame.workspace_bytes = max(frame.workspace_bytes, made.workspace_bytes)
            return made

        frame.prepared["forward"] = forward = plan(
            "forward",
            (frame.x, frame.y),
            bias=self.bias is not None,
            activation=frame.activation,
            add=frame.residual is not None,
            constant=frame.constant,
        )
        if frame.constant:  # then this layer is nobody else's
            shared = frame.filters if self.weight.origin else None
            pieces = isinstance(forward, Pass)
            if pieces or shared is None or not forward.use_shared(shared, self.weight.origin):
                forward.prepack(flushed(self.weight.whole), shared, self.weight.origin)
            if self.weight.again is None:
                self.weight = emptied(self.weight)
            frame.prepared["bias"] = (taken(self.bias),) if self.bias else ()
        if frame.dy is not None:
            frame.prepared["weight_grad"] = plan("weight_grad", (frame.dy, frame.x))
        if frame.dx is not None:
            tensors = frame.gradient, frame.dx
            frame.prepared["input_grad"] = plan("input_grad", tensors, add=frame.adds[0])

    def compute(self, frame: Frame, step: Step) -> None:
        """Convolve."""
        held = frame.prepared.get("bias")
        bias = (self.bias.data,) if self.bias else ()
        parameters = (self.weights(frame), *bias) if held is None else held
        forward = frame.prepared["forward"]
        if isinstance(forward, Pass):
            forward.images(parameters, frame.residual)
            return
        if frame.residual is not None and not frame.over_residual:
            move(frame.residual, frame.y, False)
        forward(frame.x.array, *parameters, out=frame.y.array)

    def is_capturable(self, frame: Frame) -> bool:
        """Return whether `compute` only launches kernels."""
        plan: ConvPlan | Pass = frame.prepared["forward"]
        bias = frame.prepared.get("bias", ())
        if isinstance(plan, Pass):
            return plan.is_capturable(*bias)
        return plan.is_capturable(frame.x.array, *bias, out=frame.y.array)

    def takes_half(self, frame: Frame) -> bool:
        """Return whether 16 bits are taken, converted some images at a time: always."""
        return True

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Compute the gradients of bias, filters and images."""
        dy, y = frame.gradient, frame.y
        if self.bias or frame.relu:
            db = self.bias.grad if self.bias else self.weight.grad.reshape(-1)[:0]
            run(bias_relu_grad, dy.images, y.images, db, frame.relu)
        if frame.dresidual is not None:
            move(dy, frame.dresidual, frame.add_residual)
        if self.execution_order is not ExecutionOrder.WEIGHT_GRADIENTS_LATER:
            self.differentiate_weights(frame, step)
        if frame.dx is None:
            return
        input_grad, weights = frame.prepared["input_grad"], self.weights(frame)
        if isinstance(input_grad, Pass):
            input_grad.images((weights,), adds=frame.adds[0])
        else:
            input_grad(dy.array, weights, out=frame.dx.array)

    def differentiate_weights(self, frame: Frame, step: Step) -> None:
        """Compute the gradient of the filters."""
        weight_grad = frame.prepared["weight_grad"]
        if isinstance(weight_grad, Pass):
            weight_grad.filters(self.weight.grad)
        else:
            weight_grad(frame.gradient.array, frame.x.array, out=self.weight.grad)


@lru_cache
def _checked(x_shape: Shape, w_shape: Shape, geometry: Arguments, dtype: np.dtype) -> ConvProblem:
    return conv_problem(x_shape, w_shape, *geometry, dtype, names=("x", "weight"))


def _problem(x_shape: Shape, w_shape: Shape, geometry: Arguments, dtype: np.dtype) -> ConvProblem:
    """Return the convolution of images and filters of these shapes."""
    try:
        return _checked(x_shape, w_shape, geometry, dtype)
    except TypeError:  # what cannot be hashed, such as lists, or is wrong
        return conv_problem(x_shape, w_shape, *geometry, dtype, names=("x", "weight"))
