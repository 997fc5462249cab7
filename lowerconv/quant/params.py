"""What 8-bit codes stand for: scales and zero points of activations, and codes of weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class QuantParams:
    """The codes of a tensor: q stands for ``(q - zero_point) * scale``.

    Attributes
    ----------
    scale : float
        A float32 number, positive.
    zero_point : int
    signed : bool
        Whether codes are s8, rather than u8.
    low, high : int
        The range of codes, where it is not that of their type.
    """

    scale: float
    zero_point: int = 0
    signed: bool = False
    low: int = 0
    high: int = 255

    @classmethod
    def of(
        cls, scale: float, zero_point: int, signed: bool, low: int | None = None, bits: int = 8
    ) -> QuantParams:
        """Return the parameters of codes of `bits` bits; `low` is the least code, if given."""
        least = -(1 << (bits - 1)) if signed else 0
        most = least + (1 << bits) - 1
        begin = least if low is None else low
        return cls(float(np.float32(scale)), int(zero_point), bool(signed), begin, most)

    @classmethod
    def of_range(cls, low: float, high: float) -> QuantParams:
        """Return those of u8 codes for numbers from `low` to `high`, zero always among them."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = np.float32((high - low) / 255)
        if not scale > 0 or not np.isfinite(scale):
            return cls(1.0)
        return cls.of(float(scale), int(np.clip(np.rint(-low / float(scale)), 0, 255)), False)

    @property
    def dtype(self) -> np.dtype:
        """The type of the codes."""
        return np.dtype(np.int8 if self.signed else np.uint8)

    def code(self, number: float) -> int:
        """Return the code of a number."""
        nearest = np.rint(np.float32(number) / np.float32(self.scale)) + self.zero_point
        return int(np.clip(nearest, self.low, self.high))

    def numbers(self, dtype: np.dtype) -> tuple[np.floating, ...]:
        """Return (scale, zero_point, low, high) as kernels take them."""
        kind = dtype.type
        return kind(self.scale), kind(self.zero_point), kind(self.low), kind(self.high)

    def values(self) -> np.ndarray:
        """Return the numbers of all 256 codes, (256,), float32: those of bytes 0 to 255."""
        codes = np.arange(256, dtype=np.uint8).view(self.dtype).astype(np.float32)
        return (codes - np.float32(self.zero_point)) * np.float32(self.scale)

    def same(self, other: QuantParams) -> bool:
        """Return whether codes of both stand for the same numbers."""
        mine, others = ((p.scale, p.zero_point, p.signed) for p in (self, other))
        return mine == others

    def __str__(self) -> str:
        kind = "s8" if self.signed else "u8"
        zero = f" - {self.zero_point}" if self.zero_point else ""
        return f"{kind}{zero} x {self.scale:.4g}"
