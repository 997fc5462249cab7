"""Several batches that make one update: their gradients are added up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lowerconv.copying import not_copied


@not_copied("make another `Trainer` or strategy in each process")
class GradientAccumulation:
    """The sum of the gradients of an update's batches.

    Parameters
    ----------
    gradients : sequence of ndarray
        Which the next backward step overwrites.

    Attributes
    ----------
    sums : list of ndarray
        Those of the batches before, where there have been any.
    """

    def __init__(self, gradients: Sequence[np.ndarray]) -> None:
        self._gradients = gradients
        self.sums: list[np.ndarray] = []

    def add(self, first: bool, last: bool) -> None:
        """Add the sums of the batches before to the gradients; keep the new sums for the next.

        The first batch has none before, the last none after it.
        """
        if not first:
            for gradient, total in zip(self._gradients, self.sums, strict=True):
                gradient += total
        if not last:
            self.sums = self.sums or [np.empty_like(gradient) for gradient in self._gradients]
            for gradient, total in zip(self._gradients, self.sums, strict=True):
                total[...] = gradient
