"""Spatial parallelism: each rank has some rows of the images, and then some samples.

The graph of a network is recorded and written anew, value by value.  Of a value each rank has some
rows, or some samples whole, and of the input everything:

- Convolutions and pooling make rows of rows; what their windows reach of others is sent
  (`halo_layer`).
- Layers that do the same to each pixel (`PIXELWISE`) make rows of rows, and so do batch norm, which
  sums its statistics over the ranks, dropout, and sums and concatenations.
- Before all other layers, and where a rank would get no row, rows become samples: from there on the
  ranks do what they do in data parallelism.

Every rank has all weights, and of each gradient a partial sum.

Dryden et al., "Improving strong-scaling of CNN training by exploiting finer-grained parallelism"
(2019).
"""

from __future__ import annotations

from collections.abc import Callable

from lowerconv.copying import not_copied
from lowerconv.nn.activation import Dropout, ReLU
from lowerconv.nn.combine import Add, Concat
from lowerconv.nn.conv import Conv2d
from lowerconv.nn.graph import Graph, Node, Value
from lowerconv.nn.layer import Layer
from lowerconv.nn.module import Module, Shape
from lowerconv.nn.norm import BatchNorm2d, LocalResponseNorm
from lowerconv.nn.pointwise import Pointwise
from lowerconv.nn.pooling import AvgPool2d, GlobalAvgPool2d, MaxPool2d
from lowerconv.nn.recording import parameter_dtype
from lowerconv.parallel.comm.engine import Engine
from lowerconv.parallel.sharding.halo_layer import HaloLayer, Windowed, with_rows
from lowerconv.parallel.sharding.layout import SAMPLES
from lowerconv.parallel.sharding.message import Exchange
from lowerconv.parallel.sharding.row_layers import (
    DropoutOfRows,
    DropoutOfSamples,
    GatherSamples,
    GlobalAvgPoolOfRows,
    MoveRows,
    RowsToSamples,
    TakeRows,
    TakeSamples,
    synchronized,
)
from lowerconv.parallel.sharding.rows import (
    Rows,
    RowWindow,
    Scale,
    common,
    halos,
    part_of,
    pass_windows,
    place_rows,
    row_cuts,
    samples,
)
from lowerconv.parallel.sharding.sharded_network import ShardedNetwork, ShardedValue, record

#: Layers that do the same to each pixel, and know nothing of others.
PIXELWISE = (ReLU, Pointwise, LocalResponseNorm)


