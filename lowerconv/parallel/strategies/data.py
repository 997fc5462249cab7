"""Data parallelism: each rank computes its share of every batch, and gradients are summed."""

from __future__ import annotations

import numpy as np

from lowerconv.parallel.comm.buckets import Buckets
from lowerconv.parallel.comm.choice import Chosen, choose_allreduce
from lowerconv.parallel.comm.collectives import Allreduce
from lowerconv.parallel.comm.engine import IDLE_AFTER
from lowerconv.parallel.comm.overlap import make_engine
from lowerconv.parallel.comm.wire import Compressed
from lowerconv.parallel.strategies.accumulation import GradientAccumulation
from lowerconv.parallel.strategies.strategy import Strategy, Work


class DataParallel(Strategy):
    """Synchronous data parallelism: gradients are summed while others are still computed.

    Parameters as of :class:`Strategy`.
    """

    def _build(self) -> None:
        self.optimizers = [self.make_optimizer(self.network)]
        self.accumulation = GradientAccumulation([self.optimizer.grad])
        self.chosen: Chosen | None = None
        self.buckets: Buckets | None = None

    def start(self) -> None:
        """Decide how gradients are summed; all ranks come here together."""
        if self.communicator.ranks == 1 and self.synchronous:
            return
        if self.options.wire != "float32" and self.optimizer.grad.dtype != np.float32:
            raise ValueError(
                f"wire: got {self.options.wire!r} with gradients of {self.optimizer.grad.dtype}, "
                "expected float32 ones"
            )
        nbytes = int(self.options.bucket_mib * (1 << 20))
        if self.engine is None:
            self.engine = make_engine(self.communicator, self.options)
        self.chosen = choose_allreduce(self.engine, self.communicator, self.options, nbytes)
        self.engine.idle_after = max(IDLE_AFTER, self.chosen.longest)
        self.buckets = Buckets(
            self.network,
            self.optimizer,
            self.engine,
            self._allreduce,
            nbytes,
            overlap=self.options.overlap != "none",
            deferred=self._defers_updates,
        )
        self._handles += [
            self.network.register_watch(self.buckets.after),
            self.network.register_gate(self.buckets.before),
        ]

    def rejoin(self) -> None:
        """Go on with the ranks that are left, all with the same weights; they call it together."""
        self.close()
        self.engine = self.buckets = self.chosen = None
        self.loader_share = self.communicator.rank, self.communicator.ranks
        self.start()

    def _allreduce(self, number: int, items: int) -> Allreduce:
        assert self.chosen is not None
        if self.options.wire != "float32":
            return Compressed(
                self.options.wire, items, self.communicator.rank, self.communicator.ranks
            )
        return self.chosen.of(items * self.optimizer.grad.itemsize)

    def backward(self, gradients: tuple[np.ndarray, ...], work: Work) -> None:
        """Differentiate what the network has computed; sum the last gradients of an update."""
        if work.last and self.buckets is not None:
            earlier = None if work.first else self.accumulation.sums[0]
            self._sum(self.buckets, gradients, earlier, work.lr)
        else:
            super().backward(gradients, work)

    def _sum(
        self,
        buckets: Buckets,
        gradients: tuple[np.ndarray, ...],
        earlier: np.ndarray | None,
        lr: float,
    ) -> None:
        """Compute and sum the last gradients of an update, and make it."""
        buckets.begin(earlier)
        self.network.backward(*gradients)
        tasks = buckets.end()
        if buckets.deferred:
            buckets.defer_update(lr)
        else:
            buckets.update(tasks, lr)

    @property
    def _defers_updates(self) -> bool:
        """Whether a layer may be updated when the next step needs it, and not before."""
        whole = self.optimizer.whole or self.options.elastic  # whose copies are of whole updates
        return not whole and self.options.overlap != "none"

    def flush_updates(self) -> None:
        """Make the updates that were left for later: weights are about to be read."""
        if self.buckets is not None:
            self.buckets.flush_updates()

    def describe(self) -> str:
        """Return how gradients are summed."""
        if self.buckets is None:
            return ""
        count = len(self.buckets.buckets)
        buckets = f"gradients in {count} bucket{'s' * (count > 1)}"
        if self.options.wire != "float32":
            return f"{buckets} of {self.options.wire} with error feedback"
        return f"{buckets}, {self.chosen}"
