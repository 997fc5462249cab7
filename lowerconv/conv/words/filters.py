"""Filters of bytes as words of neighbouring channels, whatever the groups."""

from __future__ import annotations

from math import gcd

import numpy as np

PER_WORD = 4  # bytes


def words_for(channels: int) -> int:
    """Return how many words so many channels take."""
    return -(-channels // PER_WORD)


def merged_groups(groups: int, channels: int, filters: int) -> int:
    """Return how many groups become one, so that no word belongs to two of them.

    Parameters
    ----------
    groups : int
    channels, filters : int
        Of a group.
    """
    if groups == 1:
        return 1
    wanted = PER_WORD // gcd(PER_WORD, gcd(channels, filters))
    return wanted if groups % wanted == 0 else groups


def filter_words(w: np.ndarray, groups: int, merged: int) -> np.ndarray:
    """Return filters as words, zeros where merged groups do not meet.

    Parameters
    ----------
    w : ndarray, (K, C/groups, R, S), int8
    groups, merged : int
        `merged` of the groups become one.

    Returns
    -------
    ndarray, (K, words, R, S), uint32
    """
    K, C, R, S = w.shape
    own = K // groups
    wide = np.zeros((K, words_for(merged * C) * PER_WORD, R, S), np.int8)
    for number in range(merged):
        rows = np.arange(K).reshape(-1, merged, own)[:, number].ravel()
        wide[rows, number * C : (number + 1) * C] = w[rows]
    split = wide.reshape(K, -1, PER_WORD, R, S).transpose(0, 1, 3, 4, 2)
    return np.ascontiguousarray(split).view("<u4")[..., 0].astype(np.uint32, copy=False)
