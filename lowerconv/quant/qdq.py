"""ONNX's QuantizeLinear and DequantizeLinear: what a network says of its codes.

A graph in which they stand around operators tells what is to be computed with integers, whoever
made it: `lowerconv.quant.to_integers` makes integer layers of such operators.  What is left over
computes as it says.
"""

from __future__ import annotations

import numpy as np

from lowerconv.nn.frame import Frame
from lowerconv.nn.layer import Layer
from lowerconv.nn.step import Step
from lowerconv.quant.params import QuantParams


def quantized(x: np.ndarray, params: QuantParams) -> np.ndarray:
    """Return the codes of numbers; NaN becomes the lowest one.

    Parameters
    ----------
    x : ndarray
    params : QuantParams

    Returns
    -------
    ndarray, uint8 or int8
    """
    scale, zero, low, high = params.numbers(x.dtype)
    with np.errstate(all="ignore"):
        codes = np.rint(x / scale) + zero
        return np.where(codes > low, np.minimum(codes, high), low).astype(params.dtype)


def dequantized(codes: np.ndarray, params: QuantParams) -> np.ndarray:
    """Return the numbers that codes stand for, float32.

    Parameters
    ----------
    codes : ndarray, uint8 or int8
    params : QuantParams

    Returns
    -------
    ndarray
    """
    scale, zero, *_ = params.numbers(np.dtype(np.float32))
    return (codes.astype(np.float32) - zero) * scale


class QuantizeLinear(Layer):
    """Numbers to codes, one byte each.

    Parameters
    ----------
    params : QuantParams
    """

    def __init__(self, params: QuantParams) -> None:
        super().__init__()
        self.params, self.result_dtype = params, params.dtype

    def compute(self, frame: Frame, step: Step) -> None:
        """Round."""
        frame.y.array[...] = quantized(frame.x.array, self.params)


class DequantizeLinear(Layer):
    """Codes to float32.

    Parameters
    ----------
    params : QuantParams
    """

    result_dtype = np.dtype(np.float32)

    def __init__(self, params: QuantParams) -> None:
        super().__init__()
        self.params = params

    def compute(self, frame: Frame, step: Step) -> None:
        """Multiply."""
        frame.y.array[...] = dequantized(frame.x.array, self.params)
