"""A parameter server, sharded over ranks that are workers too: the baseline of allreduce.

::

    worker r                    server k, for worker r
      gradient of its share
      [lr], gradient[k]  ------>  push: update the shard, now or when all have pushed
                                  wait while the worker is too far ahead
      weights[k]         <------  [missing, ahead], weights
      ...
      [-1]               ------>  the epoch is over

Whoever moves the messages of a rank also makes the updates of its server, on one thread, while the
main thread computes layers.

Li, Andersen, Park, Smola, Ahmed, Josifovski, Long, Shekita, Su, "Scaling distributed machine
learning with the parameter server" (2014), section 3.
"""

from __future__ import annotations

import numpy as np

from lowerconv.nn.loss import LossResult
from lowerconv.parallel.comm.collectives import Routine, all_gather
from lowerconv.parallel.comm.engine import TAGS, Engine, Task
from lowerconv.parallel.comm.link import Link
from lowerconv.parallel.comm.overlap import make_engine
from lowerconv.parallel.strategies.accumulation import GradientAccumulation
from lowerconv.parallel.strategies.server_shard import Shard
from lowerconv.parallel.strategies.staleness import Staleness
from lowerconv.parallel.strategies.strategy import Strategy, Work

PUSH, ANSWER = 0, 1  # tags, beside those of collectives
OVER = -1.0  # in the place of a learning rate


