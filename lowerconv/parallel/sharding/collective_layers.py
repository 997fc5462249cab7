"""Layers that put together what ranks have of a value, and sum what they have of a gradient.

They compute nothing; what goes over the wire is begun by one layer and ended by another, so that
the layers between them are computed meanwhile.  In a backward step the roles are exchanged::

                     forward                               backward
    AllGather        begin shard --> all --> end whole     begin shard <-- sum <-- end partial sums
    ReduceScatter    begin partial sums --> end shard      begin whole <-- all <-- end shard
    AllReduce        begin partial sums --> end whole      (the same gradient on every rank)
    Replicate        (the same value on every rank)        begin whole <-- sum <-- end partial sums
    Mask             (the same value on every rank)        own part of whole: partial sums
"""

from __future__ import annotations

from functools import partial
from math import prod

import numpy as np

from lowerconv.copying import not_copied
from lowerconv.nn.execution_order import ExecutionOrder
from lowerconv.nn.frame import Frame, Tensor
from lowerconv.nn.layer import Layer
from lowerconv.nn.module import Shape
from lowerconv.nn.moving import move
from lowerconv.nn.step import Step
from lowerconv.parallel.comm.collectives import all_gather, direct, reduce_scatter
from lowerconv.parallel.comm.engine import Engine
from lowerconv.parallel.comm.link import MessageMemory
from lowerconv.parallel.sharding.layout import Layout
from lowerconv.parallel.sharding.message import Message


@not_copied("make another `Trainer` or strategy in each process")
class CollectiveLayer(Layer):
    """One of two layers that have a collective operation between them.

    Parameters
    ----------
    collective : Collective
        What both share.
    """

    execution_order = ExecutionOrder.RIGHT_BEFORE_READERS

    def __init__(self, collective: Collective) -> None:
        super().__init__()
        self.collective = collective

    def compute(self, frame: Frame, step: Step) -> None:
        """Pass the operand on."""
        if not frame.views[0]:
            move(frame.x, frame.y, False)

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Pass the gradient on."""
        if frame.dx is not None and not frame.views_gradient[0]:
            move(frame.gradient, frame.dx, frame.adds[0])


class Begin(CollectiveLayer):
    """The first of two, which passes its operand on."""

    is_view = True
    execution_order = ExecutionOrder.RIGHT_AFTER_OPERANDS

    def compute(self, frame: Frame, step: Step) -> None:
        """Begin to send, where that is on the way."""
        super().compute(frame, step)
        self.send(frame.y)

    def send(self, x: Tensor) -> None:
        """Begin what `End.compute` ends."""

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Wait for the gradient of the operand, which lies in that of the result."""
        self.collective.wait()
        super().differentiate(frame, step)


@not_copied("make another `Trainer` or strategy in each process")
class Collective(Message):
    """A collective operation that one layer begins and another ends.

    Attributes
    ----------
    layout : Layout
        Of the channels or features.
    shards_under_way : list of Tensor
    """

    def __init__(self, engine: Engine, pool: MessageMemory, layout: Layout, name: str) -> None:
        super().__init__(engine, pool, name)
        self.layout = layout
        self.shards_under_way: list[Tensor] = []

    def shard_shape(self, shape: Shape, rank: int | None = None) -> Shape:
        """Return what a rank, by default this one, has of a whole shape."""
        rank = self.rank if rank is None else rank
        return (shape[0], self.layout.size(rank, self.ranks), *shape[2:])

    def whole_shape(self, shape: Shape) -> Shape:
        """Return the shape of the whole that a shard is of."""
        return (shape[0], self.layout.items, *shape[2:])

    def buffer(self, shape: Shape, dtype: np.dtype) -> Tensor:
        """Return memory for a tensor, until the message has come."""
        tensor = Tensor(shape, dtype)
        tensor.place(self.memory(tensor.span * dtype.itemsize))
        return tensor

    def shards(self, shape: Shape, dtype: np.dtype, own: Tensor | None = None) -> list[Tensor]:
        """Return memory for the shards of all ranks; this rank's may be given, as `own`."""
        return [
            own
            if own is not None and r == self.rank
            else self.buffer(self.shard_shape(shape, r), dtype)
            for r in range(self.ranks)
        ]

    def segments(self, whole: Tensor, rank: int) -> list[tuple[int, Tensor]]:
        """Return where each segment of a rank is: its first item in the shard, and the whole."""
        pixels = prod(whole.shape[2:])
        found = []
        for here, there, count in self.layout.runs(rank, self.ranks).tolist():
            tensor = Tensor(
                (whole.shape[0], count, *whole.shape[2:]), whole.dtype, whole.image_step
            )
            tensor.place(whole.flat[there * pixels :])
            found.append((here * pixels, tensor))
        return found

    def join(self, shards: list[Tensor], whole: Tensor, adding: bool) -> None:
        """Put the shards of all ranks where they belong."""
        for rank, shard in enumerate(shards):
            for begin, there in self.segments(whole, rank):
                move(_like(there, shard, begin), there, adding)

    def part(self, whole: Tensor, rank: int, shard: Tensor) -> None:
        """Take what a rank has of the whole."""
        for begin, there in self.segments(whole, rank):
            move(there, _like(there, shard, begin), False)

    def all_gather(self, own: Tensor, shape: Shape) -> list[Tensor]:
        """Begin to collect the shards of a whole of this shape; return where they come."""
        shards = self.shards(shape, own.flat.dtype, own)
        blocks = [shard.flat for shard in shards]
        self.submit(partial(all_gather, blocks=blocks), "gather", _nbytes(shards))
        return shards

    def reduce_scatter(self, whole: Tensor, out: Tensor) -> None:
        """Begin to sum partial sums of the whole, each rank getting its own shard of the sum."""
        shards = self.shards(whole.shape, whole.flat.dtype)
        for rank, shard in enumerate(shards):
            self.part(whole, rank, shard)
        given = [shard.flat for shard in shards]
        self.submit(partial(reduce_scatter, given=given, out=out.flat), "scatter", _nbytes(shards))

    def all_reduce(self, tensor: Tensor) -> None:
        """Begin to sum partial sums of the whole, for every rank."""
        self.submit(partial(direct, array=tensor.flat), "sum", tensor.flat.nbytes)


