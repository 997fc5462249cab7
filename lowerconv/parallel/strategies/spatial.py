"""Spatial parallelism: every rank computes some rows of the images, for the whole batch."""

from __future__ import annotations

import numpy as np

from lowerconv.parallel.comm.overlap import make_engine
from lowerconv.parallel.sharding.row_split import RowNetwork
from lowerconv.parallel.strategies.data import DataParallel


class SpatialParallel(DataParallel):
    """Each rank has some rows of all images; gradients are summed as in data parallelism.

    For images that are so large that a batch of few does not fit, or does not keep all ranks busy.
    From the first layer on that cannot be divided so, ranks have samples.  The result is that of
    one process, to rounding: batch norm sums its statistics over the ranks.

    Parameters as of :class:`Strategy`.

    Attributes
    ----------
    rows : RowNetwork
        This rank's part of the network.

    Raises
    ------
    ValueError
        The network cannot be divided; the message names the layer.
    """

    def _build(self) -> None:
        communicator = self.communicator
        self.loader_share, self.loss_copies = (0, 1), communicator.ranks
        self.engine = make_engine(communicator, self.options)
        self.network = self.rows = RowNetwork(self.network, (1, *self.image_shape), self.engine)
        super()._build()

    def differing_buffers(self) -> dict[str, np.ndarray]:
        """Return nothing: statistics are those of all ranks."""
        return {}

    def describe(self) -> str:
        """Return where the images are divided, and how gradients are summed."""
        if self.communicator.ranks == 1:
            return ""
        return f"{self.rows.describe()}; {super().describe()}"
