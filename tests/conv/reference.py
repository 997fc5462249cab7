"""What the convolutions must compute: all three passes in float64, on ``scipy.signal.correlate``.

Nothing here is lowered. Strides and dilations are zeros stuffed between rows and columns, so that
each pass is a plain sliding sum of products, and each of the three is derived on its own:

- forward: slide the dilated kernel over the padded image, keep each ``stride``-th sum;
- input gradient: full convolution of the stuffed ``dy`` with the dilated kernel, borders cut off;
- weight gradient: slide the stuffed ``dy`` over the padded image, keep each ``dilation``-th sum.

``test_reference.py`` ties the three to each other and to the defining sum.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import signal

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]


class Geometry(NamedTuple):
    """The geometric arguments in full: one number per direction, one padding per side."""

    stride: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]
    groups: int


def geometry(
    w_shape: Shape, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Geometry:
    """Spell out what the user may abbreviate."""
    stride, dilation = _pair(stride), _pair(dilation)
    if padding == "valid":
        padding = 0
    if padding == "same":
        # One row or column of odd padding goes to the bottom or right, as in PyTorch.
        totals = [(taps - 1) * d for taps, d in zip(w_shape[2:], dilation, strict=True)]
        padding = tuple((total // 2, total - total // 2) for total in totals)
    vertical, horizontal = _pair(padding)
    return Geometry(stride, (_pair(vertical), _pair(horizontal)), dilation, groups)


def output_shape(x_shape: Shape, w_shape: Shape, geo: Geometry) -> Shape:
    """The shape of ``y``."""
    n, _, *image = x_shape
    k, _, *taps = w_shape
    sides = zip(image, taps, geo.stride, geo.padding, geo.dilation, strict=True)
    return n, k, *((h + sum(pad) - (r - 1) * d - 1) // s + 1 for h, r, s, pad, d in sides)


def forward(x: Array, w: Array, bias: Array | None, geo: Geometry) -> Array:
    """Return ``y`` in float64."""
    y = np.zeros(output_shape(x.shape, w.shape, geo))
    padded = _padded(x, geo)
    kernels = _stuffed(w, geo.dilation)
    for k, channels in _groups(w.shape, geo.groups):
        sums = _slide(padded[:, channels], kernels[k][None])
        y[:, k] = sums[:, 0, :: geo.stride[0], :: geo.stride[1]]
        if bias is not None:
            y[:, k] += bias[k]
    return y


def input_grad(dy: Array, w: Array, x_shape: Shape, geo: Geometry) -> Array:
    """Return ``dx`` in float64."""
    kernels = _stuffed(w, geo.dilation)
    rows, cols = kernels.shape[2:]
    # Zeros all around, as deep as the kernel less one: the full convolution is then a sliding sum.
    around = ((0, 0), (0, 0), (rows - 1, rows - 1), (cols - 1, cols - 1))
    stuffed = np.pad(_stuffed(dy, geo.stride), around)
    dx = np.zeros(_padded_shape(x_shape, geo))
    for c in range(x_shape[1]):
        group, c_of_group = divmod(c, w.shape[1])
        k_per_group = w.shape[0] // geo.groups
        ks = slice(group * k_per_group, (group + 1) * k_per_group)
        turned = kernels[ks, c_of_group, ::-1, ::-1]
        sums = _slide(stuffed[:, ks], turned[None])[:, 0]
        # Rows and columns that the stride never reaches keep a gradient of zero.
        dx[:, c, : sums.shape[1], : sums.shape[2]] = sums
    (top, _), (left, _) = geo.padding
    return dx[:, :, top : top + x_shape[2], left : left + x_shape[3]]


def weight_grad(dy: Array, x: Array, w_shape: Shape, geo: Geometry) -> Array:
    """Return ``dw`` in float64."""
    stuffed = _stuffed(dy, geo.stride)
    reach = [
        extent + (taps - 1) * d
        for extent, taps, d in zip(stuffed.shape[2:], w_shape[2:], geo.dilation, strict=True)
    ]
    read = _padded(x, geo)[:, :, : reach[0], : reach[1]]
    dw = np.zeros(w_shape)
    for k, channels in _groups(w_shape, geo.groups):
        sums = _slide(read[:, channels], stuffed[:, k : k + 1])
        dw[k] = sums[0, :, :: geo.dilation[0], :: geo.dilation[1]]
    return dw


def _slide(image: Array, kernel: Array) -> Array:
    """Slide ``kernel`` over all four axes of ``image``, wherever it lies wholly inside."""
    if image.size == 0:
        # A batch of none: no images to slide over, and sums of nothing where the batch is summed.
        shape = [have - need + 1 for have, need in zip(image.shape, kernel.shape, strict=True)]
        return np.zeros(shape)
    sums: Array = signal.correlate(image, kernel, mode="valid", method="direct")
    return sums


def _groups(w_shape: Shape, groups: int) -> list[tuple[int, slice]]:
    """Each output channel, and the input channels that its group reads."""
    k, c = w_shape[:2]
    first = [(i // (k // groups)) * c for i in range(k)]
    return [(i, slice(first[i], first[i] + c)) for i in range(k)]


def _padded_shape(x_shape: Shape, geo: Geometry) -> Shape:
    extents = (h + sum(pad) for h, pad in zip(x_shape[2:], geo.padding, strict=True))
    return *x_shape[:2], *extents


def _padded(x: Array, geo: Geometry) -> Array:
    return np.pad(x.astype(np.float64), ((0, 0), (0, 0), *geo.padding))


def _stuffed(a: Array, step: tuple[int, int]) -> Array:
    """Put ``step - 1`` zeros between neighbours of the last two axes."""
    rows, cols = ((extent - 1) * s + 1 for extent, s in zip(a.shape[2:], step, strict=True))
    out = np.zeros((*a.shape[:2], rows, cols))
    out[:, :, :: step[0], :: step[1]] = a
    return out


def _pair(value: Any) -> tuple[Any, Any]:
    if isinstance(value, tuple):
        first, second = value
        return first, second
    return value, value
