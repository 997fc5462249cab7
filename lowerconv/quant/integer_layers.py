"""Layers of codes that are not convolutions: sums, functions, pooling, concatenation."""

from __future__ import annotations

import numpy as np

from lowerconv.nn.combine import Concat
from lowerconv.nn.frame import Frame
from lowerconv.nn.functional.operands import apply
from lowerconv.nn.layer import Layer, always
from lowerconv.nn.module import Shape
from lowerconv.nn.norm import LocalResponseNorm
from lowerconv.nn.pooling import AvgPool2d, MaxPool2d
from lowerconv.nn.step import Step
from lowerconv.ops.codes import (
    Rounding,
    Scaled,
    add_codes,
    avg_pool_codes,
    look_up_codes,
    max_pool_codes,
    set_channels,
)
from lowerconv.ops.quantize import CHANNELS, bytes_of
from lowerconv.ops.response_norm_codes import response_norm_codes
from lowerconv.quant.convert import WordLayer
from lowerconv.quant.params import QuantParams
from lowerconv.quant.qdq import quantized
from lowerconv.runtime.threads import run


def _scaled(x: QuantParams, y: QuantParams) -> tuple[np.floating, ...]:
    """Return how codes become steps of a result, as kernels take it."""
    return tuple(Scaled(np.float32(x.zero_point), np.float32(x.scale / y.scale)))


class Clipped(WordLayer):
    """What layers of codes have in common whose results are rounded.

    Parameters
    ----------
    y : QuantParams
        Of the result.
    low, high : int
        Of its codes: a ReLU or a clip is in them.
    """

    def __init__(self, y: QuantParams, low: int, high: int) -> None:
        super().__init__()
        self.y, self.low, self.high = y, low, high

    @property
    def rounding(self) -> tuple[np.floating, ...]:
        """How sums become codes, as kernels take it."""
        own = Rounding(np.float32(self.y.zero_point), np.float32(self.low), np.float32(self.high))
        return tuple(own)


class IntegerAdd(Clipped):
    """The sum of two tensors, each of codes of its own.

    Parameters
    ----------
    a, b : QuantParams
        Of the operands.
    y, low, high
        As of `Clipped`.
    """

    is_capturable = always

    def __init__(self, a: QuantParams, b: QuantParams, y: QuantParams, low: int, high: int) -> None:
        super().__init__(y, low, high)
        self.a, self.b = a, b

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return the common shape."""
        if shapes[0] != shapes[1]:
            raise ValueError(f"values: got shapes {shapes[0]} and {shapes[1]}, expected the same")
        return shapes[0]

    def compute(self, frame: Frame, step: Step) -> None:
        """Add."""
        a, b = (
            bytes_of(x.images, params.signed)
            for x, params in zip(frame.xs, (self.a, self.b), strict=True)
        )
        y = bytes_of(frame.y.images, self.y.signed)
        scales = _scaled(self.a, self.y), _scaled(self.b, self.y)
        run(add_codes, a, b, y, scales, self.rounding)


class Lookup(WordLayer):
    """Any function of one number: a table with the code of the result for each code.

    Parameters
    ----------
    function : Layer or None
        Computes it for float32; None: the same number as another code.
    x, y : QuantParams
        Of operand and result.

    Attributes
    ----------
    table : ndarray, (256,), uint8
        By the bits of the codes.
    """

    in_place = True
    is_capturable = always

    def __init__(self, function: Layer | None, x: QuantParams, y: QuantParams) -> None:
        super().__init__()
        self.function, self.x, self.y = function, x, y
        values = x.values()
        made = values if function is None else np.asarray(apply(function, values))
        self.table = quantized(made.astype(np.float32), y).view(np.uint8)

    def compute(self, frame: Frame, step: Step) -> None:
        """Look all codes up."""
        x, y = (bytes_of(tensor.images, False) for tensor in (frame.x, frame.y))
        run(look_up_codes, x, y, self.table)


class IntegerMaxPool2d(WordLayer):
    """The largest code of each window.

    Parameters
    ----------
    pool : MaxPool2d
    x : QuantParams
        Of operand and result.
    """

    is_capturable = always

    def __init__(self, pool: MaxPool2d, x: QuantParams) -> None:
        super().__init__()
        self.pool, self.x = pool, x

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return (N, ceil(C/4), P, Q)."""
        return self.pool.result_shape(*shapes)

    def compute(self, frame: Frame, step: Step) -> None:
        """Find the maxima."""
        x, y = (bytes_of(tensor.images, self.x.signed) for tensor in (frame.x, frame.y))
        run(max_pool_codes, x, y, tuple(self.pool._windows(frame.x.shape)))


