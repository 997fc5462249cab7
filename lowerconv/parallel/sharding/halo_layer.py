"""A layer with windows on some rows of its images: inner rows first, then those at the seams.

The layer computes what its rank's own rows make, with padding in place of the rows of other ranks,
while these are on their way.  The few rows of the result at the seams, which are wrong so, are then
made anew by a small layer of the same kind, and put in their places::

    forward     send own rows that others need
                all rows of the result from the own ones           the halo arrives meanwhile
                rows at seams from halo and own rows
    backward    gradients at seams: those of the halo leave
                all other gradients                                others' arrive meanwhile
                both are added up

So nothing but seams is copied, and all else is one pass, as on one rank.  A seam costs a row or two
more of the result.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from lowerconv.copying import not_copied
from lowerconv.nn.conv import Conv2d
from lowerconv.nn.frame import Frame, Tensor
from lowerconv.nn.layer import Layer
from lowerconv.nn.module import Parameter, Shape
from lowerconv.nn.pooling import AvgPool2d, MaxPool2d
from lowerconv.nn.step import Step
from lowerconv.parallel.sharding.message import Exchange
from lowerconv.parallel.sharding.rows import Part, Seam, Transfer

Windowed = Conv2d | MaxPool2d | AvgPool2d


def with_rows(
    layer: Windowed, above: int, below: int, made: int, columns: tuple[int, int]
) -> Layer:
    """Return a layer with the same parameters that has another padding above and below.

    Parameters
    ----------
    layer : Conv2d, MaxPool2d or AvgPool2d
    above, below : int
        Rows of padding.
    made : int
        Rows of the result.
    columns : (int, int)
        Padding on the left and on the right.
    """
    part = copy.copy(layer)
    if isinstance(part, Conv2d):
        stride, _, dilation, groups = part.geometry
        part.geometry = stride, ((above, below), columns), dilation, groups
    else:
        part.padding, part.rows = (above, columns[0]), made
    return part


def rows_of(array: np.ndarray, rows: range, first: int) -> np.ndarray:
    """Return some rows of (N, C, rows, W), whose first one is that of the number `first`."""
    return array[:, :, rows.start - first : rows.stop - first]


@not_copied("make another `Trainer` or strategy in each process")
class SeamFrame:
    """The rows of a layer's result at one seam, with memory of their own.

    Parameters
    ----------
    whole : Frame
        Of all of the rank's rows.
    layer : Layer
        That makes these.
    seam : Seam
    part : Part
        Which rows `whole` is of.
    """

    def __init__(self, whole: Frame, layer: Layer, seam: Seam, part: Part) -> None:
        self.whole, self.layer, self.seam, self.part = whole, layer, seam, part
        x_shape = (*whole.x.shape[:2], len(seam.read), whole.x.shape[3])
        y_shape = (*whole.y.shape[:2], len(seam.made), whole.y.shape[3])
        self.frame = frame = Frame(
            whole.name, whole.dtype, (_tensor(x_shape, whole.x),), _tensor(y_shape, whole.y)
        )
        frame.training, frame.plans = whole.training, whole.plans
        frame.activation, frame.node_number = whole.activation, whole.node_number
        if whole.residual is not None:
            frame.residual = _tensor(y_shape, whole.residual)
        if whole.training:
            saved = layer.saved(x_shape)
            frame.saved = {name: np.empty(shape, kind) for name, (shape, kind) in saved.items()}
        if whole.dy is not None:
            frame.dy = _tensor(y_shape, whole.dy)
            frame.dxs = (_tensor(x_shape, whole.dx) if whole.dx is not None else None,)
            if whole.dresidual is not None:
                frame.dresidual = _tensor(y_shape, whole.dresidual)
        layer.prepare(frame)

    def keep_residual(self) -> None:
        """Copy what is added to the result, which may be written over that."""
        if self.whole.residual is not None:
            assert self.frame.residual is not None
            self.frame.residual.array[...] = self._made(self.whole.residual)

    def read(self, rows: range, array: np.ndarray) -> None:
        """Take rows of the operand: of them those that are wanted."""
        x, (first, stop) = self.frame.x.array, (self.seam.read.start, self.seam.read.stop)
        begin, end = max(rows.start, first), min(rows.stop, stop)
        if begin < end:
            rows_of(x, range(begin, end), first)[...] = rows_of(
                array, range(begin, end), rows.start
            )

    def reads(self, rows: range) -> bool:
        """Return whether these rows are made of all of some."""
        return self.seam.read.start <= rows.start and rows.stop <= self.seam.read.stop

    def gradient(self, rows: range) -> np.ndarray:
        """Return the gradient of rows of the operand."""
        assert self.frame.dx is not None
        return rows_of(self.frame.dx.array, rows, self.seam.read.start)

    def compute(self, step: Step) -> None:
        """Make the rows, and put them in their places."""
        self.layer.compute(self.frame, step)
        self._made(self.whole.y)[...] = self.frame.y.array

    def differentiate(self, step: Step) -> None:
        """Compute the gradients of these rows, and take them out of those of all rows."""
        assert self.frame.dy is not None
        gradient = self._made(self.whole.gradient)
        self.frame.dy.array[...] = gradient
        gradient[...] = 0
        self.layer.differentiate(self.frame, step)

    def add(self) -> None:
        """Add the gradients of the own rows to those of all rows."""
        frame, own, read = self.frame, self.part.own, self.seam.read
        if frame.dresidual is not None:
            assert self.whole.dresidual is not None
            self._made(self.whole.dresidual)[...] += frame.dresidual.array
        if frame.dx is not None:
            assert self.whole.dx is not None
            rows = range(max(own.start, read.start), min(own.stop, read.stop))
            target = rows_of(self.whole.dx.array, rows, own.start)
            target += self.gradient(rows)

    def _made(self, tensor: Tensor) -> np.ndarray:
        return rows_of(tensor.array, self.seam.made, self.part.made.start)


def _tensor(shape: Shape, like: Tensor) -> Tensor:
    """Return zeros of the dtype of another tensor."""
    tensor = Tensor(shape, like.dtype)
    tensor.place(np.zeros(tensor.span, like.dtype))
    return tensor


@not_copied("make another `Trainer` or strategy in each process")
class HaloLayer(Layer):
    """A convolution or pooling of which each rank computes some rows.

    Parameters
    ----------
    main : Layer
        That makes all of this rank's rows, those at seams without the rows of others.
    seams : sequence of Layer
        That make those anew.
    part : Part
        Which rows these are.
    transfers : sequence of Transfer
        Of all ranks.
    exchange : Exchange
    """

    def __init__(
        self,
        main: Layer,
        seams: Sequence[Layer],
        part: Part,
        transfers: Sequence[Transfer],
        exchange: Exchange,
    ) -> None:
        super().__init__()
        for name, parameter in main.own_parameters().items():
            for seam in seams:  # with gradients of its own
                setattr(seam, name, Parameter(parameter.data))
        # Not children: their parameters are this layer's.
        self.__dict__["main"], self.__dict__["seams"] = main, list(seams)
        self.part, self.exchange = part, exchange
        self.sent = [t for t in transfers if t.source == exchange.rank]
        self.received = [t for t in transfers if t.target == exchange.rank]
        self.keeps_x, self.keeps_y = main.keeps_x, main.keeps_y
        self.takes_relu, self.takes_activation = main.takes_relu, main.takes_activation
        self.takes_residual = main.takes_residual

    main: Layer
    seams: list[Layer]

    def own_parameters(self) -> dict[str, Parameter]:
        """Return those of the layer."""
        return self.main.own_parameters()

    def initialize(self, rng: np.random.Generator) -> None:
        """Draw the parameters anew."""
        self.main.initialize(rng)

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return the shape of this rank's rows."""
        return self.main.result_shape(*shapes)

    def saved(self, *shapes: Shape) -> dict[str, tuple[Shape, np.dtype]]:
        """Return what the layer keeps."""
        return self.main.saved(*shapes)

    def flops(self, *shapes: Shape) -> int:
        """Return those of the rank's rows, not those of seams."""
        return self.main.flops(*shapes)

    def prepare(self, frame: Frame) -> None:
        """Prepare the layers."""
        self.main.prepare(frame)
        pairs = zip(self.seams, self.part.seams, strict=True)
        frame.prepared["seams"] = [
            SeamFrame(frame, layer, seam, self.part) for layer, seam in pairs
        ]

    # --- forward ---

    def compute(self, frame: Frame, step: Step) -> None:
        """Compute the own rows, and those at seams when the halo is there."""
        seams = self.seam_frames(frame)
        self.begin_halo(frame)
        for seam in seams:
            seam.keep_residual()
        self.main.compute(frame, step)
        self.end_halo(frame)
        for seam in seams:
            seam.compute(step)

    def begin_halo(self, frame: Frame) -> None:
        """Send the rows that others need."""
        x, own = frame.x.array, self.part.own.start
        N, C, _, W = x.shape
        self.exchange.begin(
            "halo",
            [(t.target, rows_of(x, t.rows, own)) for t in self.sent],
            [(t.source, (N, C, len(t.rows), W)) for t in self.received],
            x.dtype,
        )

    def end_halo(self, frame: Frame) -> None:
        """Wait for the rows of others, and put them and the own ones to the seams."""
        arrays = self.exchange.end()
        for seam in self.seam_frames(frame):
            seam.read(self.part.own, frame.x.array)
            for transfer, array in zip(self.received, arrays, strict=True):
                seam.read(transfer.rows, array)
        self.exchange.release()

    # --- backward ---

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Compute the gradients at seams, send those of the halo, compute the others."""
        seams = self.seam_frames(frame)
        for seam in seams:
            seam.differentiate(step)
        if frame.dx is not None:
            self.begin_gradient(frame)
        self.main.differentiate(frame, step)
        for seam in seams:
            seam.add()
        for layer in self.seams:
            added = layer.own_parameters()
            for name, parameter in self.own_parameters().items():
                parameter.grad += added[name].grad
        if frame.dx is not None:
            self.end_gradient(frame)

    def begin_gradient(self, frame: Frame) -> None:
        """Send the gradients of the rows of others."""
        assert frame.dx is not None
        N, C, _, W = frame.dx.shape
        outgoing = []
        for transfer in self.received:
            (seam,) = (s for s in self.seam_frames(frame) if s.reads(transfer.rows))
            outgoing.append((transfer.source, seam.gradient(transfer.rows)))
        incoming = [(t.target, (N, C, len(t.rows), W)) for t in self.sent]
        self.exchange.begin("halo gradient", outgoing, incoming, frame.dx.dtype)

    def end_gradient(self, frame: Frame) -> None:
        """Add the gradients that others have of the own rows."""
        assert frame.dx is not None
        for transfer, array in zip(self.sent, self.exchange.end(), strict=True):
            target = rows_of(frame.dx.array, transfer.rows, self.part.own.start)
            target += array
        self.exchange.release()

    def seam_frames(self, frame: Frame) -> list[SeamFrame]:
        """Return what the layers of the seams compute with: the weights as they are."""
        mine = self.own_parameters()
        for layer in self.seams:
            for name, parameter in layer.own_parameters().items():
                parameter.data = mine[name].data
        found: list[SeamFrame] = frame.prepared["seams"]
        return found
