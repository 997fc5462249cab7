"""What a convolution multiplies, where that is words of a few numbers, and what its sums become."""

from __future__ import annotations

from dataclasses import dataclass

from lowerconv.codegen.dots import Words


@dataclass(frozen=True)
class WordFormat:
    """What the words of a low-precision convolution hold: numbers of neighbouring channels.

    Attributes
    ----------
    pixels, filters : str
        What words of the source and of the filters hold, as `codegen.dots.Words` names it.
    padding : int
        The word that pads images.
    result : {"sums", "float32", "u8", "s8", "bf16"}
        Whether sums are stored, or requantized, as float32 or as words of bytes; or rounded.
    residual : bool
        Whether words of bytes are added to the result.
    """

    pixels: str
    filters: str
    padding: int = 0
    result: str = "sums"
    residual: bool = False

    def words(self, vectors: str) -> Words:
        """Return the words of the microkernel, where ``"pixels"`` or ``"filters"`` fill vectors."""
        if vectors == "pixels":
            return Words(self.pixels, self.filters)
        return Words(self.filters, self.pixels)

    @property
    def result_bytes(self) -> int:
        """Bytes of an item of the result."""
        return 2 if self.result == "bf16" else 4

    @property
    def filters_per_item(self) -> int:
        """How many filters an item of the result holds."""
        return 4 if self.result in ("u8", "s8") else 1
