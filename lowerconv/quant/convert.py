"""Layers between numbers and codes: explicit steps where a part of a network stays in float32."""

from __future__ import annotations

import numpy as np

from lowerconv.nn.frame import Frame
from lowerconv.nn.layer import Layer, always
from lowerconv.nn.module import Shape
from lowerconv.nn.step import Step
from lowerconv.ops.quantize import CHANNELS, pack_words, unpack_words
from lowerconv.quant.params import QuantParams
from lowerconv.runtime.threads import run

WORD = np.dtype(np.uint32)


def words_shape(shape: Shape) -> Shape:
    """Return the shape of the words of images (N, C, H, W), or of features (N, C)."""
    N, C, H, W = (*shape, 1, 1)[:4]
    return N, -(-C // CHANNELS), H, W


class WordLayer(Layer):
    """A layer of integers, by default one that returns words."""

    result_dtype: np.dtype | None = WORD


class Quantize(WordLayer):
    """Numbers to codes in words.

    Parameters
    ----------
    params : QuantParams
        Of the result.
    """

    is_capturable = always

    def __init__(self, params: QuantParams) -> None:
        super().__init__()
        self.params = params

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return the shape of the words."""
        return words_shape(shapes[0])

    def compute(self, frame: Frame, step: Step) -> None:
        """Round."""
        x = frame.x
        run(pack_words, x.images, frame.y.images, self.params.numbers(x.dtype))


class FromWords(WordLayer):
    """The base of what makes arrays of words.

    Parameters
    ----------
    params : QuantParams
        Of the operand.
    channels : int
        C of the result.
    features : bool
        Whether the result is (N, C), without pixels.
    """

    def __init__(self, params: QuantParams, channels: int, features: bool) -> None:
        super().__init__()
        self.params, self.channels, self.features = params, channels, features

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return (N, C, H, W) or (N, C)."""
        N, _, H, W = shapes[0]
        return (N, self.channels) if self.features else (N, self.channels, H, W)


class Dequantize(FromWords):
    """Codes in words to float32; parameters as of `FromWords`."""

    result_dtype = np.dtype(np.float32)
    is_capturable = always

    def compute(self, frame: Frame, step: Step) -> None:
        """Multiply."""
        y = frame.y
        scale, zero, *_ = self.params.numbers(y.dtype)
        run(unpack_words, frame.x.images, y.images, (scale, zero, self.params.signed))


class Unpack(FromWords):
    """Codes in words to an array of bytes; parameters as of `FromWords`."""

    is_capturable = always

    @property
    def result_dtype(self) -> np.dtype:  # type: ignore[override]
        """The type of the codes."""
        return self.params.dtype

    def compute(self, frame: Frame, step: Step) -> None:
        """Copy."""
        run(unpack_words, frame.x.images, frame.y.images, None)


class Pack(WordLayer):
    """An array of bytes to words."""

    is_capturable = always

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return the shape of the words."""
        return words_shape(shapes[0])

    def compute(self, frame: Frame, step: Step) -> None:
        """Copy."""
        run(pack_words, frame.x.images, frame.y.images, None)
