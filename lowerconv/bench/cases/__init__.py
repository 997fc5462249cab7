"""Layer shapes, one CSV file per network: C, H, W are the input, K, R, S the filters.

Stride, padding and dilation are one number, or two (``0 3``: rows, columns).  The columns dilation
and groups may be missing, and are 1 then.  A shape that a network has several times stands once.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib import resources

HERE = resources.files(__name__)  # may be in a zip archive
Pair = tuple[int, int]


@dataclass(frozen=True)
class Layer:
    """One convolutional layer; `published` holds columns that only some files have."""

    name: str
    C: int
    H: int
    W: int
    K: int
    R: int
    S: int
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    published: dict[str, float]

    def x_shape(self, batch: int) -> tuple[int, int, int, int]:
        """Return the shape of a batch of images."""
        return batch, self.C, self.H, self.W

    @property
    def w_shape(self) -> tuple[int, int, int, int]:
        """Shape of the filters."""
        return self.K, self.C // self.groups, self.R, self.S

    @property
    def arguments(self) -> tuple[Pair, Pair, Pair, int]:
        """What follows the arrays in a call: stride, padding, dilation, groups."""
        return self.stride, self.padding, self.dilation, self.groups


def _pair(text: str) -> Pair:
    """Return ``"1"`` or ``"0 3"`` as rows and columns."""
    numbers = [int(number) for number in text.split()]
    rows, columns = numbers if len(numbers) == 2 else numbers * 2
    return rows, columns


def networks() -> list[str]:
    """Return the names that :func:`layers` takes."""
    files = (file.name for file in HERE.iterdir())
    return sorted(name.removesuffix(".csv") for name in files if name.endswith(".csv"))


def layers(network: str) -> list[Layer]:
    """Return the layers of ``NETWORK.csv``."""
    with (HERE / f"{network}.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        Layer(
            name=row.pop("name"),
            **{extent: int(row.pop(extent)) for extent in ("C", "H", "W", "K", "R", "S")},
            stride=_pair(row.pop("stride")),
            padding=_pair(row.pop("padding")),
            dilation=_pair(row.pop("dilation", "1")),
            groups=int(row.pop("groups", "1")),
            published={name: float(value) for name, value in row.items()},
        )
        for row in rows
    ]
