"""Layers that place their operands in a larger array: side by side, or among zeros."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from lowerconv.nn.computed import Computed
from lowerconv.nn.frame import Frame
from lowerconv.nn.moving import COMPILED
from lowerconv.nn.step import Step
from lowerconv.ops.place import place
from lowerconv.runtime.threads import run


def _places(frame: Frame, axis: int, starts: Sequence[int], fills: bool) -> list[Any] | None:
    """Return how operands are placed in the result along an axis; None where NumPy has to.

    Parameters
    ----------
    frame : Frame
    axis : int
    starts : sequence of int
        Where along the axis each operand begins.
    fills : bool
        Whether what is around it becomes zeros.

    Returns
    -------
    list of tuple or None
        For each operand what `ops.place.place` takes beside arrays.
    """
    shape, tensors = frame.y.shape, (*frame.xs, frame.y)
    if any(not t.whole or t.dtype != frame.y.dtype or 0 in t.shape for t in tensors):
        return None
    if frame.dtype not in COMPILED:
        return None
    rows, inner, whole = prod(shape[:axis]), prod(shape[axis + 1 :]), prod(shape[axis:])
    return [
        (rows, x.shape[axis] * inner, start * inner, whole, fills)
        for x, start in zip(frame.xs, starts, strict=True)
    ]


class Placed(Computed):
    """Operands in a larger array; who derives from it says where."""

    def starts(self, frame: Frame) -> tuple[int, Sequence[int], bool] | None:
        """Return an axis, where along it operands begin, and whether zeros are around them."""
        raise NotImplementedError

    def prepare(self, frame: Frame) -> None:
        """Decide how: along one axis by compiled loops."""
        found = self.starts(frame)
        frame.prepared["places"] = None if found is None else _places(frame, *found)

    def compute(self, frame: Frame, step: Step) -> None:
        """Copy the operands."""
        if frame.prepared["places"] is None:
            super().compute(frame, step)
            return
        for x, where in zip(frame.xs, frame.prepared["places"], strict=True):
            run(place, x.flat, frame.y.flat, *where)

    def is_capturable(self, frame: Frame) -> bool:
        """Return whether `compute` only launches kernels, and leaves nothing to NumPy."""
        return frame.prepared["places"] is not None


class Joined(Placed):
    """Operands one after the other along an axis."""

    def __init__(self, *arguments: Any, axis: int) -> None:
        super().__init__(*arguments)
        self.axis = axis

    def starts(self, frame: Frame) -> tuple[int, Sequence[int], bool]:
        """Return where operands begin: where the ones before end."""
        sizes = [x.shape[self.axis] for x in frame.xs]
        return self.axis, [sum(sizes[:i]) for i in range(len(sizes))], False
