"""Operators that move items, and those that tell of shapes."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv.nn import functional as F
from lowerconv.nn.graph import Value
from lowerconv.onnx.operators.windows import room
from lowerconv.onnx.registry import Node, operator


def numbers(value: Any, name: str) -> list[int]:
    """Return an operand that shapes depend on: it must be known before arrays are."""
    if isinstance(value, Value):
        raise ValueError(f"{name}: depends on the contents of the input, expected constants")
    return [int(n) for n in np.reshape(value, -1)]


@operator("Constant", moves=True)
def constant(node: Node) -> Any:
    """Import Constant."""
    for name in ("value", "value_float", "value_int", "value_floats", "value_ints"):
        if name in node.attributes:
            kind = np.float32 if "float" in name else np.int64 if "int" in name else None
            return np.asarray(node.attributes[name], kind)
    raise ValueError("has no value that is an array of numbers")


@operator("ConstantOfShape", contents=(0,), moves=True)
def constant_of_shape(node: Node, shape: Any) -> Any:
    """Import ConstantOfShape."""
    value = node.get("value", np.zeros(1, np.float32))
    room(numbers(shape, "shape"), value.dtype, "the result")
    return np.full(numbers(shape, "shape"), value.reshape(-1)[0], value.dtype)


@operator("Shape", moves=True)
def shape_of(node: Node, x: Any) -> Any:
    """Import Shape."""
    return np.array(x.shape[node.get("start", 0) : node.get("end")], np.int64)


@operator("Size", moves=True)
def size_of(node: Node, x: Any) -> Any:
    """Import Size."""
    return np.array(int(np.prod(x.shape)), np.int64)


@operator("Reshape", since=1, moves=True)
def reshape_by_attribute(node: Node, x: Any) -> Any:
    """Import Reshape, whose shape is an attribute before version 5."""
    return _reshaped(node, x, list(node.attributes["shape"]))


@operator("Reshape", since=5, contents=(1,), moves=True)
def reshape(node: Node, x: Any, shape: Any) -> Any:
    """Import Reshape."""
    return _reshaped(node, x, numbers(shape, "shape"))


def _reshaped(node: Node, x: Any, shape: list[int]) -> Any:
    if not node.get("allowzero", 0):
        shape = [x.shape[i] if n == 0 else n for i, n in enumerate(shape)]
    return F.reshape(x, shape)


@operator("Flatten", moves=True)
def flatten(node: Node, x: Any) -> Any:
    """Import Flatten."""
    axis = node.get("axis", 1)
    axis = axis + len(x.shape) if axis < 0 else axis
    rows = int(np.prod(x.shape[:axis], dtype=np.int64))
    return F.reshape(x, (rows, int(np.prod(x.shape[axis:], dtype=np.int64))))


@operator("Transpose", moves=True)
def transpose(node: Node, x: Any) -> Any:
    """Import Transpose."""
    return F.transpose(x, node.get("perm") or range(len(x.shape))[::-1])


def _axes(node: Node, operand: Any) -> list[int] | None:
    if operand is not None:
        return numbers(operand, "axes")
    return node.get("axes")


@operator("Squeeze", contents=(1,), moves=True)
def squeeze(node: Node, x: Any, axes: Any = None) -> Any:
    """Import Squeeze."""
    found = _axes(node, axes)
    rank = len(x.shape)
    gone = (
        {i for i, n in enumerate(x.shape) if n == 1} if found is None else {a % rank for a in found}
    )
    if any(x.shape[a] != 1 for a in gone):
        raise ValueError(f"axes: got {found} for shape {x.shape}, expected axes of extent 1")
    return F.reshape(x, [n for i, n in enumerate(x.shape) if i not in gone])


@operator("Unsqueeze", contents=(1,), moves=True)
def unsqueeze(node: Node, x: Any, axes: Any = None) -> Any:
    """Import Unsqueeze."""
    found = _axes(node, axes)
    if found is None:
        raise ValueError("has no axes")
    rank = len(x.shape) + len(found)
    new = sorted(a % rank for a in found)
    shape = list(x.shape)
    for axis in new:
        shape.insert(axis, 1)
    return F.reshape(x, shape)


@operator("Concat", moves=True)
def concat(node: Node, *xs: Any) -> Any:
    """Import Concat."""
    some = [x for x in xs if x.ndim != 1 or x.shape != (0,)]
    return F.concat(some or xs[:1], node.get("axis", 1))


@operator("Split", how="NumPy", contents=(1,), moves=True)
def split(node: Node, x: Any, sizes: Any = None) -> Any:
    """Import Split."""
    axis = node.get("axis", 0) % len(x.shape)
    count = node.get("num_outputs", len(node.outputs))
    if sizes is not None:
        lengths = numbers(sizes, "split")
    elif node.get("split"):
        lengths = list(node.get("split"))
    else:
        each = -(-x.shape[axis] // count)
        lengths = [min(each, x.shape[axis] - i * each) for i in range(count)]
    if sum(lengths) != x.shape[axis] or min(lengths) < 0:
        raise ValueError(f"split: got {lengths} of {x.shape[axis]}")
    ends = np.cumsum(lengths)
    before = (slice(None),) * axis
    return tuple(
        F.getitem(x, (*before, slice(int(end) - n, int(end))))
        for n, end in zip(lengths, ends, strict=True)
    )


@operator("Slice", since=1, how="NumPy", moves=True)
def slice_by_attributes(node: Node, x: Any) -> Any:
    """Import Slice, whose bounds are attributes before version 10."""
    starts, ends = node.attributes["starts"], node.attributes["ends"]
    return _sliced(x, starts, ends, node.get("axes") or range(len(starts)), [1] * len(starts))


@operator("Slice", since=10, how="NumPy", contents=(1, 2, 3, 4), moves=True)
def slice_by_operands(
    node: Node, x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None
) -> Any:
    """Import Slice."""
    first, last = numbers(starts, "starts"), numbers(ends, "ends")
    over = range(len(first)) if axes is None else numbers(axes, "axes")
    return _sliced(
        x, first, last, over, [1] * len(first) if steps is None else numbers(steps, "steps")
    )


def _sliced(x: Any, starts: Any, ends: Any, axes: Any, steps: Any) -> Any:
    index = [slice(None)] * len(x.shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        extent = x.shape[axis]
        if step == 0:
            raise ValueError("steps: got 0")
        if step > 0:
            start = max(0, start + extent) if start < 0 else min(start, extent)
            end = max(0, end + extent) if end < 0 else min(end, extent)
            index[axis] = slice(start, max(start, end), step)
        else:
            start = start + extent if start < 0 else min(start, extent - 1)
            end = end + extent if end < 0 else end
            end = max(-1, end)
            index[axis] = (
                slice(start, None if end < 0 else end, step) if start >= 0 else slice(0, 0)
            )
    if all(
        s == slice(None) or (s.start, s.stop, s.step) == (0, n, 1)
        for s, n in zip(index, x.shape, strict=True)
    ):
        return x
    return F.getitem(x, tuple(index))


_MODES = {"constant": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}


@operator("Pad", since=1, how="NumPy", moves=True)
def pad_by_attributes(node: Node, x: Any) -> Any:
    """Import Pad, whose widths are attributes before version 11."""
    flat = node.get("pads") or node.attributes["paddings"]
    return _padded(node, x, list(flat), node.get("value", 0.0))


@operator("Pad", since=11, how="NumPy", contents=(1, 2, 3), moves=True)
def pad(node: Node, x: Any, widths: Any, value: Any = None, axes: Any = None) -> Any:
    """Import Pad."""
    flat, rank = numbers(widths, "pads"), len(x.shape)
    if axes is not None:
        over = [a % rank for a in numbers(axes, "axes")]
        full = [0] * 2 * rank
        for i, axis in enumerate(over):
            full[axis], full[rank + axis] = flat[i], flat[len(over) + i]
        flat = full
    if isinstance(value, Value):
        raise ValueError("value: depends on the contents of the input, expected a constant")
    return _padded(node, x, flat, 0 if value is None else np.reshape(value, -1)[0])


def _padded(node: Node, x: Any, flat: list[int], value: Any) -> Any:
    mode, rank = node.get("mode", "constant"), len(x.shape)
    if mode not in _MODES or len(flat) != 2 * rank:
        raise ValueError(f"got mode {mode!r} and pads {flat} for an array of {rank} axes")
    room([n + flat[i] + flat[rank + i] for i, n in enumerate(x.shape)], x.dtype, "the result")
    return F.pad(x, [(flat[i], flat[rank + i]) for i in range(rank)], _MODES[mode], value)


@operator("Expand", how="NumPy", contents=(1,), moves=True)
def expand(node: Node, x: Any, shape: Any) -> Any:
    """Import Expand."""
    return F.expand(x, numbers(shape, "shape"))


@operator("Tile", how="NumPy", contents=(1,), moves=True)
def tile(node: Node, x: Any, repeats: Any) -> Any:
    """Import Tile."""
    times = numbers(repeats, "repeats")
    whole = [n * t for n, t in zip(x.shape, times, strict=True)]
    room(whole, x.dtype, "the result")
    return F.computed("tile", lambda x: np.tile(x, times), x)


@operator("DepthToSpace", how="NumPy", moves=True)
def depth_to_space(node: Node, x: Any) -> Any:
    """Import DepthToSpace, as reshapes around a transposition."""
    size = node.attributes["blocksize"]
    N, C, H, W = x.shape
    C //= size * size
    if node.get("mode", "DCR") == "DCR":
        y = F.transpose(F.reshape(x, (N, size, size, C, H, W)), (0, 3, 4, 1, 5, 2))
    else:
        y = F.transpose(F.reshape(x, (N, C, size, size, H, W)), (0, 1, 4, 2, 5, 3))
    return F.reshape(y, (N, C, H * size, W * size))


@operator("SpaceToDepth", how="NumPy", moves=True)
def space_to_depth(node: Node, x: Any) -> Any:
    """Import SpaceToDepth, as reshapes around a transposition."""
    size = node.attributes["blocksize"]
    N, C, H, W = x.shape
    y = F.reshape(x, (N, C, H // size, size, W // size, size))
    y = F.transpose(y, (0, 1, 3, 5, 2, 4) if node.get("mode") == "CRD" else (0, 3, 5, 1, 2, 4))
    return F.reshape(y, (N, C * size * size, H // size, W // size))


@operator("Range", contents="all")
def arange(node: Node, start: Any, limit: Any, delta: Any) -> Any:
    """Import Range."""
    if any(isinstance(v, Value) for v in (start, limit, delta)):
        raise ValueError("depends on the contents of the input, expected constants")
    first, last, step = (v.reshape(()).item() for v in (start, limit, delta))
    room([int(max(0, (last - first) / step)) + 1], start.dtype, "the result")
    return np.arange(first, last, step).astype(start.dtype)