class ParameterServer(Strategy):
    """Each rank computes its share of every batch; servers have a shard of the weights each.

    With staleness 0 the same as data parallelism, to rounding.  Else as `Shard` says: each push is
    an update, and a worker that is more than ``staleness`` steps ahead of the slowest one waits.

    Parameters as of :class:`Strategy`.

    Raises
    ------
    ValueError
        More servers than ranks, or an optimizer that has to see all gradients at once.
    """

    engine: Engine  # a process alone has one too
    staleness: Staleness

    def _build(self) -> None:
        communicator, options = self.communicator, self.options
        network, make_optimizer = self.network, self.make_optimizer
        ranks, rank = communicator.ranks, communicator.rank
        self.servers = ranks if options.servers is None else options.servers
        if self.servers > ranks:
            raise ValueError(f"servers: got {self.servers} with {ranks} ranks, expected no more")
        optimizer = make_optimizer(network)
        if optimizer.whole:
            raise ValueError(
                f"optimizer: got {type(optimizer).__name__} with strategy 'server', expected one "
                "that needs no norms of whole parameters: a server has a part of them"
            )
        self.optimizers = [optimizer]
        self.synchronous = options.staleness == 0
        # The optimizer's weights are the server's. The worker computes with its own ones, which
        # stay as they are while it does.
        self.weights, self.gradient = optimizer.data.copy(), np.zeros_like(optimizer.grad)
        optimizer.attach(self.weights, self.gradient)
        begin, end = self._bounds(rank)
        self.shard = Shard(optimizer, begin, end, ranks, options.staleness)
        self.engine = make_engine(communicator, options)
        self.staleness = Staleness(options.staleness)
        self._missing = np.zeros((self.servers, 2))
        self.accumulation = GradientAccumulation([self.gradient])
        self._serving: list[Task] = []
        self._lr = optimizer.lr

    def _bounds(self, rank: int) -> tuple[int, int]:
        """Return the range of a rank's shard; that of no server is empty."""
        size = self.optimizer.data.size
        return tuple(size * min(r, self.servers) // self.servers for r in (rank, rank + 1))  # type: ignore[return-value]

    def _shards(self, flat: np.ndarray) -> list[np.ndarray]:
        """Return an array as long as the weights in shards, one for each rank."""
        bounds = [self._bounds(rank) for rank in range(self.communicator.ranks)]
        return [flat[begin:end] for begin, end in bounds]

    # --- workers ---

    def start(self) -> None:
        """Give the server the weights that training begins with."""
        self.optimizer.data[:] = self.weights
        self._progress_between_layers(self.network)

    def train(self, work: Work) -> LossResult:
        """Compute this rank's share, push it, and get the new weights."""
        if work.first:
            mean, ahead = self._missing.mean(0)[0], self._missing.max(0)[1]
            self.staleness.note(float(mean), int(ahead))
        if not self._serving:
            self._serve()
        return super().train(work)

    def _update(self, lr: float) -> None:
        """Push the gradient to all servers, and wait for what they answer."""
        gradients, weights = self._shards(self.gradient), self._shards(self.weights)
        rank = self.communicator.rank
        # Not all begin with the same server.
        servers = [(rank + i) % self.servers for i in range(self.servers)]
        tasks = [
            self.engine.submit(
                lambda link, k=k: (  # type: ignore[misc]
                    self._own(gradients[k], lr, weights[k])
                    if k == rank
                    else _ask(link, k, lr, gradients[k], self._missing[k], weights[k])
                ),
                f"server {k}",
                2 * gradients[k].nbytes,
                tag=PUSH,
            )
            for k in servers
        ]
        for task in tasks:
            self.engine.wait(task)
        self._lr = lr
        if rank >= self.servers:  # the optimizer has nothing to do, but counts
            self.optimizer.updates += 1 if self.synchronous else self.communicator.ranks

    def _own(self, gradient: np.ndarray, lr: float, weights: np.ndarray) -> Routine:
        """Push to the server of this very rank, and get its answer."""
        shard, rank = self.shard, self.communicator.rank
        shard.gradients[rank] = gradient
        shard.push(rank, lr)
        while not shard.may_answer(rank):
            yield None
        weights[:] = shard.answer(rank)
        self._missing[rank] = shard.missing(rank)

    def finish(self) -> None:
        """Wait until all workers have pushed everything, and get the last weights."""
        rank, shard = self.communicator.rank, self.shard
        over = [
            self.engine.submit(lambda link, k=k: _end(link, k), "end of epoch", tag=PUSH)  # type: ignore[misc]
            for k in range(self.servers)
            if k != rank
        ]
        for task in (*over, *self._serving):
            self.engine.wait(task)
        self._serving.clear()
        self.weights[shard.begin : shard.end] = shard.weights
        self._gather(self.weights)
        self._missing[:] = 0
        self.optimizer.lr = self._lr  # not that of a single push
        self.staleness.end_epoch(self.communicator)

    def _gather(self, flat: np.ndarray) -> None:
        """Fill an array as long as the weights with the shards of all servers."""
        self.engine.run(lambda link: all_gather(link, self._shards(flat)), "shards", flat.nbytes)

    # --- servers ---

    def _serve(self) -> None:
        """Begin to answer the other workers, until the epoch is over."""
        rank = self.communicator.rank
        for worker in range(self.communicator.ranks if rank < self.servers else 0):
            if worker != rank:
                self._serving.append(
                    self.engine.submit(
                        lambda link, w=worker: _answer(link, w, self.shard),  # type: ignore[misc]
                        f"worker {worker}",
                        tag=PUSH,
                    )
                )

    # --- what is kept ---

    def gather_whole(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return arrays of this rank; those that servers have parts of are put together."""
        for flat in self.optimizer.state().values():
            self._gather(flat)
        return arrays

    def describe(self) -> str:
        """Return who keeps the weights, and how late gradients may be."""
        late = self.options.staleness
        return (
            f"{self.servers} parameter server" + ("s" if self.servers > 1 else "") + ", "
            f"{f'asynchronous, up to {late} steps ahead' if late else 'synchronous'}"
        )


def _ask(
    link: Link,
    server: int,
    lr: float,
    gradient: np.ndarray,
    missing: np.ndarray,
    weights: np.ndarray,
) -> Routine:
    """Push a gradient to a server, and receive what it answers."""
    answers = link.tagged(TAGS + ANSWER)
    yield [
        *answers.receive(missing, server),
        *answers.receive(weights, server),
        *link.send(np.array([lr]), server),
        *link.send(gradient, server),
    ]


def _answer(link: Link, worker: int, shard: Shard) -> Routine:
    """Answer a worker until the epoch is over for it."""
    answers = link.tagged(TAGS + ANSWER)
    lr = np.empty(1)
    while True:
        yield link.receive(lr, worker)
        if lr[0] == OVER:
            return
        yield link.receive(shard.gradients[worker], worker)
        shard.push(worker, lr[0])
        while not shard.may_answer(worker):
            yield None
        missing = np.array(shard.missing(worker))
        yield answers.send(missing, worker) + answers.send(shard.answer(worker), worker)


def _end(link: Link, server: int) -> Routine:
    """Tell a server that nothing more comes in this epoch."""
    yield link.send(np.array([OVER]), server)
