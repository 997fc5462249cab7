"""Pooling layers."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from lowerconv.checks import Pair, pair
from lowerconv.codegen.isa import host_isa
from lowerconv.codegen.pooling import PoolKernel, pools
from lowerconv.nn.frame import Frame
from lowerconv.nn.layer import Layer, always
from lowerconv.nn.module import Shape
from lowerconv.nn.moving import COMPILED
from lowerconv.nn.step import Step
from lowerconv.ops.avg_pool import avg_pool, avg_pool_grad
from lowerconv.ops.max_pool import max_pool, max_pool_grad
from lowerconv.ops.pool import pool
from lowerconv.ops.windows import Windows
from lowerconv.runtime.threads import get_num_threads, run
from lowerconv.runtime.workspace import check_bytes

MOST_TAPS = 2**31 - 1  # of a window: their numbers are 32-bit integers


def _pooled(extent: int, size: int, stride: int, pad: int, ceil_mode: bool) -> int:
    """Return the number of windows along one axis, as PyTorch counts them."""
    room = extent + 2 * pad - size
    windows = (-(-room // stride) if ceil_mode else room // stride) + 1
    if ceil_mode and (windows - 1) * stride >= extent + pad:
        windows -= 1  # one that begins in the padding on the far side holds nothing
    if extent < 1 or windows < 1:
        raise ValueError(
            f"x: got {extent} pixels along an axis, expected enough for a window with kernel_size "
            f"{size}, stride {stride}, padding {pad} and ceil_mode {ceil_mode}"
        )
    return windows


class _Pool(Layer):
    """What both kinds of pooling share: the arguments of PyTorch's layers and the shapes."""

    mean = False  # whether a result is the mean of its window, else the largest pixel
    rows: int | None = None  # of windows, where those above and below are computed elsewhere

    def __init__(
        self,
        kernel_size: int | Pair,
        stride: int | Pair | None = None,
        padding: int | Pair = 0,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.size = pair(kernel_size, "kernel_size", 1)
        self.stride = self.size if stride is None else pair(stride, "stride", 1)
        self.padding = pair(padding, "padding", 0)
        self.ceil_mode = bool(ceil_mode)
        if any(2 * pad > size for pad, size in zip(self.padding, self.size, strict=True)):
            raise ValueError(
                f"padding: got {self.padding}, expected at most half of kernel_size {self.size}"
            )

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return (N, C, P, Q)."""
        (shape,) = shapes
        if len(shape) != 4:
            raise ValueError(f"x: got shape {shape}, expected (N, C, H, W)")
        axes = zip(shape[2:], self.size, self.stride, self.padding, strict=True)
        H, W = ((*axis, self.ceil_mode) for axis in axes)
        pooled = _pooled(*H) if self.rows is None else self.rows, _pooled(*W)
        if prod(self._windows(shape).size) > MOST_TAPS:
            raise ValueError(
                f"kernel_size: got {self.size} with padding {self.padding}, expected at most "
                f"{MOST_TAPS:,} pixels in a window"
            )
        return (*shape[:2], *pooled)

    def _windows(self, x_shape: Shape) -> Windows:
        """Return the windows for the kernels, whose work and scratch memory grow with their size.

        What a window has beyond the padding on the far side is never read, and a longer stride than
        the padded image has no second window.
        """
        H, W = (extent + 2 * pad for extent, pad in zip(x_shape[2:], self.padding, strict=True))
        (R, S), (rows, columns) = self.size, self.stride
        return Windows((min(R, H), min(S, W)), (min(rows, H), min(columns, W)), self.padding)

    def prepare(self, frame: Frame) -> None:
        """Refuse windows that this machine has no scratch memory for: kernels cannot."""
        scratch = prod(self._windows(frame.x.shape).size) * frame.dtype.itemsize * get_num_threads()
        check_bytes(scratch, f"kernel_size {self.size}: scratch memory of all threads")
        windows, isa = self._windows(frame.x.shape), host_isa()
        known = pools(isa, windows.size, windows.stride) and frame.dtype in COMPILED
        if known and not frame.has_half and self._has_one_area(frame):
            kernel = PoolKernel(isa, frame.dtype, windows.size[1], windows.stride[1], self.mean)
            frame.prepared["kernel"] = kernel.address()

    def _has_one_area(self, frame: Frame) -> bool:
        """Return whether means divide by the same number of pixels in all windows."""
        return True

    def _pool(self, frame: Frame) -> None:
        """Compute by the emitted kernel, which tells no winners."""
        windows = tuple(self._windows(frame.x.shape))
        run(pool, frame.x.images, frame.y.images, windows, frame.prepared["kernel"])


class MaxPool2d(_Pool):
    """The largest pixel of each window; arguments as in PyTorch.

    Parameters
    ----------
    kernel_size : int or (rows, columns)
        In pixels.
    stride : int or (rows, columns), optional
        In pixels; by default `kernel_size`.
    padding : int or (rows, columns)
        In pixels; at most half of `kernel_size`.
    ceil_mode : bool
        Whether a last window that is not full counts.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or out of range.
    """

    is_capturable = takes_half = always

    def saved(self, *shapes: Shape) -> dict[str, tuple[Shape, Any]]:
        """Return what tells which pixel of each window was the largest."""
        few = prod(self._windows(shapes[0]).size) <= 256
        winner = np.dtype(np.uint8 if few else np.int32)
        return {"winner": ((prod(self.result_shape(*shapes)),), winner)}

    def prepare(self, frame: Frame) -> None:
        """Have an array for the winners; an empty one at inference, which records none."""
        super().prepare(frame)
        frame.saved.setdefault("winner", np.empty(0, np.uint8))

    def compute(self, frame: Frame, step: Step) -> None:
        """Find the maxima."""
        x, y, winner = frame.x, frame.y, frame.saved["winner"]
        if not winner.size and "kernel" in frame.prepared:
            self._pool(frame)
            return
        run(max_pool, x.images, y.images, winner, tuple(self._windows(x.shape)))

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Give the gradient to the places of the maxima."""
        dx, dy, winner = frame.dx, frame.gradient, frame.saved["winner"]
        if dx is not None:
            windows = tuple(self._windows(dx.shape))
            run(max_pool_grad, dy.images, winner, dx.images, windows, frame.adds[0])


class AvgPool2d(_Pool):
    """The mean of each window; arguments as in PyTorch.

    Parameters
    ----------
    kernel_size : int or (rows, columns)
        In pixels.
    stride : int or (rows, columns), optional
        In pixels; by default `kernel_size`.
    padding : int or (rows, columns)
        In pixels; at most half of `kernel_size`.
    ceil_mode : bool
        Whether a last window that is not full counts.
    count_include_pad : bool
        Whether pixels of the padding count as zeros, and not as absent.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or out of range.
    """

    mean = True
    is_capturable = takes_half = always

    def __init__(
        self,
        kernel_size: int | Pair,
        stride: int | Pair | None = None,
        padding: int | Pair = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.count_include_pad = bool(count_include_pad)

    def _has_one_area(self, frame: Frame) -> bool:
        """Return whether all windows are whole, or what lies in the padding counts."""
        if self.rows is not None:  # the padding below is not known
            return False
        axes = zip(
            *(frame.x.shape[2:], frame.y.shape[2:], self.size, self.stride, self.padding),
            strict=True,
        )
        whole = all((P - 1) * step + size <= H + 2 * pad for H, P, size, step, pad in axes)
        return whole and (self.count_include_pad or not any(self.padding))

    def compute(self, frame: Frame, step: Step) -> None:
        """Compute the means."""
        x, y = frame.x, frame.y
        if "kernel" in frame.prepared:
            self._pool(frame)
            return
        run(avg_pool, x.images, y.images, tuple(self._windows(x.shape)), self.count_include_pad)

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Spread the gradient evenly over the windows."""
        dx, dy, count_pad = frame.dx, frame.gradient, self.count_include_pad
        if dx is not None:
            windows = tuple(self._windows(dx.shape))
            run(avg_pool_grad, dy.images, dx.images, windows, count_pad, frame.adds[0])


class GlobalAvgPool2d(AvgPool2d):
    """The mean of every channel, (N, C, 1, 1)."""

    def __init__(self) -> None:
        super().__init__(1)

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return (N, C, 1, 1)."""
        if len(shapes[0]) != 4:
            raise ValueError(f"x: got shape {shapes[0]}, expected (N, C, H, W)")
        return (*shapes[0][:2], 1, 1)

    def prepare(self, frame: Frame) -> None:
        """Do nothing: a mean of all pixels takes no scratch memory."""

    def _windows(self, x_shape: Shape) -> Windows:
        _, _, H, W = x_shape
        return Windows((H, W), (H, W), (0, 0))