def _nbytes(tensors: list[Tensor]) -> int:
    """Return the bytes of some tensors together."""
    return sum(tensor.flat.nbytes for tensor in tensors)


def _like(tensor: Tensor, shard: Tensor, begin: int) -> Tensor:
    """Return the items of a shard that a tensor has elsewhere."""
    part = Tensor(tensor.shape, tensor.dtype, shard.image_step)
    part.place(shard.flat[begin:])
    return part


# --- AllGather: shards to a whole ---


class AllGatherBegin(Begin):
    """Begin to collect the shards of all ranks."""

    def send(self, x: Tensor) -> None:
        """Send the own shard to all, and receive theirs."""
        self.collective.shards_under_way = self.collective.all_gather(
            x, self.collective.whole_shape(x.shape)
        )

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Wait for the sum of the gradients."""
        super().differentiate(frame, step)
        self.collective.release()


class AllGatherEnd(CollectiveLayer):
    """The value of all shards.

    Parameters
    ----------
    collective : Collective
    summed : bool
        Whether the gradient has to be summed over the ranks; else it is the same on all.
    """

    def __init__(self, collective: Collective, summed: bool) -> None:
        super().__init__(collective)
        self.summed = summed

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return the shape of the whole."""
        return self.collective.whole_shape(shapes[0])

    def compute(self, frame: Frame, step: Step) -> None:
        """Wait for the shards, and put them in their places."""
        self.collective.wait()
        self.collective.join(self.collective.shards_under_way, frame.y, False)
        self.collective.release()

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Begin to sum the gradient, or take the own part."""
        if frame.dx is None:
            return
        if self.summed:
            self.collective.reduce_scatter(frame.gradient, frame.dx)
        else:
            self.collective.part(frame.gradient, self.collective.rank, frame.dx)


# --- ReduceScatter: partial sums to shards ---


class ReduceScatterBegin(Begin):
    """Begin to sum partial sums, each rank its shard."""

    def send(self, x: Tensor) -> None:
        """Send each rank what it sums."""
        collective = self.collective
        out = collective.buffer(collective.shard_shape(x.shape), x.flat.dtype)
        collective.shards_under_way = [out]
        collective.reduce_scatter(x, out)

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Wait for the gradient of the whole."""
        collective = self.collective
        collective.wait()
        if frame.dx is not None:
            collective.join(collective.shards_under_way, frame.dx, frame.adds[0])
        collective.release()


class ReduceScatterEnd(CollectiveLayer):
    """The own shard of a sum."""

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return the shape of the shard."""
        return self.collective.shard_shape(shapes[0])

    def compute(self, frame: Frame, step: Step) -> None:
        """Wait for the sum."""
        self.collective.wait()
        move(self.collective.shards_under_way[0], frame.y, False)
        self.collective.release()

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Begin to collect the shards of the gradient."""
        collective, dy = self.collective, frame.gradient
        own = collective.buffer(dy.shape, dy.flat.dtype)  # dy is overwritten while it is on its way
        move(dy, own, False)
        collective.shards_under_way = collective.all_gather(own, collective.whole_shape(dy.shape))


# --- AllReduce: partial sums to a whole ---


class AllReduceBegin(Begin):
    """Begin to sum partial sums, for every rank."""

    def send(self, x: Tensor) -> None:
        """Sum in place: nobody else reads partial sums."""
        self.collective.all_reduce(x)


class AllReduceEnd(CollectiveLayer):
    """The sum."""

    is_view = True

    def compute(self, frame: Frame, step: Step) -> None:
        """Wait for it; its gradient is the same on every rank."""
        self.collective.wait()
        super().compute(frame, step)


# --- Replicate: a value that all ranks have, whose gradient is in parts ---


class ReplicateBegin(Begin):
    """Where the gradient of a value comes together."""


class ReplicateEnd(AllReduceEnd):
    """The value, for layers that are split."""

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Begin to sum the gradient."""
        super().differentiate(frame, step)
        if frame.dx is not None:
            self.collective.all_reduce(frame.dx)


class Mask(CollectiveLayer):
    """A value that all ranks have; of its gradient, the same on all, each rank keeps its part.

    The parts can be added to gradients that are partial sums.
    """

    is_view = True

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Zero the gradients of the channels of other ranks."""
        collective = self.collective
        for rank in range(collective.ranks) if frame.dx is not None else ():
            if rank != collective.rank:
                for _, there in collective.segments(frame.gradient, rank):
                    there.array[...] = 0
        super().differentiate(frame, step)
