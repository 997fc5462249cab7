"""What a parameter server keeps: a shard of the weights, and what the workers have pushed to it.

Nothing here knows of messages: who carries gradients and weights is `server`.
"""

from __future__ import annotations

import numpy as np

from lowerconv.copying import not_copied
from lowerconv.nn.optim import Optimizer
from lowerconv.runtime import team


@not_copied("make another `Trainer` or strategy in each process")
class Shard:
    """A range of the weights, updated with gradients that workers push.

    With staleness 0 an update takes the gradients of all workers, added in the order of the ranks.
    Else each gradient is an update by itself, made when it comes::

        worker 0   | push 0 | push 1 | push 2 |            is more than 1 step ahead of worker 2:
        worker 1   | push 0 | push 1 |                     with staleness 1 it gets no answer
        worker 2   | push 0 |                              until worker 2 has pushed once more

    Ho, Cipar, Cui, Kim, Gibbons, Gibson, Ganger, Xing, "More effective distributed ML via a stale
    synchronous parallel parameter server" (2013), section 2.

    One worker's gradient stands for those of all of p: it counts p times, with the p-th part of the
    learning rate.  So p pushes move the weights as far as one update would, with weight decay and
    with Adam too; momentum, and the moments of Adam, remember p times fewer steps.

    Parameters
    ----------
    optimizer : Optimizer
        Of which this shard has a range: nobody else updates it, nor reads its weights.
    begin, end : int
        The range.
    workers, staleness : int

    Attributes
    ----------
    gradients : ndarray, (workers, end - begin)
        What each worker has pushed last; written before `push`.
    clocks : list of int
        How often each worker has pushed.
    """

    def __init__(
        self, optimizer: Optimizer, begin: int, end: int, workers: int, staleness: int
    ) -> None:
        self.optimizer, self.begin, self.end = optimizer, begin, end
        self.staleness = staleness
        self.gradients = np.empty((workers, end - begin), optimizer.data.dtype)
        self.clocks = [0] * workers

    @property
    def weights(self) -> np.ndarray:
        """The shard, as it is now."""
        return self.optimizer.data[self.begin : self.end]

    def push(self, worker: int, lr: float) -> None:
        """Take in a worker's gradient, with the learning rate of its step."""
        self.clocks[worker] += 1
        total = self.optimizer.grad[self.begin : self.end]
        if self.staleness:
            workers = len(self.clocks)
            np.multiply(self.gradients[worker], total.dtype.type(workers), out=total)
            self._update(lr / workers)
        elif min(self.clocks) == max(self.clocks):
            total[:] = self.gradients[0]
            for gradient in self.gradients[1:]:
                total += gradient
            self._update(lr)

    def _update(self, lr: float) -> None:
        self.optimizer.lr = lr
        self.optimizer.begin_step()
        # Not on the team: the layers of the main thread have it.
        self.optimizer.update(self.begin, self.end, team=team.alone())

    def ahead(self, worker: int) -> int:
        """Return how many steps a worker is ahead of the slowest one."""
        return self.clocks[worker] - min(self.clocks)

    def may_answer(self, worker: int) -> bool:
        """Return whether a worker may go on."""
        return self.ahead(worker) <= self.staleness

    def answer(self, worker: int) -> np.ndarray:
        """Return the weights for a worker's next step; they stay as they are until it pushes."""
        if not self.staleness:
            return self.weights  # the next update has to wait for this worker
        self.gradients[worker] = self.weights
        return self.gradients[worker]

    def missing(self, worker: int) -> tuple[float, int]:
        """Return what a worker's weights lack: updates of all workers, and of the slowest one."""
        own = self.clocks[worker]
        return sum(max(0, own - clock) for clock in self.clocks) / len(self.clocks), self.ahead(
            worker
        )
