"""Weights that are -a, 0 or a, with an a of each filter.

Li, Zhang, Liu, "Ternary weight networks" (2016).  As there the full weights are kept and learnt,
by the gradient of the ternary ones.
"""

from __future__ import annotations

import numpy as np

from lowerconv.ops.ternary import ternarize_rows
from lowerconv.quant.fake_quant import WeightQuantizer
from lowerconv.runtime.threads import run


class TernaryWeights(WeightQuantizer):
    """Ternary weights: `lowerconv.ops.ternary` has the formulas."""

    def quantize(self, weight: np.ndarray, steps: np.ndarray | None, result: np.ndarray) -> None:
        """Write the ternary weights."""
        rows = len(weight), -1
        run(ternarize_rows, weight.reshape(rows), result.reshape(rows))

    def scales(self, rounded: np.ndarray, steps: np.ndarray | None) -> np.ndarray | None:
        """Return the magnitude of each filter; 1 for one of zeros."""
        largest = np.abs(rounded.reshape(len(rounded), -1)).max(axis=1, initial=0)
        return np.where(largest == 0, 1, largest)
