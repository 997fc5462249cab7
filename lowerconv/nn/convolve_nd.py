"""Convolution of arrays with any number of axes: of layers whose filters are values, or in 3-D."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lowerconv.functional import conv2d, conv2d_input_grad, conv2d_weight_grad

Pads = Sequence[tuple[int, int]]


class WindowArguments(NamedTuple):
    """How windows lie: numbers for each axis of pixels; `pads` before and after."""

    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilations: tuple[int, ...]
    groups: int

    @classmethod
    def of(
        cls, strides: Sequence[int], pads: Pads, dilations: Sequence[int], groups: int
    ) -> WindowArguments:
        """Return those of sequences of any kind."""
        kept = tuple((before, after) for before, after in pads)
        return cls(tuple(strides), kept, tuple(dilations), groups)

    @property
    def inner(self) -> tuple[Any, ...]:
        """The arguments of :func:`lowerconv.conv2d` for the last two axes."""
        return self.strides[-2:], self.pads[-2:], self.dilations[-2:], self.groups


def planar(
    x: np.ndarray, w: np.ndarray, geometry: WindowArguments
) -> tuple[Any, Any, WindowArguments]:
    """Return a problem of one axis as one of rows that are one pixel high."""
    strides, pads, dilations, groups = geometry
    if len(strides) != 1:
        return x, w, geometry
    flat = WindowArguments((1, *strides), ((0, 0), *pads), (1, *dilations), groups)
    return x[:, :, None], w[:, :, None], flat


def _taps(
    x_shape: Sequence[int], w: np.ndarray, g: WindowArguments
) -> Iterator[tuple[int, slice, int]]:
    """Yield for each tap of the first axis of three which slices it meets, and the result's first.

    Yields
    ------
    (int, slice, int)
        The tap, slices of x that windows find there, and the window of the first of them.
    """
    D, taps = x_shape[2], w.shape[2]
    before, after = g.pads[0]
    stride, dilation = g.strides[0], g.dilations[0]
    windows = (D + before + after - dilation * (taps - 1) - 1) // stride + 1
    for t in range(taps):
        shift = t * dilation - before
        first = max(0, (stride - 1 - shift) // stride)
        last = min(windows - 1, (D - 1 - shift) // stride)
        if first <= last:
            begin = first * stride + shift
            yield t, slice(begin, begin + (last - first) * stride + 1, stride), first


def _images(x: np.ndarray) -> np.ndarray:
    """Return (N, C, D, H, W) as images (N * D, C, H, W)."""
    moved = np.ascontiguousarray(x.transpose(0, 2, 1, 3, 4))
    return moved.reshape(-1, *moved.shape[2:])


def _volumes(images: np.ndarray, N: int) -> np.ndarray:
    """Return images (N * D, K, P, Q) as (N, K, D, P, Q)."""
    return images.reshape(N, -1, *images.shape[1:]).transpose(0, 2, 1, 3, 4)


def convolve(
    x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, g: WindowArguments
) -> np.ndarray:
    """Return the convolution of (N, C, ...) with filters (K, C/groups, ...): 1 to 3 axes.

    Three axes are sums of convolutions of slices, for each tap of the first axis.
    """
    if x.ndim == 3:
        return convolve(*planar(x, w, g)[:2], bias, planar(x, w, g)[2])[:, :, 0]
    if x.ndim == 4:
        return conv2d(x, w, bias, *g.inner)
    N, K = len(x), len(w)
    before, after = g.pads[0]
    depth = (x.shape[2] + before + after - g.dilations[0] * (w.shape[2] - 1) - 1) // g.strides[
        0
    ] + 1
    y: np.ndarray | None = None
    for t, slices, first in _taps(x.shape, w, g):
        part = _volumes(conv2d(_images(x[:, :, slices]), _tap(w, t), None, *g.inner), N)
        if y is None:
            y = np.zeros((N, K, depth, *part.shape[3:]), x.dtype)
        y[:, :, first : first + part.shape[2]] += part
    if y is None:
        raise ValueError(f"x: got shape {x.shape}, expected one that windows reach")
    if bias is not None:
        y += bias.reshape(-1, 1, 1, 1)
    return y


def _tap(w: np.ndarray, t: int) -> np.ndarray:
    return np.ascontiguousarray(w[:, :, t])


def convolve_gradients(
    dy: np.ndarray, x: np.ndarray, w: np.ndarray, g: WindowArguments
) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradients of `x` and `w`."""
    if x.ndim == 3:
        flat_x, flat_w, flat = planar(x, w, g)
        dx, dw = convolve_gradients(dy[:, :, None], flat_x, flat_w, flat)
        return dx[:, :, 0], dw[:, :, 0]
    dy = np.ascontiguousarray(dy)
    if x.ndim == 4:
        dx = conv2d_input_grad(dy, w, x.shape, *g.inner)
        return dx, conv2d_weight_grad(dy, np.ascontiguousarray(x), w.shape, *g.inner)
    dx, dw = np.zeros(x.shape, x.dtype), np.zeros(w.shape, w.dtype)
    for t, slices, first in _taps(x.shape, w, g):
        images = _images(x[:, :, slices])
        count = len(images) // len(x)
        part = _images(dy[:, :, first : first + count])
        tap = _tap(w, t)
        dx[:, :, slices] += _volumes(conv2d_input_grad(part, tap, images.shape, *g.inner), len(x))
        dw[:, :, t] = conv2d_weight_grad(part, images, tap.shape, *g.inner)
    return dx, dw


