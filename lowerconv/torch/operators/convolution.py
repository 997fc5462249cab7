"""Convolutions and their transposes, with one to three axes of pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv.nn import functional as F
from lowerconv.nn.conv import Conv2d
from lowerconv.nn.conv_transpose import ConvTranspose2d
from lowerconv.nn.graph import Value
from lowerconv.torch.registry import operator


def per_axis(value: Any, axes: int) -> tuple[int, ...]:
    """Return a number for each axis."""
    numbers = (value,) if isinstance(value, int) else tuple(value)
    return tuple(map(int, numbers * axes if len(numbers) == 1 else numbers))


def planar(values: tuple[Any, ...], missing: Any) -> tuple[Any, ...]:
    """Return values for rows and columns: of one axis, images are one row high."""
    return values if len(values) == 2 else (missing, *values)


def flat(x: Any) -> Any:
    """Return (N, C, W) as images one row high."""
    return F.reshape(x, (*x.shape[:2], 1, x.shape[2])) if len(x.shape) == 3 else x


def unflat(y: Any, axes: int) -> Any:
    """Undo `flat`."""
    return F.reshape(y, (*y.shape[:2], y.shape[3])) if axes == 1 else y


def is_leaf(operand: Any) -> bool:
    """Return whether an operand is a parameter or buffer of the module."""
    return hasattr(operand, "tensor")


def rows(leaf: Any) -> np.ndarray:
    """Return filters of one or two axes as (K, C, R, S)."""
    array: np.ndarray = leaf.array
    return array if array.ndim == 4 else array[:, :, None, :]


@operator("conv1d", "conv2d", "conv3d", leaves=True)
def conv(net: Any, x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: Any):
    """Record a convolution."""
    axes = len(w.shape) - 2
    stride, dilation = per_axis(stride, axes), per_axis(dilation, axes)
    if padding == "valid":
        pads = ((0, 0),) * axes
    elif padding == "same":
        reach = [d * (r - 1) for d, r in zip(dilation, w.shape[2:], strict=True)]
        pads = tuple((n // 2, n - n // 2) for n in reach)
    else:
        pads = tuple((p, p) for p in per_axis(padding, axes))
    return _conv(net, net.plain(x), w, b, stride, pads, dilation, groups)


@operator("lowerconv::conv2d", leaves=True)
def own_conv(
    net: Any, x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: Any
):
    """Record a convolution of a patched model."""
    top, bottom, left, right = padding
    pads = ((top, bottom), (left, right))
    return _conv(net, net.plain(x), w, b, tuple(stride), pads, tuple(dilation), groups)


def _conv(
    net: Any, x: Any, w: Any, b: Any, stride: Any, pads: Any, dilation: Any, groups: int
) -> Any:
    axes = len(w.shape) - 2
    if len(x.shape) == axes + 1:
        y = _conv(net, F.reshape(x, (1, *x.shape)), w, b, stride, pads, dilation, groups)
        return F.reshape(y, y.shape[1:])
    x, pads = F.unpadded(x, pads)
    if axes < 3 and isinstance(x, Value) and is_leaf(w) and (b is None or is_leaf(b)):

        def make() -> Conv2d:
            made = Conv2d.of(
                *(rows(w), None if b is None else b.array),
                *(planar(stride, 1), planar(pads, (0, 0)), planar(dilation, 1), groups),
            )
            net.bind(made.weight, w)
            net.bind(made.bias, b)
            return made

        return unflat(net.layer(make)(flat(x)), axes)
    geometry = {"strides": stride, "pads": pads, "dilations": dilation, "groups": groups}
    return F.convolution(x, net.plain(w), net.plain(b), **geometry)


@operator("conv_transpose1d", "conv_transpose2d", "conv_transpose3d", leaves=True)
def conv_transpose(
    net: Any, x: Any, w: Any, b: Any, stride: Any, padding: Any, beyond: Any, groups: Any, dil: Any
):
    """Record a transposed convolution."""
    x = net.plain(x)
    axes = len(w.shape) - 2
    if len(x.shape) == axes + 1:
        x = F.reshape(x, (1, *x.shape))
        y = conv_transpose(net, x, w, b, stride, padding, beyond, groups, dil)
        return F.reshape(y, y.shape[1:])
    if axes > 2 or not (isinstance(x, Value) and is_leaf(w) and (b is None or is_leaf(b))):
        both = zip(per_axis(padding, axes), per_axis(beyond, axes), strict=True)
        geometry = {
            "strides": per_axis(stride, axes),
            "pads": tuple((p, p - more) for p, more in both),
            "dilations": per_axis(dil, axes),
            "groups": groups,
        }
        return F.transposed_convolution(x, net.plain(w), net.plain(b), **geometry)

    def make() -> ConvTranspose2d:
        made = ConvTranspose2d.of(
            *(rows(w), None if b is None else b.array),
            planar(per_axis(stride, axes), 1),
            *(planar(per_axis(padding, axes), 0), planar(per_axis(beyond, axes), 0)),
            *(planar(per_axis(dil, axes), 1), groups),
        )
        net.bind(made.weight, w)
        net.bind(made.bias, b)
        return made

    return unflat(net.layer(make)(flat(x)), axes)
