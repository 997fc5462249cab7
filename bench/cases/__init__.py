"""Layer shapes, one CSV file per network: C, H, W are the input, K, R, S the filters."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


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
    stride: int
    padding: int
    published: dict[str, float]

    def x_shape(self, batch: int) -> tuple[int, int, int, int]:
        """Return the shape of a batch of images."""
        return batch, self.C, self.H, self.W

    @property
    def w_shape(self) -> tuple[int, int, int, int]:
        """Shape of the filters."""
        return self.K, self.C, self.R, self.S


def layers(network: str) -> list[Layer]:
    """Return the layers of ``NETWORK.csv``."""
    with open(HERE / f"{network}.csv") as file:
        rows = list(csv.DictReader(file))
    extents = ("C", "H", "W", "K", "R", "S", "stride", "padding")
    return [
        Layer(
            row.pop("name"),
            *(int(row.pop(extent)) for extent in extents),
            {name: float(value) for name, value in row.items()},
        )
        for row in rows
    ]
