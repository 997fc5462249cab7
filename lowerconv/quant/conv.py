"""Convolutions and fully connected layers of integers, with what follows them in the same pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lowerconv.conv.problem import ConvProblem, conv_problem
from lowerconv.conv.words.integer import IntegerConv
from lowerconv.nn.codes import WeightCodes
from lowerconv.nn.frame import Frame
from lowerconv.nn.layer import always
from lowerconv.nn.module import Shape
from lowerconv.nn.step import Step
from lowerconv.ops.quantize import CHANNELS
from lowerconv.ops.ternary_codes import TernaryCodes, is_ternary, unpacked
from lowerconv.quant.convert import WORD, WordLayer
from lowerconv.quant.params import QuantParams


@dataclass(frozen=True, eq=False)
class Filters:
    """What an integer convolution multiplies with: shared by all programs, never changed.

    Attributes
    ----------
    codes : ndarray, (K, C/groups, R, S), int8, or TernaryCodes
        The latter, of 2 bits each, where all are -1, 0 or 1, however they are given.
    scale : ndarray, (K,), float32
        What a code of each filter stands for.
    bias : ndarray, (K,), float32
    """

    codes: np.ndarray | TernaryCodes
    scale: np.ndarray
    bias: np.ndarray

    def __post_init__(self) -> None:
        if isinstance(self.codes, np.ndarray) and is_ternary(self.codes):
            object.__setattr__(self, "codes", TernaryCodes.of(self.codes))

    @classmethod
    def of(cls, weights: WeightCodes, bias: np.ndarray | None) -> Filters:
        """Return those of a layer, which may have no bias."""
        zeros = np.zeros(len(weights.codes), np.float32)
        return cls(*weights, zeros if bias is None else np.asarray(bias, np.float32))

    @property
    def unpacked(self) -> np.ndarray:
        """The codes, (K, C/groups, R, S), int8."""
        return unpacked(self.codes)

    @property
    def nonzero(self) -> int | None:
        """How many codes are not zero; None where they are not ternary."""
        return self.codes.nonzero if isinstance(self.codes, TernaryCodes) else None


@dataclass(frozen=True)
class Epilogue:
    """What becomes of the sums: ``clip(round(sum * scale + shift + residual), low, high)``.

    Attributes
    ----------
    y : QuantParams or None
        Of the result; None: it is float32, and not rounded.
    low, high : int or float
        Of the codes of the result, or of the numbers: a ReLU or a clip is in them.  Numbers are not
        clipped where both are the same.
    residual : QuantParams or None
        Of codes that are added.
    """

    y: QuantParams | None = None
    low: float = 0
    high: float = 0
    residual: QuantParams | None = None


class IntegerConv2d(WordLayer):
    """Convolution of codes by codes, with exact sums.

    ::

        sum[k] = codes[k] . x              int32, of codes as they are; padding is the zero point
        y = sum[k] * scale[k] + shift[k] [+ (residual - zero_point) * step]    each in float32

    where scale and shift have in them the scales of `x`, filters and result, the zero points, and
    the bias.

    Parameters
    ----------
    filters : Filters
    geometry : tuple
        Stride, padding, dilation and groups.
    x : QuantParams
        Of the operand.
    epilogue : Epilogue
    features : bool
        Whether the result is (N, K), without pixels, where it is float32: a fully connected layer.

    Attributes
    ----------
    algorithm : str
        As of `IntegerConv`: "auto", unless another is set before the layer is used.
    """

    algorithm = "auto"

    is_capturable = always

    def __init__(
        self,
        filters: Filters,
        geometry: tuple[Any, ...],
        x: QuantParams,
        epilogue: Epilogue,
        features: bool = False,
    ) -> None:
        super().__init__()
        self.filters, self.geometry, self.x, self.epilogue = filters, geometry, x, epilogue
        self.features = features

    @property
    def range(self) -> tuple[float, float] | None:
        """What the result is clipped to; None: it is all that a number can be."""
        low, high = self.epilogue.low, self.epilogue.high
        return None if self.epilogue.y is None and low == high else (low, high)

    @property
    def result_dtype(self) -> np.dtype:  # type: ignore[override]
        """Words, or float32."""
        return np.dtype(np.float32) if self.epilogue.y is None else WORD

    def own_buffers(self) -> dict[str, np.ndarray]:
        """Return codes, as they are kept, scales and bias."""
        codes = self.filters.codes
        kept = codes.bits if isinstance(codes, TernaryCodes) else codes
        return {"codes": kept, "scale": self.filters.scale, "bias": self.filters.bias}

    def problem(self, x_shape: Shape) -> ConvProblem:
        """Return the convolution that the layer is for words of a shape.

        Parameters
        ----------
        x_shape : (N, ceil(C/4), H, W)

        Returns
        -------
        ConvProblem
        """
        N, words, H, W = x_shape
        shape = self.filters.codes.shape
        C = shape[1] * self.geometry[3]
        if words != -(-C // CHANNELS):
            raise ValueError(f"x: got words of shape {x_shape}, expected those of {C} channels")
        return conv_problem((N, C, H, W), shape, *self.geometry, names=("x", "weight"))

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return (N, ceil(K/4), P, Q), (N, K, P, Q) or (N, K)."""
        p = self.problem(shapes[0])
        if self.epilogue.y is not None:
            return (p.N, -(-p.K // CHANNELS), p.P, p.Q)
        return (p.N, p.K) if self.features else (p.N, p.K, p.P, p.Q)

    def flops(self, *shapes: Shape) -> int:
        """Return the additions and multiplications of the sums."""
        return self.problem(shapes[0]).flops

    def scales(self) -> tuple[np.ndarray, np.ndarray]:
        """Return by what sums of each filter are multiplied, and what is added, float32."""
        filters, x, y = self.filters, self.x, self.epilogue.y
        step = np.float64(1 if y is None else y.scale)
        scale = (filters.scale.astype(np.float64) * x.scale / step).astype(np.float32)
        sums = filters.unpacked.reshape(len(scale), -1).sum(axis=1, dtype=np.int64)
        shift = filters.bias / step - scale.astype(np.float64) * sums * x.zero_point
        return scale, (shift + (0 if y is None else y.zero_point)).astype(np.float32)

    def prepare(self, frame: Frame) -> None:
        """Plan the convolution, and pack the filters."""
        y, x, p = self.epilogue, self.x, self.problem(frame.x.shape)
        result = "float32" if y.y is None else _kind(y.y)
        low, high = self.range or (None, None)
        frame.prepared["forward"] = plan = IntegerConv(
            p,
            x_kind=_kind(x),
            x_zero=x.zero_point,
            out=result,
            low=low,
            high=high,
            residual=None if y.residual is None else _kind(y.residual),
            nonzero=self.filters.nonzero,
            algorithm=self.algorithm,
        )
        frame.workspace_bytes = plan.workspace_bytes
        more: dict[str, Any] = {}
        if y.residual is not None and y.y is not None:
            step = float(np.float32(y.residual.scale / y.y.scale))
            more = {"residual_scale": step, "residual_zero": y.residual.zero_point}
        if frame.filters is not None:
            more |= {"shared": frame.filters, "origin": self.filters}
        plan.prepack(self.filters.codes, *self.scales(), **more)

    def compute(self, frame: Frame, step: Step) -> None:
        """Convolve."""
        plan: IntegerConv = frame.prepared["forward"]
        arrays = [x.array for x in frame.xs]
        plan(*arrays, out=frame.y.array.reshape(plan.out_shape))


def _kind(params: QuantParams) -> str:
    return "s8" if params.signed else "u8"
