"""Gradients on their way to a sum, in buckets, while others are still computed.

Gradients lie in one flat array, in the order of the parameters; backward fills it about from the
end to the beginning.  Buckets are ranges of it::

    grad   | conv1 | conv2 ... | conv3 ........ | linear ................ |
    bucket    4         3            2                  1          0         in the order of leaving

Each leaves when the last layer that it belongs to has been differentiated.  The next step begins at
once: what comes before a layer can be computed while the sum of its gradients is on its way.  The
last to leave are needed first; so they are small, and overtake others (Jayarajan et al.,
"Priority-based parameter propagation for distributed DNN training" (2019)).

Li et al., "PyTorch distributed: experiences on accelerating data parallel training" (2020),
section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from lowerconv.copying import not_copied
from lowerconv.nn.frame import Frame
from lowerconv.nn.layer import Layer
from lowerconv.nn.module import Module
from lowerconv.nn.optim import Optimizer
from lowerconv.parallel.comm.collectives import Allreduce, library
from lowerconv.parallel.comm.engine import Engine, Task
from lowerconv.parallel.comm.listener import PROGRESS, UPDATE

SMALLEST = 1 << 16  # bytes of the bucket that leaves last; each before it is twice as large


@not_copied("make another `Trainer` or strategy in each process")
@dataclass
class Bucket:
    """A range of the gradients.

    Attributes
    ----------
    number : int
        In the order of leaving.
    begin, end : int
        Items.
    layers : set of int
        Identities of the layers that write to it.
    """

    number: int
    begin: int
    end: int
    layers: set[int]
    pending: set[int] = field(default_factory=set)
    task: Task | None = None


def bucket_ranges(
    bounds: np.ndarray, itemsize: int, largest: int, smallest: int = SMALLEST
) -> list[tuple[int, int]]:
    """Return the ranges of the buckets, in the order of leaving.

    Parameters
    ----------
    bounds : ndarray, (parameters + 1,)
        Where parameters begin, and where the last one ends.
    itemsize, largest, smallest : int
        Bytes of an item, of most buckets, and of the one that leaves last.
    """
    ranges = []
    begin, room = int(bounds[0]), min(smallest, largest)
    total = int(bounds[-1])
    while begin < total:
        items = max(1, room // itemsize)
        # At the border of a parameter, so that nobody waits for a piece of the next; a parameter
        # that is larger than a bucket is cut into several.
        inner = bounds[(bounds > begin) & (bounds <= begin + items)]
        end = int(inner[-1]) if len(inner) else min(total, begin + items)
        if not len(inner):
            owner = int(bounds[bounds > begin][0])
            end = owner if owner - begin <= items * 3 // 2 else begin + items
        ranges.append((begin, end))
        begin, room = end, min(largest, 2 * room)
    return ranges[::-1]


@not_copied("make another `Trainer` or strategy in each process")
class Buckets:
    """The buckets of an optimizer's gradients.

    Parameters
    ----------
    network : Module
        Whose parameters the optimizer has.
    optimizer : Optimizer
    engine : Engine
    allreduce : callable
        Given a bucket's number and its items, returns how it is summed.
    nbytes : int
        Of a bucket, at most.
    overlap : bool
        Whether buckets leave while others are computed; else all of them at the end.
    deferred : bool
        Whether layers are updated when the next step needs them: what it needs first overtakes.
    """

    def __init__(
        self,
        network: Module,
        optimizer: Optimizer,
        engine: Engine,
        allreduce: Callable[[int, int], Allreduce],
        nbytes: int,
        overlap: bool = True,
        deferred: bool = False,
    ) -> None:
        self.optimizer, self.engine = optimizer, engine
        self.overlap, self.deferred = overlap, deferred
        owner = {id(p): id(m) for _, m in network.modules() for p in m.own_parameters().values()}
        owners = [owner[id(p)] for p in network.parameters().values()]
        bounds = optimizer.bounds
        self.buckets = []
        # Where the main thread moves messages itself, small ones only cost: each is a look more.
        smallest = SMALLEST if engine.threaded else nbytes
        ranges = bucket_ranges(bounds, optimizer.grad.itemsize, nbytes, smallest)
        for number, (begin, end) in enumerate(ranges):
            first = int(np.searchsorted(bounds, begin, "right")) - 1
            last = int(np.searchsorted(bounds, end, "left"))
            self.buckets.append(Bucket(number, begin, end, set(owners[first:last])))
        self._allreduce = [allreduce(b.number, b.end - b.begin) for b in self.buckets]
        self._of_layer: dict[int, list[Bucket]] = {}
        for bucket in self.buckets:
            for layer in bucket.layers:
                self._of_layer.setdefault(layer, []).append(bucket)
        self._earlier: np.ndarray | None = None
        self._sums = optimizer.grad
        self._collecting = False
        self._deferred: dict[int, Bucket] = {}  # by number: those that are to be updated still

    def begin(self, earlier: np.ndarray | None = None, into: np.ndarray | None = None) -> None:
        """Collect what backward computes from here on.

        Parameters
        ----------
        earlier : ndarray, (parameters,), optional
            Gradients of the batches before, which are added.
        into : ndarray, (parameters,), optional
            Where sums are made; by default where the gradients are, which the next backward
            overwrites.
        """
        self.flush_updates()
        self._earlier = earlier
        self._sums = self.optimizer.grad if into is None else into
        self._collecting = True
        for bucket in self.buckets:
            bucket.pending, bucket.task = set(bucket.layers), None
        self._next = 0

    def after(self, layer: Layer, frame: Frame, phase: str) -> None:
        """Note that a layer is done; a watch of the network."""
        if not self.engine.threaded:
            self.engine.progress()
        if phase == "backward" and self._collecting:
            for bucket in self._of_layer.get(id(layer), ()):
                bucket.pending.discard(id(layer))
            if self.overlap:
                self._leave()

    def _leave(self) -> None:
        """Submit all buckets that are complete, in their order: that of all ranks."""
        while self._next < len(self.buckets) and not self.buckets[self._next].pending:
            bucket = self.buckets[self._next]
            own = self.optimizer.grad[bucket.begin : bucket.end]
            gradient = self._sums[bucket.begin : bucket.end]
            if self._earlier is not None:
                np.add(own, self._earlier[bucket.begin : bucket.end], out=gradient)
            elif self._sums is not self.optimizer.grad:
                gradient[:] = own
            allreduce = self._allreduce[self._next]
            bucket.task = self.engine.submit(
                lambda link, g=gradient, f=allreduce: f(link, g),  # type: ignore[misc]
                f"bucket {bucket.number}",
                gradient.nbytes,
                # The MPI library's own collectives have to begin in the same order everywhere.
                priority=bucket.number + 1 if self.deferred and allreduce is not library else None,
            )
            self._next += 1

    def end(self) -> list[Task]:
        """Submit what is left, after backward; return the sums under way, one for each bucket."""
        for bucket in self.buckets:
            bucket.pending.clear()
        with self.engine.listener.doing(PROGRESS):
            self._leave()
        self._collecting = False
        return [bucket.task for bucket in self.buckets if bucket.task is not None]

    def update(self, tasks: list[Task], lr: float, sums: np.ndarray | None = None) -> None:
        """Wait for sums, and update the parameters of each bucket when it has come.

        While a bucket is on its way the ones before it are updated: that costs no time.

        Parameters
        ----------
        tasks : list of Task
            What `end` has returned.
        lr : float
        sums : ndarray, (parameters,), optional
            Where `begin` was told to make the sums.
        """
        optimizer, listener = self.optimizer, self.engine.listener
        optimizer.lr = lr
        optimizer.begin_step()
        for bucket, task in zip(self.buckets, tasks, strict=True):
            self.engine.wait(task)
            if not optimizer.whole:
                with listener.doing(UPDATE, task.name):
                    optimizer.update(bucket.begin, bucket.end, sums)
        if optimizer.whole:
            with listener.doing(UPDATE):
                optimizer.update(0, optimizer.data.size, sums)

    def defer_update(self, lr: float) -> None:
        """Update each bucket when a layer needs it, as `before` is told, or `flush_updates`."""
        optimizer = self.optimizer
        optimizer.lr = lr
        optimizer.begin_step()
        self._deferred = {bucket.number: bucket for bucket in self.buckets}

    def before(self, layer: Layer) -> None:
        """Wait for the sums of a layer's gradients and update it; a gate of the network."""
        if self._deferred:
            for bucket in self._of_layer.get(id(layer), ()):
                self._update(bucket)

    def flush_updates(self) -> None:
        """Update what has been left for later."""
        for bucket in list(self._deferred.values()):
            self._update(bucket)

    def _update(self, bucket: Bucket) -> None:
        if self._deferred.pop(bucket.number, None) is None:
            return
        assert bucket.task is not None
        self.engine.wait(bucket.task)
        with self.engine.listener.doing(UPDATE, bucket.task.name):
            self.optimizer.update(bucket.begin, bucket.end)