class IntegerAvgPool2d(Clipped):
    """The mean of each window: integer sums, then one rounding.

    Parameters
    ----------
    pool : AvgPool2d
        Or its kind for whole images.
    x : QuantParams
        Of the operand.
    y, low, high
        As of `Clipped`.
    """

    is_capturable = always

    def __init__(
        self, pool: AvgPool2d, x: QuantParams, y: QuantParams, low: int, high: int
    ) -> None:
        super().__init__(y, low, high)
        self.pool, self.x = pool, x

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return (N, ceil(C/4), P, Q)."""
        return self.pool.result_shape(*shapes)

    def compute(self, frame: Frame, step: Step) -> None:
        """Compute the means."""
        windows = tuple(self.pool._windows(frame.x.shape))
        x, y = bytes_of(frame.x.images, self.x.signed), bytes_of(frame.y.images, self.y.signed)
        include = self.pool.count_include_pad
        scaled = _scaled(self.x, self.y)
        run(avg_pool_codes, x, y, windows, include, scaled, self.rounding)


class IntegerResponseNorm(Clipped):
    """Local response norm: numbers of codes, in float32, then one rounding.

    Parameters
    ----------
    norm : LocalResponseNorm
    channels : int
    x : QuantParams
        Of the operand.
    y, low, high
        As of `Clipped`.
    """

    is_capturable = always

    def __init__(
        self,
        norm: LocalResponseNorm,
        channels: int,
        x: QuantParams,
        y: QuantParams,
        low: int,
        high: int,
    ) -> None:
        super().__init__(y, low, high)
        self.norm, self.channels, self.x = norm, channels, x

    def compute(self, frame: Frame, step: Step) -> None:
        """Normalise."""
        x, y = bytes_of(frame.x.images, self.x.signed), bytes_of(frame.y.images, self.y.signed)
        numbers = tuple(Scaled(np.float32(self.x.zero_point), np.float32(self.x.scale)))
        steps = np.float32(1 / self.y.scale)
        window = self.norm.window
        run(response_norm_codes, x, y, window, self.channels, numbers, steps, self.rounding)


class IntegerConcat(Concat):
    """Channels of one tensor of codes after those of another, all of one scale.

    Where words of all but the last one are full, values are computed where they belong; else
    channels are copied one by one.

    Parameters
    ----------
    channels : tuple of int
        Of each operand.
    y : QuantParams
        Of the operands and the result.
    """

    is_capturable = always

    def __init__(self, channels: tuple[int, ...], y: QuantParams) -> None:
        super().__init__()
        self.channels, self.y = channels, y
        self.is_concatenation = not any(C % CHANNELS for C in channels[:-1])

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return the common shape with the channels of all."""
        N, _, H, W = super().result_shape(*shapes)
        return N, -(-sum(self.channels) // CHANNELS), H, W

    def compute(self, frame: Frame, step: Step) -> None:
        """Copy what is not there yet."""
        if self.is_concatenation:
            super().compute(frame, step)
            return
        begin = 0
        for x, C in zip(frame.xs, self.channels, strict=True):
            pair = bytes_of(x.images, False), bytes_of(frame.y.images, False)
            run(set_channels, *pair, C, begin)
            begin += C
