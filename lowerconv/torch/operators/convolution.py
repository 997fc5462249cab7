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


@operator("conv_transpose1d", "conv_transpose2d", leaves=True)
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
    if not (isinstance(x, Value) and is_leaf(w) and (b is None or is_leaf(b))):
        return _computed_transpose(net, x, w, b, stride, padding, beyond, groups, dil)

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


def _computed_transpose(
    net: Any, x: Any, w: Any, b: Any, stride: Any, padding: Any, beyond: Any, groups: Any, dil: Any
):
    """Record a transposed convolution whose filters are values: a convolution's gradient."""
    from lowerconv.functional import conv2d, conv2d_input_grad, conv2d_weight_grad

    w, b, axes = net.plain(w), net.plain(b), len(w.shape) - 2
    if axes == 1:
        x, w = flat(x), flat(w)
    s, p = planar(per_axis(stride, axes), 1), planar(per_axis(padding, axes), 0)
    o, d = planar(per_axis(beyond, axes), 0), planar(per_axis(dil, axes), 1)
    sizes = zip(x.shape[2:], w.shape[2:], s, p, o, d, strict=True)
    pixels = [(n - 1) * t - 2 * q + e * (r - 1) + 1 + more for n, r, t, q, more, e in sizes]
    pads = tuple((q, q - more) for q, more in zip(p, o, strict=True))
    if any(after < 0 for _, after in pads):
        raise NotImplementedError("output_padding above padding where filters are no parameters")
    shape = (x.shape[0], w.shape[1] * groups, *pixels)
    geometry = (s, pads, d, groups)

    def function(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        return conv2d_input_grad(np.ascontiguousarray(x), np.ascontiguousarray(w), shape, *geometry)

    def gradient(dy: np.ndarray, y: np.ndarray, x: np.ndarray, w: np.ndarray) -> Any:
        dy, x, w = map(np.ascontiguousarray, (dy, x, w))
        return conv2d(dy, w, None, *geometry), conv2d_weight_grad(x, dy, w.shape, *geometry)

    y = F.computed("transposed convolution", function, x, w, gradient=gradient)
    if b is not None:
        y = F.arithmetic("add", y, F.reshape(b, (-1, 1, 1)))
    return unflat(y, axes)
