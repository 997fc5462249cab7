"""Integer codes of weights, one scale for each filter: what a layer's weights are, exactly."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LARGEST = 128  # magnitude of a code


class WeightCodes(NamedTuple):
    """Weights as integers, ``weight[k] = scale[k] * codes[k]``.

    Attributes
    ----------
    codes : ndarray, (K, ...), int8
    scale : ndarray, (K,), float32
    """

    codes: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, weight: np.ndarray, bits: int = 8, bound: np.ndarray | None = None) -> WeightCodes:
        """Return the nearest codes of weights: the largest weight of a filter has the largest one.

        Parameters
        ----------
        weight : ndarray, (K, ...)
        bits : int
            2 to 8; the codes are symmetric, -127 to 127 of 8 bits.
        bound : ndarray, (K,), optional
            The scales are at least this.
        """
        rows = weight.reshape(len(weight), -1)
        high = (1 << (bits - 1)) - 1
        scale = np.abs(rows).max(axis=1, initial=0).astype(np.float64) / high
        if bound is not None:
            scale = np.maximum(scale, bound)
        # One that is denormal in float32 has few digits: its filter is zero.
        tiny = np.finfo(np.float32).tiny
        scale = np.where(scale < tiny, 1, scale).astype(np.float32)
        codes = np.clip(np.rint(rows / scale[:, None]), -high, high).astype(np.int8)
        return cls(codes.reshape(weight.shape), scale)

    def scaled(self, factor: np.ndarray) -> WeightCodes:
        """Return the codes of weights that are multiplied with a number for each filter."""
        return WeightCodes(self.codes, (self.scale * factor).astype(np.float32))

    def finer(self) -> WeightCodes:
        """Return the same weights as codes of all 8 bits: a power of two times as large."""
        most = int(np.abs(self.codes.astype(np.int16)).max(initial=0))
        factor = 1 << max(0, 7 - most.bit_length()) if most else 1
        return WeightCodes(self.codes * np.int8(factor), self.scale / np.float32(factor))

    def weights(self, dtype: np.dtype) -> np.ndarray:
        """Return the weights."""
        scale = self.scale.reshape(-1, *(1,) * (self.codes.ndim - 1))
        return (self.codes * scale).astype(dtype)
