"""Importers of the operators that networks with weights are made of."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv.nn import functional as F
from lowerconv.nn.activation import Dropout
from lowerconv.nn.conv import Conv2d
from lowerconv.nn.conv_transpose import ConvTranspose2d
from lowerconv.nn.graph import Value
from lowerconv.nn.linear import Linear
from lowerconv.nn.norm import BatchNorm2d
from lowerconv.nn.pooling import AvgPool2d, MaxPool2d
from lowerconv.torch.registry import NotConverted, Weight, operand, operator


def per_axis(value: Any, axes: int) -> tuple[int, ...]:
    """Return an int, or a list of one or `axes` of them, as a number for each axis."""
    numbers = [value] if isinstance(value, int) else list(value)
    return tuple(numbers * axes if len(numbers) == 1 else numbers)


def _convolution(net: Any, x: Any, weight: Any, bias: Any, stride: Any, pads: Any, dilation: Any, groups: int) -> Any:
    axes = len(weight.shape) - 2
    stride, dilation = per_axis(stride, axes), per_axis(dilation, axes)
    fixed = isinstance(weight, Weight) and (bias is None or isinstance(bias, Weight))
    if axes > 2 or not fixed or not isinstance(x, Value):
        return F.convolution(
            *(operand(x), operand(weight), None if bias is None else operand(bias)),
            strides=stride,
            pads=pads,
            dilations=dilation,
            groups=groups,
        )
    flat = axes == 1

    def make() -> Conv2d:
        kernel = weight.array[:, :, None] if flat else weight.array
        geometry = (stride, tuple(map(tuple, pads)), dilation)
        if flat:
            geometry = ((1, *stride), ((0, 0), *map(tuple, pads)), (1, *dilation))
        return Conv2d.of(kernel, None if bias is None else bias.array, *geometry, groups)

    layer = net.layer(make, weight=weight, bias=bias)
    if not flat:
        return layer(x)
    y = layer(F.reshape(x, (*x.shape[:2], 1, x.shape[2])))
    return F.reshape(y, (*y.shape[:2], y.shape[3]))


@operator("conv1d", "conv2d", "conv3d")
def conv(
    net: Any, input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> Any:
    """Import a convolution; `padding` may be "same" or "valid"."""
    axes = len(weight.shape) - 2
    if len(input.shape) != axes + 2:
        raise NotConverted(f"an input without a batch, of shape {tuple(input.shape)}")
    if isinstance(padding, str):
        pads = [(0, 0)] * axes
        if padding == "same":
            totals = [d * (n - 1) for d, n in zip(per_axis(dilation, axes), weight.shape[2:], strict=True)]
            pads = [(t // 2, t - t // 2) for t in totals]
    else:
        pads = [(p, p) for p in per_axis(padding, axes)]
    return _convolution(net, input, weight, bias, stride, pads, dilation, groups)


@operator("convolution")
def convolution(
    net: Any, input: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Any, groups: int,
) -> Any:
    """Import the operator that all convolutions become."""
    if transposed:
        return conv_transpose(net, input, weight, bias, stride, padding, output_padding, groups, dilation)
    return conv(net, input, weight, bias, stride, padding, dilation, groups)


@operator("conv_transpose1d", "conv_transpose2d")
def conv_transpose(
    net: Any, input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Any:
    """Import a transposed convolution."""
    axes = len(weight.shape) - 2
    if axes > 2 or not isinstance(weight, Weight) or not (bias is None or isinstance(bias, Weight)):
        raise NotConverted("a transposed convolution with weights that are no parameters, or in 3-D")
    if len(input.shape) != axes + 2:
        raise NotConverted(f"an input without a batch, of shape {tuple(input.shape)}")
    flat = axes == 1
    numbers = [per_axis(v, axes) for v in (stride, padding, output_padding, dilation)]
    if flat:
        numbers = [(d, *n) for d, n in zip((1, 0, 0, 1), numbers, strict=True)]

    def make() -> ConvTranspose2d:
        kernel = weight.array[:, :, None] if flat else weight.array
        return ConvTranspose2d.of(
            kernel, None if bias is None else bias.array, *numbers, groups
        )

    layer = net.layer(make, weight=weight, bias=bias)
    if not flat:
        return F.apply(layer, input)
    y = layer(F.reshape(input, (*input.shape[:2], 1, input.shape[2])))
    return F.reshape(y, (*y.shape[:2], y.shape[3]))


@operator("linear")
def linear(net: Any, input: Any, weight: Any, bias: Any = None) -> Any:
    """Import a fully connected layer."""
    if not isinstance(weight, Weight) or not isinstance(input, Value):
        y = F.matmul(operand(input), F.transpose(operand(weight), (1, 0)))
        return y if bias is None else F.arithmetic("add", y, operand(bias))
    layer = net.layer(
        lambda: Linear.of(weight.array, None if bias is None else bias.array),
        weight=weight,
        bias=bias,
    )
    y = layer(F.reshape(input, (-1, input.shape[-1])))
    return F.reshape(y, (*input.shape[:-1], y.shape[1]))


@operator("addmm")
def addmm(net: Any, self: Any, mat1: Any, mat2: Any, beta: float = 1, alpha: float = 1) -> Any:
    """Import ``beta * self + alpha * mat1 mat2``."""
    y = F.scaled(F.matmul(operand(mat1), operand(mat2)), alpha)
    return F.arithmetic("add", y, F.scaled(operand(self), beta))


@operator("matmul", "mm", "bmm")
def matmul(net: Any, self: Any, other: Any) -> Any:
    """Import a matrix product."""
    return F.matmul(operand(self), operand(other))


@operator("batch_norm")
def batch_norm(
    net: Any, input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any,
    training: bool, momentum: float, eps: float, cudnn_enabled: bool = False,
) -> Any:
    """Import batch norm: by the batch's statistics, or by those that are kept."""
    shape = tuple(input.shape)
    if len(shape) < 2:
        raise NotConverted(f"batch norm of an input of shape {shape}")
    planes = (*shape[:2], int(np.prod(shape[2:], dtype=np.int64)), 1)
    kept = isinstance(running_mean, Weight)
    wide = (-1,) + (1,) * (len(shape) - 2)
    if training or (net.frozen and kept and weight is not None and bias is not None):

        def make() -> BatchNorm2d:
            layer = BatchNorm2d.of(
                shape[1],
                *(None if w is None else w.array for w in (weight, bias)),
                *(w.array if kept else None for w in (running_mean, running_var)),
                eps=eps,
                momentum=momentum if kept else 0.0,
                dtype=input.dtype,
            )
            return layer

        if training and kept:
            net.changes(running_mean)
            net.changes(running_var)
        layer = net.layer(make, weight=weight, bias=bias)
        y = layer(input if len(shape) == 4 else F.reshape(input, planes))
        return F.reshape(y, shape)
    net.uses_statistics = True
    mean, var = running_mean.array, running_var.array
    inverse = (1 / np.sqrt(var.astype(np.float64) + eps)).astype(mean.dtype)
    y = F.arithmetic("sub", input, mean.reshape(wide))
    y = F.arithmetic("mul", y, inverse.reshape(wide))
    return _affine(y, weight, bias, wide)


