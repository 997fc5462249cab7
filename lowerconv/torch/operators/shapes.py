"""Operators that move items, or take parts."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from lowerconv.nn import functional as F
from lowerconv.nn.graph import Value
from lowerconv.torch.layers import Detached
from lowerconv.torch.operators.elementwise import numpy_dtype
from lowerconv.torch.registry import operator, operators


@operator("flatten.using_ints")
def flatten(net: Any, x: Any, first: int, last: int):
    """Record axes made one."""
    rank = len(x.shape)
    if not rank:
        return F.reshape(x, (1,))
    first, last = first % rank, last % rank
    return F.reshape(x, (*x.shape[:first], prod(x.shape[first : last + 1]), *x.shape[last + 1 :]))


@operator("unflatten.int")
def unflatten(net: Any, x: Any, axis: int, sizes: Any):
    """Record an axis made several."""
    axis %= len(x.shape)
    sizes = list(sizes)
    if -1 in sizes:
        sizes[sizes.index(-1)] = x.shape[axis] // -prod(sizes)
    return F.reshape(x, (*x.shape[:axis], *sizes, *x.shape[axis + 1 :]))


@operator("transpose.int", "swapaxes", "swapdims")
def transpose(net: Any, x: Any, a: int, b: int):
    """Record two axes exchanged."""
    axes = list(range(len(x.shape)))
    if axes:
        axes[a], axes[b] = axes[b], axes[a]
    return F.transpose(x, axes)


@operator("t", "numpy_T", "mT")
def t(net: Any, x: Any):
    """Record a matrix transposed."""
    axes = list(range(len(x.shape)))
    return F.transpose(x, (*axes[:-2], *axes[:-3:-1]))


@operator("movedim.int")
def movedim(net: Any, x: Any, source: int, target: int):
    """Record an axis at another place."""
    axes = list(range(len(x.shape)))
    axis = axes.pop(source)
    axes.insert(target % len(x.shape), axis)
    return F.transpose(x, axes)


@operator("squeeze")
def squeeze(net: Any, x: Any, axes: Any = None):
    """Record axes of one item left out."""
    rank = len(x.shape)
    given = range(rank) if axes is None else [axes] if isinstance(axes, int) else axes
    gone = {a % rank for a in given} if rank else set()
    return F.reshape(x, [n for i, n in enumerate(x.shape) if i not in gone or n != 1])


@operator("unsqueeze")
def unsqueeze(net: Any, x: Any, axis: int):
    """Record a new axis of one item."""
    shape = list(x.shape)
    shape.insert(axis % (len(shape) + 1), 1)
    return F.reshape(x, shape)


@operator("expand", how="NumPy")
def expand(net: Any, x: Any, shape: Any, _: Any = False):
    """Record items repeated along axes."""
    extra = len(shape) - len(x.shape)
    full = [x.shape[i - extra] if n == -1 else n for i, n in enumerate(shape)]
    return F.expand(x, full)


@operator("to.dtype", "to.dtype_layout", "_to_copy", "to.device", "type_as", how="NumPy")
def to(net: Any, x: Any, *rest: Any):
    """Record another dtype."""
    import torch

    found = [v for v in rest if isinstance(v, torch.dtype)]
    return F.cast(x, numpy_dtype(found[0])) if found else x


def part(x: Any, axis: int, piece: Any) -> Any:
    """Record a part along an axis."""
    axis %= len(x.shape)
    if isinstance(piece, slice) and piece.indices(x.shape[axis]) == (0, x.shape[axis], 1):
        return x
    return F.getitem(x, (*(slice(None),) * axis, piece))


@operator("select.int", how="NumPy")
def select(net: Any, x: Any, axis: int, index: int):
    """Record the items at a place of an axis."""
    if not -x.shape[axis] <= index < x.shape[axis]:
        raise IndexError(f"index: got {index} for {x.shape[axis]} items")
    return part(x, axis, int(index))


@operator("narrow", how="NumPy")
def narrow(net: Any, x: Any, axis: int, begin: int, length: int):
    """Record a slice by its length."""
    begin %= x.shape[axis] + 1
    return part(x, axis, slice(begin, begin + length))


@operator("split_with_sizes", "split.sizes", how="NumPy")
def split_with_sizes(net: Any, x: Any, sizes: Any, axis: int):
    """Record parts of given lengths."""
    ends = np.cumsum(sizes)
    return [part(x, axis, slice(int(e - n), int(e))) for e, n in zip(ends, sizes, strict=True)]


@operator("split.Tensor", how="NumPy")
def split(net: Any, x: Any, size: int, axis: int):
    """Record parts of one length; the last may be shorter."""
    n = x.shape[axis]
    return [part(x, axis, slice(i, min(n, i + size))) for i in range(0, n, size)]


@operator("cat", "concat", "concatenate")
def cat(net: Any, operands: Any, axis: int):
    """Record operands one after the other."""
    kept = [x for x in operands if tuple(x.shape) != (0,)]
    return F.concat(kept, axis)


@operator("stack")
def stack(net: Any, operands: Any, axis: int):
    """Record operands along a new axis."""
    return F.concat(
        [unsqueeze(net, x, axis) for x in operands], axis % (len(operands[0].shape) + 1)
    )


@operator("pad", how="NumPy")
def pad(net: Any, x: Any, widths: Any, mode: str, value: Any):
    """Record margins, or negative ones cut."""
    names = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    pairs = [(0, 0)] * (len(x.shape) - len(widths) // 2)
    pairs += [(widths[i], widths[i + 1]) for i in range(len(widths) - 2, -1, -2)]
    return F.pad(x, pairs, names[mode], value or 0)


@operator("roll", how="NumPy")
def roll(net: Any, x: Any, shifts: Any, axes: Any):
    """Record items that are moved round."""
    if not axes:
        raise NotImplementedError("roll without dims")
    back = [-s for s in shifts]
    return F.computed(
        *("roll", lambda x: np.roll(x, shifts, tuple(axes)), x),
        gradient=lambda dy, y, x: (np.roll(dy, back, tuple(axes)),),
    )


@operator("flip", how="NumPy")
def flip(net: Any, x: Any, axes: Any):
    """Record items in reverse order along axes."""
    over = tuple(axes)
    return F.computed(
        *("flip", lambda x: np.flip(x, over), x), gradient=lambda dy, y, x: (np.flip(dy, over),)
    )


@operator("tensor_split.sections", how="NumPy")
def tensor_split(net: Any, x: Any, count: int, axis: int):
    """Record `count` parts along an axis; the first ones may be longer by one."""
    n = x.shape[axis]
    ends = np.cumsum([n // count + (i < n % count) for i in range(count)])
    begins = [0, *ends[:-1]]
    return [part(x, axis, slice(int(b), int(e))) for b, e in zip(begins, ends, strict=True)]


operators(
    {
        "view.default reshape _unsafe_view view_copy.default": lambda net, x, shape: F.reshape(
            x, shape
        ),
        "view_as reshape_as": lambda net, x, other: F.reshape(x, other.shape),
        "permute": lambda net, x, axes: F.transpose(x, axes),
        # Values are never changed: the same one will do.
        "contiguous clone alias lift_fresh_copy lift_fresh": lambda net, x, *_: x,
        "detach": lambda net, x: F.apply(Detached(), x) if isinstance(x, Value) else x,
    }
)
operators(
    {
        "expand_as": lambda net, x, other: F.expand(x, other.shape),
        "copy": lambda net, x, source, _: F.cast(F.expand(source, x.shape), x.dtype),
        "slice.Tensor": lambda net, x, axis, *ends: part(x, axis, slice(*ends)),
        "chunk": lambda net, x, count, axis: split(net, x, -(-x.shape[axis] // count), axis),
        "unbind.int": lambda net, x, axis: [part(x, axis, i) for i in range(x.shape[axis])],
        "constant_pad_nd": lambda net, x, widths, value: pad(net, x, widths, "constant", value),
        "index_select": lambda net, x, axis, index: F.take(x, index, axis % len(x.shape)),
    },
    how="NumPy",
)
