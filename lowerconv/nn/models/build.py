"""What the models share: layers of one algorithm and one dtype, and the sizes of their maps."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from lowerconv import nn
from lowerconv.checks import integer

ImageShape = tuple[int, int, int]
Window = tuple[int, int, int, bool]
Build = TypeVar("Build", bound=Callable[..., nn.Module])

# What all functions that return a network take.
ARGUMENTS = """

Parameters
----------
image_shape : (C, H, W)
    In pixels; large enough for a window of each layer.
classes : int
algorithm : str
    Of the convolutions, as for :func:`lowerconv.conv2d`.
dtype : dtype-like, float32 or float64
    Of the parameters.{more}

Returns
-------
Module

Raises
------
TypeError, ValueError
    An argument is of the wrong kind, or the image is too small for a window.
"""


def described(*more: str) -> Callable[[Build], Build]:
    """Return a decorator that tells a network's `ARGUMENTS`, and more of them, in its docstring."""

    def describe(build: Build) -> Build:
        text = inspect.cleandoc(build.__doc__ or "")
        build.__doc__ = text + ARGUMENTS.format(more="".join(f"\n{line}" for line in more))
        return build

    return describe


@dataclass(frozen=True)
class Layers:
    """Makes layers that have parameters, all for the same algorithm and dtype."""

    algorithm: str = "auto"
    dtype: Any = np.float32

    def Conv2d(self, C: int, K: int, size: int | tuple[int, int], **geometry: Any) -> nn.Conv2d:
        """Return a convolution; arguments as of `nn.Conv2d`."""
        return nn.Conv2d(C, K, size, **geometry, algorithm=self.algorithm, dtype=self.dtype)

    def Linear(self, inputs: int, outputs: int) -> nn.Linear:
        """Return a fully connected layer."""
        return nn.Linear(inputs, outputs, dtype=self.dtype)

    def BatchNorm2d(self, channels: int, eps: float = 1e-5) -> nn.BatchNorm2d:
        """Return a batch normalisation."""
        return nn.BatchNorm2d(channels, eps=eps, dtype=self.dtype)


def window(size: int, stride: int, padding: int = 0, ceil_mode: bool = False) -> Window:
    """Return what a convolution or pooling does to the extent of a map."""
    return size, stride, padding, ceil_mode


def map_size(model: str, image_shape: ImageShape, *windows: Window) -> tuple[int, int]:
    """Return rows and columns of the maps that are left after all windows.

    Parameters
    ----------
    model : str
        Named in errors.
    image_shape : (C, H, W)
    *windows : Window
        All that change the extent of a map, from the image on.

    Raises
    ------
    ValueError
        The image has no three extents, or it is too small for a window.
    """
    if len(image_shape) != 3:
        raise ValueError(f"image_shape: got {image_shape}, expected (C, H, W)")
    for extent in image_shape:
        integer(extent, "image_shape", 1)
    _, H, W = image_shape
    rows, columns = _extent(H, windows), _extent(W, windows)
    if not rows or not columns:
        least = next(extent for extent in range(1, 1 << 16) if _extent(extent, windows))
        raise ValueError(
            f"image_shape: got {image_shape}, expected at least {least} x {least} pixels "
            f"for {model}"
        )
    return rows, columns


def _extent(extent: int, windows: tuple[Window, ...]) -> int:
    """Return what is left of an extent, 0 where a window does not fit."""
    for size, stride, padding, ceil_mode in windows:
        room = extent + 2 * padding - size
        if room < 0:
            return 0
        count = (-(-room // stride) if ceil_mode else room // stride) + 1
        # A window that begins in the padding on the far side holds nothing.
        beyond = ceil_mode and (count - 1) * stride >= extent + padding
        extent = count - 1 if beyond else count
    return extent
