"""What integer layers must compute, in plain NumPy: the oracle of all their tests."""

from typing import Any

import numpy as np


def words_of(codes: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    """Return codes (N, C, H, W) in words, channels that are not there filled with anything."""
    N, C, H, W = codes.shape
    planes = -(-C // 4)
    padded = np.zeros((N, 4 * planes, H, W), codes.dtype)
    if rng is not None:
        padded[:] = rng.integers(0, 256, padded.shape).astype(np.uint8).view(codes.dtype)
    padded[:, :C] = codes
    split = padded.reshape(N, planes, 4, H, W).transpose(0, 1, 3, 4, 2)
    return np.ascontiguousarray(split).view(np.uint32)[..., 0]


def codes_of(words: np.ndarray, C: int, dtype: Any) -> np.ndarray:
    """Return codes (N, C, H, W) of words."""
    N, planes, H, W = words.shape
    split = np.ascontiguousarray(words).view(dtype).reshape(N, planes, H, W, 4)
    return split.transpose(0, 1, 4, 2, 3).reshape(N, -1, H, W)[:, :C]


def sums(x: np.ndarray, w: np.ndarray, zero: int, problem: Any) -> np.ndarray:
    """Return the sums of a convolution of codes; padding is the zero point."""
    p = problem
    (top, bottom), (left, right) = p.padding
    padded = np.pad(
        x.astype(np.int64),
        ((0, 0), (0, 0), (top, bottom), (left, right)),
        constant_values=zero,
    )
    result = np.zeros((p.N, p.K, p.P, p.Q), np.int64)
    C, K = p.C // p.groups, p.K // p.groups
    for r in range(p.R):
        for s in range(p.S):
            h, v = r * p.dilation[0], s * p.dilation[1]
            rows = slice(h, h + (p.P - 1) * p.stride[0] + 1, p.stride[0])
            columns = slice(v, v + (p.Q - 1) * p.stride[1] + 1, p.stride[1])
            taps = padded[:, :, rows, columns].reshape(p.N, p.groups, C, p.P, p.Q)
            filters = w[:, :, r, s].astype(np.int64).reshape(p.groups, K, C)
            result += np.einsum("ngcpq,gkc->ngkpq", taps, filters).reshape(result.shape)
    assert np.abs(result).max(initial=0) < 2**31
    return result.astype(np.int32)


def rounded(y: np.ndarray, zero: float, low: int, high: int, dtype: Any) -> np.ndarray:
    """Return the codes of sums in steps, float32."""
    assert y.dtype == np.float32
    return np.clip(np.rint(y) + np.float32(zero), low, high).astype(dtype)


def epilogue(
    totals: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    residual: tuple[np.ndarray, int, np.float32] | None = None,
) -> np.ndarray:
    """Return what becomes of sums before they are rounded: each operation in float32."""
    y = totals.astype(np.float32) * scale[:, None, None] + shift[:, None, None]
    if residual is not None:
        codes, zero, step = residual
        y = y + (codes.astype(np.float32) - np.float32(zero)) * step
    return y