def _affine(y: Any, weight: Any, bias: Any, shape: Any) -> Any:
    if weight is not None:
        y = F.arithmetic("mul", y, F.reshape(operand(weight), shape))
    return y if bias is None else F.arithmetic("add", y, F.reshape(operand(bias), shape))


@operator("layer_norm")
def layer_norm(
    net: Any, input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None,
    eps: float = 1e-5, cudnn_enable: bool = False,
) -> Any:
    """Import layer norm."""
    rank = len(input.shape)
    axes = tuple(range(rank - len(normalized_shape), rank))
    return _affine(F.normalize(input, axes, eps), weight, bias, tuple(normalized_shape))


@operator("group_norm")
def group_norm(
    net: Any, input: Any, num_groups: int, weight: Any = None, bias: Any = None,
    eps: float = 1e-5, cudnn_enabled: bool = False,
) -> Any:
    """Import group norm."""
    shape = tuple(input.shape)
    y = F.normalize(F.reshape(input, (shape[0], num_groups, -1)), (2,), eps)
    return _affine(F.reshape(y, shape), weight, bias, (-1,) + (1,) * (len(shape) - 2))


@operator("instance_norm")
def instance_norm(
    net: Any, input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any,
    use_input_stats: bool, momentum: float, eps: float, cudnn_enabled: bool = False,
) -> Any:
    """Import instance norm without kept statistics."""
    if running_mean is not None:
        raise NotConverted("instance_norm with running statistics")
    y = F.normalize(input, tuple(range(2, len(input.shape))), eps)
    return _affine(y, weight, bias, (-1,) + (1,) * (len(input.shape) - 2))


