"""Layers of networks whose images are divided by rows: between layouts, and those with a state."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

import numpy as np

from lowerconv.copying import not_copied
from lowerconv.nn.activation import Dropout
from lowerconv.nn.frame import Frame, Tensor
from lowerconv.nn.layer import Layer
from lowerconv.nn.module import Shape
from lowerconv.nn.norm import BatchNorm2d
from lowerconv.nn.step import Step
from lowerconv.ops.avg_pool import avg_pool, avg_pool_grad
from lowerconv.parallel.comm.collectives import all_gather, reduce_scatter
from lowerconv.parallel.sharding.halo_layer import rows_of
from lowerconv.parallel.sharding.message import Exchange
from lowerconv.parallel.sharding.rows import Rows, moves, samples
from lowerconv.runtime.threads import run


class TakeRows(Layer):
    """Some rows of images of which every rank has all.

    The gradient of the images is that of these rows, and zero elsewhere: of several ranks it adds
    up.

    Parameters
    ----------
    rows : range
    """

    def __init__(self, rows: range) -> None:
        super().__init__()
        self.rows = rows

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return the shape of the rows."""
        N, C, _, W = shapes[0]
        return (N, C, len(self.rows), W)

    def compute(self, frame: Frame, step: Step) -> None:
        """Copy the rows."""
        frame.y.array[...] = rows_of(frame.x.array, self.rows, 0)

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Put the gradient to its place."""
        if frame.dx is None:
            return
        if not frame.adds[0]:
            frame.dx.array[...] = 0
        target = rows_of(frame.dx.array, self.rows, 0)
        target += frame.gradient.array


class TakeSamples(Layer):
    """A rank's samples of a batch of which every rank has all.

    The gradient of the batch is that of these samples, and zero elsewhere.

    Parameters
    ----------
    rank, ranks : int
    """

    def __init__(self, rank: int, ranks: int) -> None:
        super().__init__()
        self.rank, self.ranks = rank, ranks

    def _mine(self, count: int) -> slice:
        mine = samples(count, self.ranks)[self.rank]
        return slice(mine.start, mine.stop)

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return the shape of the samples."""
        mine = self._mine(shapes[0][0])
        return (mine.stop - mine.start, *shapes[0][1:])

    def compute(self, frame: Frame, step: Step) -> None:
        """Copy the samples."""
        frame.y.array[...] = frame.x.array[self._mine(frame.x.N)]

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Put the gradient to its place."""
        if frame.dx is None:
            return
        if not frame.adds[0]:
            frame.dx.array[...] = 0
        target = frame.dx.array[self._mine(frame.dx.N)]
        target += frame.gradient.array


@not_copied("make another `Trainer` or strategy in each process")
class MoveRows(Layer):
    """The same images with other rows on each rank.

    Parameters
    ----------
    before, after : Rows
    exchange : Exchange
    """

    def __init__(self, before: Rows, after: Rows, exchange: Exchange) -> None:
        super().__init__()
        self.before, self.after, self.exchange = before, after, exchange

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return the shape of this rank's rows."""
        N, C, _, W = shapes[0]
        return (N, C, len(self.after.part(self.exchange.rank)), W)

    def compute(self, frame: Frame, step: Step) -> None:
        """Send each rank its rows."""
        frame.y.array[...] = 0
        self._move(self.before, self.after, frame.x, frame.y)

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Send the gradients back."""
        if frame.dx is None:
            return
        if not frame.adds[0]:
            frame.dx.array[...] = 0
        self._move(self.after, self.before, frame.gradient, frame.dx)

    def _move(self, before: Rows, after: Rows, x: Tensor, y: Tensor) -> None:
        """Add rows to where they go."""
        exchange, rank = self.exchange, self.exchange.rank
        first, target = before.part(rank).start, after.part(rank).start
        mine = [t for t in moves(before, after) if rank in (t.source, t.target)]
        N, C, _, W = x.shape
        sent = [t for t in mine if t.target != rank]
        received = [t for t in mine if t.source != rank]
        exchange.begin(
            "rows",
            [(t.target, rows_of(x.array, t.rows, first)) for t in sent],
            [(t.source, (N, C, len(t.rows), W)) for t in received],
            x.dtype,
        )
        for t in (t for t in mine if t.source == t.target):
            y_rows = rows_of(y.array, t.rows, target)
            y_rows += rows_of(x.array, t.rows, first)
        for t, array in zip(received, exchange.end(), strict=True):
            y_rows = rows_of(y.array, t.rows, target)
            y_rows += array
        exchange.release()


@not_copied("make another `Trainer` or strategy in each process")
class RowsToSamples(Layer):
    """Each rank's samples, whole, of rows of all samples.

    Parameters
    ----------
    rows : Rows
    exchange : Exchange
    """

    def __init__(self, rows: Rows, exchange: Exchange) -> None:
        super().__init__()
        self.rows, self.exchange = rows, exchange

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return the shape of this rank's samples."""
        N, C, _, W = shapes[0]
        mine = samples(N, self.exchange.ranks)[self.exchange.rank]
        return (len(mine), C, self.rows.count, W)

    def compute(self, frame: Frame, step: Step) -> None:
        """Send each rank the rows of its samples."""
        x, y, exchange = frame.x.array, frame.y.array, self.exchange
        N, C, _, W = x.shape
        n, shares, parts = len(y), samples(N, exchange.ranks), self.rows.parts
        others = [r for r in range(exchange.ranks) if r != exchange.rank]
        exchange.begin(
            "samples",
            [(r, x[shares[r].start : shares[r].stop]) for r in others],
            [(r, (n, C, len(parts[r]), W)) for r in others],
            x.dtype,
        )
        mine = shares[exchange.rank]
        rows_of(y, parts[exchange.rank], 0)[...] = x[mine.start : mine.stop]
        for r, array in zip(others, exchange.end(), strict=True):
            rows_of(y, parts[r], 0)[...] = array
        exchange.release()

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Send each rank the gradients of its rows."""
        if frame.dx is None:
            return
        dx, dy, exchange = frame.dx.array, frame.gradient.array, self.exchange
        N, C, h, W = dx.shape
        shares, parts = samples(N, exchange.ranks), self.rows.parts
        others = [r for r in range(exchange.ranks) if r != exchange.rank]
        exchange.begin(
            "samples gradient",
            [(r, rows_of(dy, parts[r], 0)) for r in others],
            [(r, (len(shares[r]), C, h, W)) for r in others],
            dx.dtype,
        )
        if not frame.adds[0]:
            dx[...] = 0
        target = dx[shares[exchange.rank].start : shares[exchange.rank].stop]
        target += rows_of(dy, parts[exchange.rank], 0)
        for r, array in zip(others, exchange.end(), strict=True):
            target = dx[shares[r].start : shares[r].stop]
            target += array
        exchange.release()


@not_copied("make another `Trainer` or strategy in each process")
class GatherSamples(Layer):
    """The samples of all ranks, on each of them; whose gradient is the same on all.

    Parameters
    ----------
    count : int
        Of all ranks together.
    exchange : Exchange
    """

    def __init__(self, count: int, exchange: Exchange) -> None:
        super().__init__()
        self.count, self.exchange = count, exchange
        self.shares = samples(count, exchange.ranks)

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return the shape of all samples."""
        return (self.count, *shapes[0][1:])

    def compute(self, frame: Frame, step: Step) -> None:
        """Collect them."""
        y, exchange = frame.y.array, self.exchange
        blocks = [y[mine.start : mine.stop] for mine in self.shares]
        blocks[exchange.rank][...] = frame.x.array
        exchange.submit(partial(all_gather, blocks=blocks), "gather", y.nbytes)
        exchange.wait()

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Take the part of this rank."""
        if frame.dx is None:
            return
        mine = self.shares[self.exchange.rank]
        part = frame.gradient.array[mine.start : mine.stop]
        if frame.adds[0]:
            frame.dx.array[...] += part
        else:
            frame.dx.array[...] = part


@not_copied("make another `Trainer` or strategy in each process")
class GlobalAvgPoolOfRows(Layer):
    """The mean of every channel of each rank's samples, of rows of all samples.

    Parameters
    ----------
    rows : Rows
    exchange : Exchange
    """

    def __init__(self, rows: Rows, exchange: Exchange) -> None:
        super().__init__()
        self.all_rows, self.exchange = rows, exchange

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return (n, C, 1, 1) for n samples of this rank."""
        N, C, _, _ = shapes[0]
        return (len(samples(N, self.exchange.ranks)[self.exchange.rank]), C, 1, 1)

    def compute(self, frame: Frame, step: Step) -> None:
        """Add up what the rows of all ranks contribute."""
        exchange, x = self.exchange, frame.x
        part = self._of_rows(x)
        run(avg_pool, x.images, part.images, _all_pixels(x), True)
        part.array[...] *= x.shape[2] / self.all_rows.count
        given = [part.array[mine.start : mine.stop] for mine in samples(x.shape[0], exchange.ranks)]
        out = np.empty(given[exchange.rank].shape, x.dtype)
        exchange.submit(partial(reduce_scatter, given=given, out=out), "sum", part.flat.nbytes)
        exchange.wait()
        frame.y.array[...] = out

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Spread the gradients of all samples over the rows."""
        dx, exchange = frame.dx, self.exchange
        if dx is None:
            return
        dy = self._of_rows(dx)
        blocks = [dy.array[mine.start : mine.stop] for mine in samples(dx.N, exchange.ranks)]
        blocks[exchange.rank][...] = frame.gradient.array
        exchange.submit(partial(all_gather, blocks=blocks), "gather", dy.flat.nbytes)
        exchange.wait()
        dy.array[...] *= dx.shape[2] / self.all_rows.count
        run(avg_pool_grad, dy.images, dx.images, _all_pixels(dx), True, frame.adds[0])

    @staticmethod
    def _of_rows(x: Tensor) -> Tensor:
        """Return memory for a number of each channel of all samples."""
        tensor = Tensor((*x.shape[:2], 1, 1), x.dtype)
        tensor.place(np.empty(tensor.span, x.dtype))
        return tensor


def _all_pixels(x: Tensor) -> tuple[tuple[int, int], ...]:
    """Return one window with all of a plane, as kernels take `ops.windows.Windows`."""
    size = x.shape[2], x.shape[3]
    return size, size, (0, 0)


class DropoutOfRows(Dropout):
    """Dropout of some rows: those items drop that would in whole images.

    Parameters
    ----------
    p : float
    rows : range
    shape : (C, H, W)
        Of whole images.
    """

    def __init__(self, p: float, rows: range, shape: Shape) -> None:
        super().__init__(p)
        self._rows, self._shape = rows, shape

    def part(self, size: int) -> tuple[np.ndarray, int]:
        """Return which items of a full sample are here, and how many that has."""
        C, H, W = self._shape
        channels, here = np.arange(C), len(self._rows) * W
        there = (channels * H + self._rows.start) * W
        segments = np.stack([channels * here, there, np.full(C, here)], 1)
        return segments.astype(np.int64), C * H * W


class DropoutOfSamples(Dropout):
    """Dropout of some samples of a batch of which the step knows all.

    Parameters
    ----------
    p : float
    count : int
        Of all samples.
    mine : range
    """

    def __init__(self, p: float, count: int, mine: range) -> None:
        super().__init__(p)
        self._count, self._mine = count, mine

    def _apply(self, frame: Frame, step: Step, x: Tensor, y: Tensor, adding: bool) -> None:
        places = step.places(self._count)[self._mine.start : self._mine.stop]
        runs = tuple((int(place), 1) for place in places)
        super()._apply(frame, replace(step, runs=runs), x, y, adding)


def synchronized(layer: BatchNorm2d) -> BatchNorm2d:
    """Return batch norm with the same parameters and statistics, which sums over the ranks."""
    together = copy.copy(layer)
    together.synchronized = True
    return together