def _whole(x: np.ndarray, w: np.ndarray, g: WindowArguments) -> tuple[int, ...]:
    """Return the shape of a transposed convolution that loses no pixels."""
    pixels = [
        (n - 1) * s + d * (r - 1) + 1
        for n, r, s, d in zip(x.shape[2:], w.shape[2:], g.strides, g.dilations, strict=True)
    ]
    return (len(x), w.shape[1] * g.groups, *pixels)


def _kept(
    shape: Sequence[int], g: WindowArguments
) -> tuple[tuple[slice, ...], list[tuple[int, int]]]:
    """Return the part of such a result that padding leaves, and the zeros after that."""
    parts, zeros = [slice(None), slice(None)], [(0, 0), (0, 0)]
    for n, (before, after) in zip(shape[2:], g.pads, strict=True):
        parts.append(slice(before, n - max(0, after)))
        zeros.append((0, max(0, -after)))
    return tuple(parts), zeros


def transposed(x: np.ndarray, w: np.ndarray, g: WindowArguments) -> np.ndarray:
    """Return the transposed convolution of (N, C, ...) with filters (C, K/groups, ...).

    Padding takes pixels from the result; a negative one after it adds zeros.
    """
    shape = _whole(x, w, g)
    none = g._replace(pads=((0, 0),) * len(g.strides))
    part, zeros = _kept(shape, g)
    return np.pad(_input_gradient(x, w, shape, none)[part], zeros)


def _input_gradient(
    dy: np.ndarray, w: np.ndarray, shape: tuple[int, ...], g: WindowArguments
) -> Any:
    """Return the gradient of the input of a convolution, of 1 to 3 axes."""
    if dy.ndim == 3:
        flat_dy, flat_w, flat = planar(dy, w, g)
        return _input_gradient(flat_dy, flat_w, (*shape[:2], 1, shape[2]), flat)[:, :, 0]
    if dy.ndim == 4:
        return conv2d_input_grad(np.ascontiguousarray(dy), w, shape, *g.inner)
    dx = np.zeros(shape, dy.dtype)
    for t, slices, first in _taps(shape, w, g):
        count = len(range(*slices.indices(shape[2])))
        part = _images(dy[:, :, first : first + count])
        images = (len(dy) * count, shape[1], *shape[3:])
        found = conv2d_input_grad(part, _tap(w, t), images, *g.inner)
        dx[:, :, slices] += _volumes(found, len(dy))
    return dx


def transposed_gradients(
    dy: np.ndarray, x: np.ndarray, w: np.ndarray, g: WindowArguments
) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradients of `x` and `w` of a transposed convolution."""
    shape = _whole(x, w, g)
    none = g._replace(pads=((0, 0),) * len(g.strides))
    part, zeros = _kept(shape, g)
    whole = np.zeros(shape, dy.dtype)
    reached = tuple(slice(0, n - after) for n, (_, after) in zip(dy.shape, zeros, strict=True))
    whole[part] = dy[reached]
    dx = convolve(whole, np.ascontiguousarray(w), None, none)
    # Of the convolution whose input gradient this is: its result's gradient is x.
    return dx, convolve_gradients(np.ascontiguousarray(x), whole, np.ascontiguousarray(w), none)[1]
