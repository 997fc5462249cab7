"""Importers of operators that move items or reduce axes."""

from __future__ import annotations

from math import floor, prod
from typing import Any

import numpy as np

from lowerconv.nn import functional as F
from lowerconv.nn.resize import Resize, taps
from lowerconv.torch.registry import NotConverted, operand, operator


@operator("sym_size")
def sym_size(net: Any, self: Any, dim: int) -> int:
    """Import one extent."""
    return int(self.shape[dim])


@operator("view", "reshape", "_unsafe_view", "unsafe_view")
def view(net: Any, self: Any, size: Any) -> Any:
    """Import a view in another shape."""
    return F.reshape(operand(self), [int(n) for n in size])


@operator("flatten")
def flatten(net: Any, self: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Import flatten."""
    rank = len(self.shape)
    first, last = start_dim % rank, end_dim % rank
    shape = (*self.shape[:first], prod(self.shape[first : last + 1]), *self.shape[last + 1 :])
    return F.reshape(self, shape)


@operator("unflatten")
def unflatten(net: Any, self: Any, dim: int, sizes: Any) -> Any:
    """Import unflatten."""
    at = dim % len(self.shape)
    return F.reshape(self, (*self.shape[:at], *sizes, *self.shape[at + 1 :]))


@operator("permute")
def permute(net: Any, self: Any, dims: Any) -> Any:
    """Import a permutation of axes."""
    return F.transpose(operand(self), dims)


@operator("transpose")
def transpose(net: Any, self: Any, dim0: int, dim1: int) -> Any:
    """Import the exchange of two axes."""
    axes = list(range(len(self.shape)))
    axes[dim0], axes[dim1] = axes[dim1], axes[dim0]
    return F.transpose(operand(self), axes)


@operator("t", "numpy_T")
def t(net: Any, self: Any) -> Any:
    """Import the transposition of a matrix."""
    return F.transpose(operand(self), range(len(self.shape))[::-1])


@operator("squeeze")
def squeeze(net: Any, self: Any, dim: Any = None) -> Any:
    """Import squeeze; axes that are longer than 1 stay."""
    rank = len(self.shape)
    axes = range(rank) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = {axis % rank for axis in axes if self.shape[axis] == 1}
    return F.reshape(operand(self), [n for i, n in enumerate(self.shape) if i not in gone])


@operator("unsqueeze")
def unsqueeze(net: Any, self: Any, dim: int) -> Any:
    """Import unsqueeze."""
    shape = list(self.shape)
    shape.insert(dim % (len(shape) + 1), 1)
    return F.reshape(operand(self), shape)


@operator("expand")
def expand(net: Any, self: Any, size: Any, implicit: bool = False) -> Any:
    """Import expand; -1 keeps an extent."""
    extra = len(size) - len(self.shape)
    shape = [self.shape[i - extra] if n == -1 else int(n) for i, n in enumerate(size)]
    return F.expand(operand(self), shape)


@operator("contiguous", "clone", "alias", "detach_", "lift_fresh_copy", "_assert_tensor_metadata")
def same(net: Any, self: Any, *rest: Any, **options: Any) -> Any:
    """Import what only concerns memory."""
    return self


@operator("to", "_to_copy")
def to(net: Any, self: Any, *rest: Any, **options: Any) -> Any:
    """Import a conversion that changes nothing."""
    import torch

    wanted = [v for v in (*rest, *options.values()) if isinstance(v, torch.dtype)]
    if any(torch.empty(0, dtype=w).numpy().dtype != self.dtype for w in wanted):
        raise NotConverted("a conversion to another dtype")
    return self


@operator("cat", "concat")
def cat(net: Any, tensors: Any, dim: int = 0) -> Any:
    """Import concatenation."""
    return F.concat([operand(x) for x in tensors], dim)


@operator("stack")
def stack(net: Any, tensors: Any, dim: int = 0) -> Any:
    """Import stack."""
    return F.concat([unsqueeze(net, x, dim) for x in tensors], dim)


def _pieces(x: Any, lengths: list[int], dim: int) -> list[Any]:
    before = (slice(None),) * (dim % len(x.shape))
    ends = np.cumsum(lengths)
    return [
        F.getitem(x, (*before, slice(int(end) - n, int(end))))
        for n, end in zip(lengths, ends, strict=True)
    ]


@operator("split", "split_with_sizes")
def split(net: Any, self: Any, split_size: Any, dim: int = 0) -> Any:
    """Import split by a length, or by a list of them."""
    extent = self.shape[dim]
    if isinstance(split_size, int):
        sizes = [min(split_size, extent - i) for i in range(0, extent, split_size)]
    else:
        sizes = [int(n) for n in split_size]
    return _pieces(operand(self), sizes, dim)


@operator("chunk")
def chunk(net: Any, self: Any, chunks: int, dim: int = 0) -> Any:
    """Import chunk."""
    return split(net, self, -(-self.shape[dim] // chunks), dim)


@operator("slice")
def slice_(
    net: Any, self: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Any:
    """Import a slice along an axis."""
    extent = self.shape[dim]
    first, last, _ = slice(start, end, step).indices(extent)
    if (first, last, step) == (0, extent, 1):
        return self
    before = (slice(None),) * (dim % len(self.shape))
    return F.getitem(operand(self), (*before, slice(first, max(first, last), step)))


@operator("select")
def select(net: Any, self: Any, dim: int, index: int) -> Any:
    """Import one slice, without its axis."""
    before = (slice(None),) * (dim % len(self.shape))
    return F.getitem(operand(self), (*before, int(index)))


def _reduction(name: str) -> Any:
    def importer(net: Any, self: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
        if dtype is not None:
            raise NotConverted(f"{name} in another dtype")
        axes = [dim] if isinstance(dim, int) else dim or None
        return F.reduce(name, operand(self), axes, keepdim)

    return importer


for _name, _own in {"mean": "mean", "sum": "sum", "amax": "max", "amin": "min"}.items():
    operator(_name)(_reduction(_own))


_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@operator("pad", "constant_pad_nd")
def pad(net: Any, self: Any, pad: Any, mode: str = "constant", value: Any = None) -> Any:
    """Import padding; the last axis comes first in `pad`."""
    if not isinstance(mode, str):
        mode, value = "constant", mode
    if mode not in _MODES:
        raise NotConverted(f"padding by {mode!r}")
    widths = [(0, 0)] * len(self.shape)
    for i in range(len(pad) // 2):
        widths[len(widths) - 1 - i] = (int(pad[2 * i]), int(pad[2 * i + 1]))
    return F.pad(self, widths, _MODES[mode], 0 if value is None else value)


def _resized(x: Any, size: Any, factors: Any, mode: str, coordinates: str, **options: Any) -> Any:
    pixels = x.shape[2:]
    if len(pixels) != 2:
        raise NotConverted(f"resizing of {len(pixels)} axes")
    if size is not None:
        target = [int(n) for n in size]
        scales = [m / n for m, n in zip(target, pixels, strict=True)]
    else:
        scales = [float(f) for f in factors]
        target = [floor(n * s) for n, s in zip(pixels, scales, strict=True)]
    found = [
        taps(n, m, s, mode, coordinates, **options)
        for n, m, s in zip(pixels, target, scales, strict=True)
    ]
    return F.apply(Resize(*found), x)


@operator("upsample_nearest2d")
def upsample_nearest(net: Any, input: Any, output_size: Any, scale_factors: Any = None, *_: Any) -> Any:
    """Import resizing by nearest pixels."""
    return _resized(input, output_size, scale_factors, "nearest", "asymmetric", nearest="floor")


@operator("upsample_bilinear2d", "upsample_bicubic2d")
def upsample_linear(
    net: Any, input: Any, output_size: Any, align_corners: bool, scale_factors: Any = None, *_: Any
) -> Any:
    """Import linear resizing."""
    coordinates = "align_corners" if align_corners else "half_pixel"
    return _resized(input, output_size, scale_factors, "linear", coordinates)


@operator("upsample_bicubic2d")
def upsample_cubic(
    net: Any, input: Any, output_size: Any, align_corners: bool, scale_factors: Any = None, *_: Any
) -> Any:
    """Import cubic resizing."""
    coordinates = "align_corners" if align_corners else "half_pixel"
    return _resized(input, output_size, scale_factors, "cubic", coordinates)


@operator("pixel_shuffle")
def pixel_shuffle(net: Any, self: Any, upscale_factor: int) -> Any:
    """Import pixel shuffle."""
    N, C, H, W = self.shape
    r = upscale_factor
    y = F.transpose(F.reshape(self, (N, C // (r * r), r, r, H, W)), (0, 1, 4, 2, 5, 3))
    return F.reshape(y, (N, C // (r * r), H * r, W * r))


@operator("channel_shuffle")
def channel_shuffle(net: Any, self: Any, groups: int) -> Any:
    """Import channel shuffle."""
    N, C, *rest = self.shape
    axes = (0, 2, 1, *range(3, 3 + len(rest)))
    y = F.transpose(F.reshape(self, (N, groups, C // groups, *rest)), axes)
    return F.reshape(y, (N, C, *rest))
