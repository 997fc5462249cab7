"""Codes that are -1, 0 or 1, kept in 2 bits each: how files and networks hold ternary weights."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np


@dataclass(frozen=True, eq=False)
class TernaryCodes:
    """Ternary codes of filters, as two planes of bits that never change.

    Weight i of a filter, counted through (C/groups, R, S), is bit ``i % 8`` of byte ``i // 8`` of
    its row, the lowest bit first.  It is set in the first plane where the weight is 1, in the
    second where it is -1, and in neither where it is 0.  Rows end with zeros up to whole bytes.

    Attributes
    ----------
    bits : ndarray, (2, K, bytes), uint8
    shape : tuple of int
        (K, C/groups, R, S), of the codes.

    Raises
    ------
    ValueError
        The bits are not those of ternary codes of this shape.
    """

    bits: np.ndarray
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        K, size = self.shape[0], prod(self.shape[1:])
        expected = 2, K, -(-size // 8)
        if self.bits.dtype != np.uint8 or self.bits.shape != expected:
            raise ValueError(
                f"bits: got {self.bits.dtype} of shape {self.bits.shape}, expected uint8 of shape "
                f"{expected} for codes of shape {self.shape}"
            )
        if (self.bits[0] & self.bits[1]).any():
            raise ValueError("bits: got a weight that is both 1 and -1, expected one of them")
        if size % 8 and (self.bits[:, :, -1:] >> (size % 8)).any():
            raise ValueError(
                f"bits: got some beyond the {size} weights of a filter, expected zeros"
            )

    @classmethod
    def of(cls, codes: np.ndarray) -> TernaryCodes:
        """Return codes in 2 bits each.

        Parameters
        ----------
        codes : ndarray, (K, C/groups, R, S), int8

        Returns
        -------
        TernaryCodes

        Raises
        ------
        ValueError
            One of them is not -1, 0 or 1.
        """
        if not is_ternary(codes):
            raise ValueError(
                f"codes: got {codes.min()} to {codes.max()}, expected -1, 0 and 1 alone"
            )
        return cls(sign_planes(codes.reshape(len(codes), prod(codes.shape[1:]))), codes.shape)

    def unpacked(self) -> np.ndarray:
        """Return the codes, (K, C/groups, R, S), int8: a new array."""
        size = prod(self.shape[1:])
        plus, minus = np.unpackbits(self.bits, axis=2, count=size, bitorder="little").view(np.int8)
        return (plus - minus).reshape(self.shape)

    @property
    def nonzero(self) -> int:
        """How many codes are not zero."""
        return int(np.unpackbits(self.bits).sum())


def sign_planes(rows: np.ndarray) -> np.ndarray:
    """Return which of (K, n) codes are 1, and which are -1: bits, (2, K, ceil(n / 8)), uint8."""
    return np.stack([np.packbits(rows == sign, axis=1, bitorder="little") for sign in (1, -1)])


def is_ternary(codes: np.ndarray) -> bool:
    """Return whether all codes are -1, 0 or 1."""
    return bool(codes.min(initial=0) >= -1 and codes.max(initial=0) <= 1)


def unpacked(codes: np.ndarray | TernaryCodes) -> np.ndarray:
    """Return codes as an array, a new one where they are ternary."""
    return codes.unpacked() if isinstance(codes, TernaryCodes) else codes