# --- pooling ---


def _pool(
    x: Any, largest: bool, size: Any, stride: Any, padding: Any, dilation: Any, ceil: bool, include: bool
) -> Any:
    shape = tuple(x.shape)
    axes = len(shape) - 2
    size = per_axis(size, axes)
    stride = size if stride is None or stride == [] else per_axis(stride, axes)
    padding, dilation = per_axis(padding, axes), per_axis(dilation, axes)
    if axes > 2 or set(dilation) != {1}:
        pads = [(p, p) for p in padding]
        return F.pool(x, "max" if largest else "mean", size, stride, pads, dilation, ceil, include)
    if axes == 1:
        size, stride, padding = (1, *size), (1, *stride), (0, *padding)
        x = F.reshape(x, (*shape[:2], 1, shape[2]))
    layer = (
        MaxPool2d(size, stride, padding, ceil)
        if largest
        else AvgPool2d(size, stride, padding, ceil, include)
    )
    y = F.apply(layer, x)
    return y if axes == 2 else F.reshape(y, (*y.shape[:2], y.shape[3]))


@operator("max_pool1d", "max_pool2d", "max_pool3d")
def max_pool(
    net: Any, self: Any, kernel_size: Any, stride: Any = None, padding: Any = 0,
    dilation: Any = 1, ceil_mode: bool = False,
) -> Any:
    """Import max pooling."""
    return _pool(self, True, kernel_size, stride, padding, dilation, ceil_mode, True)


@operator("avg_pool1d", "avg_pool2d", "avg_pool3d")
def avg_pool(
    net: Any, self: Any, kernel_size: Any, stride: Any = None, padding: Any = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: Any = None,
) -> Any:
    """Import average pooling."""
    if divisor_override is not None:
        raise NotConverted("average pooling with divisor_override")
    return _pool(self, False, kernel_size, stride, padding, 1, ceil_mode, count_include_pad)


@operator("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool2d")
def adaptive_avg_pool(net: Any, self: Any, output_size: Any) -> Any:
    """Import pooling to a number of windows: means over ranges along each axis."""
    x, axes = self, len(self.shape) - 2
    targets = per_axis(output_size, axes)
    if all(n == 1 for n in targets):
        return F.reduce("mean", x, range(2, 2 + axes), True)
    pixels = tuple(x.shape[2:])
    if all(n % m == 0 for n, m in zip(pixels, targets, strict=True)):
        size = [n // m for n, m in zip(pixels, targets, strict=True)]
        return _pool(x, False, size, size, 0, 1, False, True)
    for axis, (n, m) in enumerate(zip(pixels, targets, strict=True)):
        ranges = [(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]
        before = (slice(None),) * (2 + axis)
        parts = [
            F.reduce("mean", F.getitem(x, (*before, slice(a, b))), [2 + axis], True)
            for a, b in ranges
        ]
        x = F.concat(parts, 2 + axis)
    return x


@operator("dropout", "feature_dropout")
def dropout(net: Any, input: Any, p: float, train: bool) -> Any:
    """Import dropout."""
    if not train or p == 0:
        return input
    net.drops = True
    return Dropout(p)(input)