@not_copied("copy the network before it is divided")
class RowNetwork(ShardedNetwork):
    """This rank's part of a network whose images are divided by rows.

    Takes the whole batch, and returns the whole results, on every rank.  Gradients of parameters,
    and of the input, are partial sums.

    Parameters
    ----------
    module : Module
        With the same weights on all ranks; parameters and statistics stay its own.
    x_shape : (N, C, H, W)
        Of an input of any batch.
    engine : Engine

    Attributes
    ----------
    rows : Rows
        Of the input.
    last, first : str
        The last layer with a name that makes rows, and the first one that makes samples.
    halo_bytes : int
        That all ranks together send each other for an image in a step forward.

    Raises
    ------
    ValueError
        The first layer cannot be divided; the message names it.
    """

    def __init__(self, module: Module, x_shape: Shape, engine: Engine) -> None:
        super().__init__(module, engine)
        if len(x_shape) != 4:
            raise ValueError(f"x_shape: got {x_shape}, expected (N, C, H, W), which has rows")
        self.image_shape = x_shape[1:]
        self._replaced: dict[int, tuple[Layer, Layer]] = {}
        self.last, self.first, self.halo_bytes = "", "", 0
        unit = 1
        dtype = parameter_dtype(module)
        for _ in range(2):  # once to learn the longest step from row to row
            cuts = row_cuts(x_shape[2], engine.ranks, unit)
            self._cuts, self._longest = cuts, 1
            self._kept, self._replaced = {}, {}
            Graph(self, (1, *self.image_shape), dtype, training=True)
            unit = self._longest
        self.rows = place_rows(Scale(), self._cuts, x_shape[2])
        self.set_layers(self._list_layers())
        if engine.ranks > 1 and not self.last:
            raise ValueError(
                f"parallel: got 'spatial' with layer {self.first!r}, which no {engine.ranks} ranks "
                f"can divide by the rows of images {self.image_shape}; expected a network that "
                "begins with convolutions, pooling or layers that see one pixel at a time, and "
                "results of as many rows as ranks"
            )

    def forward(self, *values: Value) -> Value | tuple[Value, ...]:
        """Record this rank's part."""
        shape = values[0].shape
        if shape[1:] != self.image_shape:
            raise ValueError(f"x: got shape {shape}, expected images {self.image_shape}")
        self._count = shape[0]
        self.last, self.first, self.halo_bytes = "", "", 0
        return super().forward(*values)

    def describe(self) -> str:
        """Return which rows ranks have, up to where, and what they send each other."""
        shares = ", ".join(str(len(part)) for part in self.rows.parts)
        sent = f"{self.halo_bytes / 1e6:.3g} MB of halos for each image and way"
        then = f"samples from layer {self.first} on, " if self.first else ""
        return f"rows ({shares}) up to layer {self.last}, {then}{sent}"

    # --- rewriting ---

    def _rewrite(self, node: Node, operands: list[ShardedValue], is_result: bool) -> ShardedValue:
        """Return what the ranks have of a node's result: rows if that can be, else samples."""
        made = None
        if all(x.layout is not SAMPLES for x in operands):
            made = self._of_rows(node, operands)
        if made is None:
            made = self._of_samples(node, operands)
        if isinstance(made.layout, Rows):
            name = self._names.get(id(node.layer))  # sums and activations often have none
            self.last = name or self.last or self._titles[node.number]
            self._longest = max(self._longest, made.layout.scale.step)
        else:
            self.first = self.first or self._titles[node.number]
        return made

    def _of_samples(self, node: Node, operands: list[ShardedValue]) -> ShardedValue:
        layer, kind = node.layer, type(node.layer)
        if isinstance(layer, BatchNorm2d):
            norm = layer
            layer = self._in_place(node, layer, lambda: synchronized(norm))
        elif isinstance(layer, Dropout) and kind is Dropout:
            mine = samples(self._count, self.engine.ranks)[self.engine.rank]
            layer = DropoutOfSamples(layer.p, self._count, mine)
        value = record(layer, node, *map(self._as_samples, operands))
        return ShardedValue(node.number, value, SAMPLES)

    def _of_rows(self, node: Node, operands: list[ShardedValue]) -> ShardedValue | None:
        """Return the rows that a layer makes of rows; None where it does not."""
        layer, kind, x = node.layer, type(node.layer), operands[0]
        if any(len(value.shape) != 4 for value in (*node.operands, node.result)):
            return None
        if kind is GlobalAvgPool2d:
            return self._averaged(node, x)
        if isinstance(layer, (Conv2d, MaxPool2d, AvgPool2d)):
            window = row_window(layer, node.operands[0].shape)
            return None if window is None else self._through_windows(node, layer, x, window)
        rows = x.layout or place_rows(Scale(), self._cuts, node.operands[0].shape[2])
        if not rows.everywhere:
            return None
        if isinstance(layer, BatchNorm2d) and kind is BatchNorm2d:
            norm = layer
            layer = self._in_place(node, layer, lambda: synchronized(norm))
        elif isinstance(layer, Dropout) and kind is Dropout:
            mine, shape, p = rows.part(self.engine.rank), node.operands[0].shape[1:], layer.p
            layer = self._in_place(node, layer, lambda: DropoutOfRows(p, mine, shape))
        elif kind not in (*PIXELWISE, Add, Concat):
            return None
        value = record(layer, node, *(self._as_rows(x, rows) for x in operands))
        return ShardedValue(node.number, value, rows)

    def _averaged(self, node: Node, x: ShardedValue) -> ShardedValue | None:
        """Return the means of channels, of each rank's samples."""
        if not isinstance(x.layout, Rows):
            return None
        exchange, rows = self._exchange(node.number), x.layout
        layer = self._in_place(node, node.layer, lambda: GlobalAvgPoolOfRows(rows, exchange))
        assert x.value is not None
        return ShardedValue(node.number, record(layer, node, x.value), SAMPLES)

    def _through_windows(
        self, node: Node, layer: Windowed, x: ShardedValue, window: RowWindow
    ) -> ShardedValue | None:
        """Return the rows that a convolution or pooling makes."""
        _, C, H, W = node.operands[0].shape
        count, rank = node.result.shape[2], self.engine.rank
        if isinstance(x.layout, Rows):
            found = pass_windows(x.layout, window, self._cuts, count)
            if found is None:
                return None
            before, made = found
            owned = before.parts
        else:  # every rank has all images, and takes what it needs
            made = place_rows(Scale().through(window), self._cuts, count)
            if not made.everywhere:
                return None
            owned = [common(window.reads(part), range(H)) for part in made.parts]
        both = zip(owned, made.parts, strict=True)
        parts = [part_of(window, own, part, H) for own, part in both]
        mine, transfers = parts[rank], halos(parts, H)
        itemsize = node.result.dtype.itemsize
        self.halo_bytes += sum(len(t.rows) for t in transfers) * C * W * itemsize

        def make() -> Layer:
            columns = _columns(layer, node.operands[0].shape)
            main = with_rows(layer, mine.above, mine.below, len(mine.made), columns)
            if not any(part.seams for part in parts):
                return main
            seams = [
                with_rows(layer, seam.above, seam.below, len(seam.made), columns)
                for seam in mine.seams
            ]
            return HaloLayer(main, seams, mine, transfers, self._exchange(node.number))

        operand = (
            self._as_rows(x, before) if isinstance(x.layout, Rows) else self._taken(x, mine.own)
        )
        value = record(self._in_place(node, layer, make), node, operand)
        return ShardedValue(node.number, value, made)

    # --- values in the form that a layer needs ---

    def _as_rows(self, x: ShardedValue, rows: Rows) -> Value:
        """Return this rank's rows of a value, divided as wanted."""
        assert x.value is not None
        if x.layout is None:
            return self._taken(x, rows.part(self.engine.rank))
        before: Rows = x.layout
        if before.bounds == rows.bounds:
            return x.value
        form = f"rows {rows.bounds}"
        if form not in x.made:
            move = MoveRows(before, rows, self._exchange(x.number))
            x.made[form] = self._keep(x.number, form, move)(x.value)
        return x.made[form]

    def _taken(self, x: ShardedValue, rows: range) -> Value:
        """Return rows of the input."""
        assert x.value is not None
        form = f"rows {rows.start}:{rows.stop}"
        if form not in x.made:
            x.made[form] = self._keep(x.number, form, TakeRows(rows))(x.value)
        return x.made[form]

    def _as_samples(self, x: ShardedValue) -> Value:
        """Return this rank's samples of a value."""
        assert x.value is not None
        if x.layout is SAMPLES:
            return x.value
        if "samples" not in x.made:
            layer: Layer
            if x.layout is None:
                layer = TakeSamples(self.engine.rank, self.engine.ranks)
            else:
                layer = RowsToSamples(x.layout, self._exchange(x.number))
            x.made["samples"] = self._keep(x.number, "samples", layer)(x.value)
        return x.made["samples"]

    def _whole(self, x: ShardedValue) -> Value:
        """Return a value that all ranks have."""
        if x.layout is None:
            assert x.value is not None
            return x.value
        if "whole" not in x.made:
            layer = GatherSamples(self._count, self._exchange(x.number))
            x.made["whole"] = layer(self._as_samples(x))
        return x.made["whole"]

    # --- layers, made once for all shapes ---

    def _exchange(self, number: int) -> Exchange:
        return Exchange(self.engine, self._pool, self._titles[number])

    def _keep(self, number: int, what: str, layer: Layer) -> Layer:
        """Return the layer that was made first for something."""
        return self._kept.setdefault((number, what), (layer,))[0]

    def _in_place(self, node: Node, layer: Layer, make: Callable[[], Layer]) -> Layer:
        """Return the layer that computes in place of a node's, under its name."""
        if node.number not in self._replaced:
            if layer.own_parameters() and id(layer) not in self._names:
                raise ValueError(
                    f"{node.name}: has parameters but no name, expected an attribute of the network"
                )
            self._replaced[node.number] = layer, make()
        return self._replaced[node.number][1]

    def _in_place_of(self) -> dict[int, tuple[Layer, ...]]:
        """Return the layers that have rows, by the identities of those in whose place they are."""
        found: dict[int, tuple[Layer, ...]] = {}
        for layer, other in self._replaced.values():
            found[id(layer)] = (*found.get(id(layer), ()), other)
        return found


def row_window(layer: Windowed, x_shape: Shape) -> RowWindow | None:
    """Return the rows of a layer's windows; None where it has none that could be divided.

    Parameters
    ----------
    layer : Conv2d, MaxPool2d or AvgPool2d
    x_shape : (N, C, H, W)
    """
    if type(layer) is Conv2d:
        problem = layer.problem(x_shape)
        (above, below), _ = problem.padding
        extent = (problem.R - 1) * problem.dilation[0] + 1
        window = RowWindow(extent, problem.stride[0], above, below)
    elif type(layer) is MaxPool2d:
        pad = layer.padding[0]
        window = RowWindow(layer.size[0], layer.stride[0], pad, pad)
    elif type(layer) is AvgPool2d:
        pad = layer.padding[0]
        counts = layer.count_include_pad
        window = RowWindow(layer.size[0], layer.stride[0], pad, pad, counts)
    else:  # what is derived from ours may do anything
        return None
    return window if max(window.above, window.below) < window.extent else None


def _columns(layer: Windowed, x_shape: Shape) -> tuple[int, int]:
    """Return the padding on the left and on the right."""
    if isinstance(layer, Conv2d):
        return layer.problem(x_shape).padding[1]
    return layer.padding[1], layer.padding[1]
