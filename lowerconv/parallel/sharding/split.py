"""Model parallelism: each rank has a part of the channels, and the weights that make them.

The graph of a network is recorded and written anew, value by value.  A value is whole, the same on
all ranks, or each rank has some of its channels or features, its shard:

- A convolution or fully connected layer makes a shard of its result: it has some of the filters,
  and reads the whole operand.  A fully connected layer may instead read a shard, having some of the
  columns of the weights: the ranks' results are summed then.  What moves fewer bytes is taken.
- Layers that do the same to each channel (`CHANNELWISE`) make shards of shards.
- All others, such as local response norm and convolutions in groups, are computed by every rank
  alike, and read whole values.

Krizhevsky, "One weird trick for parallelizing convolutional neural networks" (2014), section 2, for
fully connected layers; Shoeybi et al., "Megatron-LM" (2019), section 3, for rows and columns of
weights in turns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from math import prod

import numpy as np

from lowerconv.copying import not_copied
from lowerconv.nn.activation import Dropout, ReLU
from lowerconv.nn.combine import Add, Concat, Flatten
from lowerconv.nn.conv import Conv2d
from lowerconv.nn.graph import Graph, Node, Value
from lowerconv.nn.layer import Layer
from lowerconv.nn.linear import Linear
from lowerconv.nn.module import Module, Shape
from lowerconv.nn.norm import BatchNorm2d
from lowerconv.nn.pooling import AvgPool2d, GlobalAvgPool2d, MaxPool2d
from lowerconv.nn.recording import parameter_dtype
from lowerconv.parallel.comm.collectives import all_gather
from lowerconv.parallel.comm.engine import Engine
from lowerconv.parallel.sharding.collective_layers import (
    AllGatherBegin,
    AllGatherEnd,
    AllReduceBegin,
    AllReduceEnd,
    Collective,
    Mask,
    ReduceScatterBegin,
    ReduceScatterEnd,
    ReplicateBegin,
    ReplicateEnd,
)
from lowerconv.parallel.sharding.layout import Layout
from lowerconv.parallel.sharding.sharded_layers import (
    DropoutShard,
    Shard,
    Sharding,
    forget,
    split_inputs,
    split_norm,
    split_outputs,
)
from lowerconv.parallel.sharding.sharded_network import ShardedNetwork, ShardedValue, record

#: Layers that do the same to each channel, and know nothing of others.
CHANNELWISE = (ReLU, MaxPool2d, AvgPool2d, GlobalAvgPool2d)


@not_copied("copy the network before it is split, or after `join`")
class SplitNetwork(ShardedNetwork):
    """This rank's part of a network of which every rank computes a part.

    Takes the whole batch, and returns the whole results, on every rank.

    Parameters
    ----------
    module : Module
        With the same weights on all ranks.  Its layers that are split give their arrays away, and
        keep the shapes; `join` gives them back.
    x_shape : tuple of int
        Of an input of any batch: (N, C, H, W) or (N, features).
    engine : Engine
    input_partial : bool
        Whether the gradient of the input may be a partial sum, which the caller then sums over the
        ranks, as `BatchExchange.reduce_gradient` does.

    Attributes
    ----------
    shardings : dict of str to Sharding
        How parameters and buffers are divided, by name; what all ranks have is not in it.
    """

    def __init__(
        self, module: Module, x_shape: Shape, engine: Engine, *, input_partial: bool = False
    ) -> None:
        super().__init__(module, engine)
        self.input_partial = input_partial
        self.shardings: dict[str, Sharding] = {}
        self._shards: dict[int, tuple[Layer, Shard]] = {}
        self._wants: dict[int, set[str]] = {}  # who reads a value: "split" or "whole" layers
        dtype = parameter_dtype(module)
        shape = (1, *x_shape[1:])
        for _ in range(2):  # once to learn who reads what
            self._kept = {}
            Graph(self, shape, dtype, training=True)
        self.set_layers(self._list_layers())
        for layer, _ in self._shards.values():
            forget(layer)

    def initialize(self, rng: np.random.Generator) -> None:
        """Refuse: other numbers would be drawn than by one process."""
        raise RuntimeError("initialize: the network is split, expected it before that")

    # --- state ---

    def whole(self, name: str, array: np.ndarray) -> np.ndarray:
        """Return the whole of which each rank has a part; all ranks call it.

        Parameters
        ----------
        name : str
            Of the parameter or buffer that the array is, or belongs to, as velocities do.
        array : ndarray
            This rank's part.
        """
        sharding = self.shardings.get(name)
        if sharding is None:
            return array
        ranks, rank = self.engine.ranks, self.engine.rank
        axis, layout = sharding
        blocks = []
        for r in range(ranks):
            shape = (*array.shape[:axis], layout.size(r, ranks), *array.shape[axis + 1 :])
            blocks.append(
                np.ascontiguousarray(array) if r == rank else np.empty(shape, array.dtype)
            )
        self.engine.run(lambda link: all_gather(link, blocks), f"{name} state", array.nbytes)
        whole = np.empty(sharding.shape(array.shape), array.dtype)
        for r, block in enumerate(blocks):
            whole[(slice(None),) * axis + (layout.index(r, ranks),)] = block
        return whole

    def shard(self, name: str, whole: np.ndarray) -> np.ndarray:
        """Return this rank's shard of an array, which may be that of a parameter's optimizer."""
        sharding = self.shardings.get(name)
        if sharding is None:
            return whole
        return sharding.shard(whole, self.engine.rank, self.engine.ranks)

    def join(self) -> None:
        """Give the network its arrays back, with all that was learnt; all ranks call it."""
        mine = {name: p.data for name, p in self.parameters().items()} | self.buffers()
        for layer, _ in self._shards.values():
            name = self._names[id(layer)]
            prefix = f"{name}." if name else ""
            for own, parameter in layer.own_parameters().items():
                whole = self.whole(prefix + own, mine[prefix + own]).copy()
                parameter.data, parameter.grad = whole, np.zeros_like(whole)
            for own in layer.own_buffers():
                setattr(layer, own, self.whole(prefix + own, mine[prefix + own]).copy())

    # --- rewriting ---

    def _rewrite(self, node: Node, operands: list[ShardedValue], is_result: bool) -> ShardedValue:
        """Return what the ranks have of a node's result."""
        layer, x = node.layer, operands[0]
        kind = type(layer)  # what is derived from ours may do anything
        if isinstance(layer, Concat) and kind is Concat:
            both = ShardedValue(node.number, None)
            both.parts, both.concat = operands, layer
            layouts = [part.layout for part in operands if part.layout is not None]
            if len(layouts) == len(operands):
                both.layout = reduce(Layout.followed_by, layouts)
            return both
        if isinstance(layer, Conv2d) and kind is Conv2d and self._divides(layer):
            if layer.geometry[3] == 1:
                return self._by_outputs(node, layer, x)
        elif isinstance(layer, Linear) and kind is Linear:
            outputs, inputs = layer.weight.data.shape
            if x.layout is not None and outputs < inputs:
                # What is too narrow to be divided, or asked for, is summed for everybody.
                everybody = is_result or not self._divides(layer)
                return self._by_inputs(node, layer, x, everybody)
            if self._divides(layer):
                return self._by_outputs(node, layer, x)
        elif x.layout is not None:
            shards = self._of_shards(node, operands, x.layout)
            if shards is not None:
                return shards
        return ShardedValue(node.number, record(layer, node, *map(self._whole, operands)))

    def _of_shards(
        self, node: Node, operands: list[ShardedValue], layout: Layout
    ) -> ShardedValue | None:
        """Return the shards that a layer makes of shards; None where it reads whole values."""
        layer, kind = node.layer, type(node.layer)
        rank, ranks = self.engine.rank, self.engine.ranks
        made = layout
        if kind is Flatten:
            made = layout.flattened(prod(node.operands[0].shape[2:]))
        elif isinstance(layer, BatchNorm2d) and kind is BatchNorm2d:
            split = partial(split_norm, layer, layout, rank, ranks)
            layer = self._shard(node, split).layers[0]
        elif isinstance(layer, Dropout) and kind is Dropout:
            if (node.number, "part") not in self._kept:
                self._kept[node.number, "part"] = (DropoutShard(layer.p, layout, rank, ranks),)
            layer = self._kept[node.number, "part"][0]
        elif kind is Add:
            if any(other.layout != layout for other in operands):
                return None
        elif kind not in CHANNELWISE:
            return None
        value = record(layer, node, *map(self._as_shard, operands))
        return ShardedValue(node.number, value, made)

    def _divides(self, layer: Conv2d | Linear) -> bool:
        return layer.weight.data.shape[0] >= self.engine.ranks

    def _by_outputs(self, node: Node, layer: Conv2d | Linear, x: ShardedValue) -> ShardedValue:
        rank, ranks = self.engine.rank, self.engine.ranks
        shard = self._shard(node, lambda: split_outputs(layer, rank, ranks))
        value = record(shard.layers[0], node, self._for_split(x))
        return ShardedValue(node.number, value, Layout.of(layer.weight.data.shape[0]))

    def _by_inputs(
        self, node: Node, layer: Linear, x: ShardedValue, everybody: bool
    ) -> ShardedValue:
        """Multiply with some of the columns; the ranks' results add up."""
        outputs = layer.weight.data.shape[0]
        layout, rank, ranks = x.layout, self.engine.rank, self.engine.ranks
        assert layout is not None
        shard = self._shard(node, lambda: split_inputs(layer, layout, everybody, rank, ranks))
        value = record(shard.layers[0], node, self._as_shard(x))
        ends = (
            (AllReduceBegin, AllReduceEnd) if everybody else (ReduceScatterBegin, ReduceScatterEnd)
        )
        value = self._through(node.number, "sum", Layout.of(outputs), value, *ends)
        for bias in shard.layers[1:]:
            value = bias(value)
        return ShardedValue(node.number, value, None if everybody else Layout.of(outputs))

    # --- values in the form that a layer needs ---

    def _as_shard(self, x: ShardedValue) -> Value:
        """Return this rank's shard of a value."""
        if x.value is None:
            assert x.concat is not None
            x.value = x.concat(*map(self._as_shard, x.parts))
        return x.value

    def _whole(self, x: ShardedValue) -> Value:
        """Return a value for a layer that every rank computes alike."""
        return self._made(x, "whole", self._make_whole)

    def _for_split(self, x: ShardedValue) -> Value:
        """Return a whole value for a layer that is split, whose gradients of it add up."""
        return self._made(x, "split", self._make_for_split)

    def _made(self, x: ShardedValue, form: str, make: Callable[[ShardedValue], Value]) -> Value:
        if form not in x.made:
            self._wants.setdefault(x.number, set()).add(form)
            if x.concat is not None:
                get = self._whole if form == "whole" else self._for_split
                x.made[form] = x.concat(*map(get, x.parts))
            else:
                x.made[form] = make(x)
        return x.made[form]

    def _make_whole(self, x: ShardedValue) -> Value:
        value = x.value
        assert value is not None
        if x.layout is None:
            if x.number == -1 and self.input_partial:
                return self._masked(x, value)
            return value
        if "split" in self._wants[x.number]:
            return self._masked(x, self._for_split(x))
        return self._gathered(x, value, summed=False)

    def _make_for_split(self, x: ShardedValue) -> Value:
        value = x.value
        assert value is not None
        if x.layout is not None:
            return self._gathered(x, value, summed=True)
        if x.number == -1 and self.input_partial:
            return value
        layout = Layout.of(value.shape[1])
        return self._through(x.number, "replicate", layout, value, ReplicateBegin, ReplicateEnd)

    def _gathered(self, x: ShardedValue, value: Value, summed: bool) -> Value:
        assert x.layout is not None
        end = partial(AllGatherEnd, summed=summed)
        return self._through(x.number, "gather", x.layout, value, AllGatherBegin, end)

    def _masked(self, x: ShardedValue, value: Value) -> Value:
        return self._through(x.number, "mask", Layout.of(value.shape[1]), value, Mask)

    # --- layers, made once for all shapes ---

    def _shard(self, node: Node, make: Callable[[], Shard]) -> Shard:
        if node.number not in self._shards:
            name = self._names.get(id(node.layer))
            if name is None:
                raise ValueError(
                    f"{node.name}: has parameters but no name, expected an attribute of the network"
                )
            shard = make()
            self._shards[node.number] = node.layer, shard
            for own, sharding in shard.shardings.items():
                self.shardings[f"{name}.{own}" if name else own] = sharding
        return self._shards[node.number][1]

    def _through(
        self,
        number: int,
        what: str,
        layout: Layout,
        value: Value,
        *make: Callable[[Collective], Layer],
    ) -> Value:
        """Record the layers of a collective: two that have a message between them, or one."""
        if (number, what) not in self._kept:
            collective = Collective(self.engine, self._pool, layout, self._titles[number])
            self._kept[number, what] = tuple(layer(collective) for layer in make)
        for layer in self._kept[number, what]:
            value = layer(value)
        return value

    def _in_place_of(self) -> dict[int, tuple[Layer, ...]]:
        """Return the layers that have the shards of others, by the identities of these."""
        return {id(layer): shard.layers for layer, shard in self._shards.values()}
