"""Figures that others have published, as CSV files; those of single layers stand beside the shapes.

``alexnet.csv`` is AlexNet-OWT on one Titan X in 2016, milliseconds per batch of 128x3x224x224
(github.com/soumith/convnet-benchmarks): the whole network, fully connected layers, pooling and the
gradient of the images included, dropout and softmax left out.  ``claims.csv`` holds single numbers.
"""

from __future__ import annotations

import csv
from importlib import resources
from typing import NamedTuple

HERE = resources.files(__name__)  # may be in a zip archive


class NetworkTime(NamedTuple):
    """Milliseconds of a library for a batch; rounded ones do not always add up."""

    library: str
    forward: float
    backward: float
    total: float


def _rows(name: str) -> list[dict[str, str]]:
    with (HERE / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def alexnet() -> list[NetworkTime]:
    """Return the libraries of ``alexnet.csv``, fastest first."""
    return [
        NetworkTime(
            row["library"],
            *(float(row[f"{part}_ms"]) for part in ("forward", "backward", "total")),
        )
        for row in _rows("alexnet")
    ]


def claim(name: str) -> float:
    """Return one number of ``claims.csv``."""
    return {row["name"]: float(row["value"]) for row in _rows("claims")}[name]
