"""Convolutions of words, for now by float64, whose sums of such products are exact."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv.functional import conv2d


def channels_of(words: np.ndarray, channels: int, dtype: Any) -> np.ndarray:
    """Return the codes of words, (N, C, H, W)."""
    N, planes, H, W = words.shape
    split = np.ascontiguousarray(words).view(dtype).reshape(N, planes, H, W, 4)
    return split.transpose(0, 1, 4, 2, 3).reshape(N, 4 * planes, H, W)[:, :channels]


def words_of(codes: np.ndarray) -> np.ndarray:
    """Return codes (N, C, H, W) in words."""
    N, C, H, W = codes.shape
    planes = -(-C // 4)
    padded = np.zeros((N, 4 * planes, H, W), codes.dtype)
    padded[:, :C] = codes
    split = padded.reshape(N, planes, 4, H, W).transpose(0, 1, 3, 4, 2)
    return np.ascontiguousarray(split).view(np.uint32)[..., 0]


def convolve(layer: Any, words: np.ndarray, residual: np.ndarray | None) -> np.ndarray:
    """Return the result of a layer, in words or float32."""
    problem, codes = layer.problem(words.shape), layer.filters.codes
    x = channels_of(words, problem.C, layer.x.dtype).astype(np.float64) - layer.x.zero_point
    sums = conv2d(np.ascontiguousarray(x), codes.astype(np.float64), None, *layer.geometry)
    scale, shift = layer.scales()
    totals = codes.reshape(len(codes), -1).sum(axis=1, dtype=np.int64) * layer.x.zero_point
    raw = sums + totals[:, None, None]  # as if padding were the zero point
    y = raw.astype(np.float32) * scale[:, None, None] + shift[:, None, None]
    epilogue = layer.epilogue
    if epilogue.residual is not None and residual is not None:
        own, step = epilogue.residual, np.float32(epilogue.residual.scale / epilogue.y.scale)
        r = channels_of(residual, problem.K, own.dtype).astype(np.float32)
        y = y + (r - np.float32(own.zero_point)) * step
    if epilogue.y is None:
        return y
    return words_of(np.clip(np.rint(y), epilogue.low, epilogue.high).astype(epilogue.y.dtype))
