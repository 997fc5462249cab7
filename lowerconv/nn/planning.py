"""Where every value of a graph lies, and the gradient of every value, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TypeAlias

from lowerconv.codegen.activation import RELU
from lowerconv.copying import not_copied
from lowerconv.nn.execution_order import ExecutionOrder
from lowerconv.nn.graph import Graph, Node, Value
from lowerconv.nn.memory import Block, lay_out

Shape = tuple[int, ...]
InputGrad: TypeAlias = "bool | tuple[bool, ...]"  # of all inputs, or of each


def wanted_inputs(graph: Graph, input_grad: InputGrad) -> tuple[Value, ...]:
    """Return the inputs whose gradients are asked for, of those that can have one."""
    if isinstance(input_grad, bool):
        input_grad = (input_grad,) * len(graph.inputs)
    both = zip(graph.inputs, input_grad, strict=True)
    return tuple(value for value, wanted in both if wanted and value.dtype.kind == "f")


@dataclass(frozen=True)
class Place:
    """Where a value lies: items after the beginning of a block, images `image_step` items apart."""

    block: Block
    offset: int
    image_step: int


def _seen_as(place: Place, shape: Shape, other: Shape) -> Place | None:
    """Return the place of the same items in another shape, None where they are not one run."""
    if len(shape) and shape[0] > 1 and place.image_step != prod(shape[1:]):
        return None
    return Place(place.block, place.offset, prod(other[1:]))


@not_copied("copy the network, which plans anew")
class MemoryPlan:
    """The memory of a step: places of all values and gradients, and the bytes of all together.

    Time is counted in nodes: node i of n computes at moment i, and differentiates at 2n - 1 - i.

    Attributes
    ----------
    learnt : set of Value
        The values whose gradients are computed.
    values, gradients : dict of Value to Place
        The input of the graph has no place: it is where the caller has it.
    saved : dict of (Node, str) to Block
    nbytes : int
        Of the arena.
    """

    def __init__(self, graph: Graph, training: bool, input_grad: InputGrad) -> None:
        self.graph, self.training = graph, training
        self.readers = graph.consumers()
        n = len(graph.nodes)
        self.end = 2 * n
        self.forward = {node: i for i, node in enumerate(graph.nodes)}
        self.backward = {node: 2 * n - 1 - i for i, node in enumerate(graph.nodes)}
        self.learnt = self._find_learnt(wanted_inputs(graph, input_grad)) if training else set()
        self.blocks: list[Block] = []
        self.values: dict[Value, Place] = {}
        self.gradients: dict[Value, Place] = {}
        self.saved: dict[tuple[Node, str], Block] = {}
        self._place_values()
        if training:
            self._place_gradients()
            self._place_saved()
        self.nbytes = lay_out(self.blocks)

    def _find_learnt(self, wanted: tuple[Value, ...]) -> set[Value]:
        """Return what depends on a parameter or wanted input, and what a result depends on."""
        learnt = {*wanted}
        for node in self.graph.nodes:
            passes = node.result.dtype.kind == "f" and node.layer.passes_gradients
            if passes and (node.layer.own_parameters() or any(v in learnt for v in node.inputs)):
                learnt.add(node.result)
        for value in (*(node.result for node in reversed(self.graph.nodes)), *wanted):
            reached = any(reader.result in learnt for reader in self.readers[value])
            if not reached and value not in self.graph.results:  # integers are made of it alone
                learnt.discard(value)
        return learnt

    def bytes_of(self, kind: str) -> int:
        """Return the bytes of all blocks of a kind, if none shared memory with another."""
        return sum(block.nbytes for block in self.blocks if block.kind == kind)

    def lies_in(self, node: Node, gradient: bool = False) -> tuple[bool, ...]:
        """Return which operands of a node lie where the result does, or in their part of it."""
        places = self.gradients if gradient else self.values
        whole = places.get(node.result)
        found, offset = [], 0
        for value in node.operands:
            if whole is None:
                found.append(False)
                continue
            place = places.get(value)
            if node.layer.is_view:
                place = place and _seen_as(place, value.shape, node.result.shape)
            found.append(place == Place(whole.block, whole.offset + offset, whole.image_step))
            if node.layer.is_concatenation:
                offset += prod(value.shape[1:])
        return tuple(found)

    # --- values ---

    def _place_values(self) -> None:
        for node in reversed(self.graph.nodes):
            if node.layer.is_concatenation:
                place = self.values.get(node.result) or self._new_value(node.result)
                for value, offset in self._slices(node):
                    if value.node is not None and value not in self.values:
                        self._share(
                            value, Place(place.block, place.offset + offset, place.image_step)
                        )
        for node in self.graph.nodes:
            if node.result in self.values:
                continue
            inherited = self._inherited(node)
            if inherited:
                self._share(node.result, inherited)
            else:
                self._new_value(node.result)

    def _inherited(self, node: Node) -> Place | None:
        """Return the place of an operand that the result may have, or be written over."""
        place = self._place_of(node.operands[0], node.result)
        if node.layer.is_view:
            return place and _seen_as(place, node.operands[0].shape, node.result.shape)
        if node.layer.in_place and place and place.block.last <= self.forward[node]:
            return place
        place = self._place_of(node.residual, node.result) if node.residual else None
        # An operand in the same memory would be overwritten while it is still read.
        read = [self.values[v].block for v in node.operands if v in self.values]
        if place and place.block.last <= self.forward[node] and place.block not in read:
            return place
        return None

    def _place_of(self, value: Value, other: Value) -> Place | None:
        """Return the place of a value, if another that is stored alike may lie there."""
        return self.values.get(value) if value.stored == other.stored else None

    def _new_value(self, value: Value) -> Place:
        place = self._new_place(value, "activations")
        self._share(value, place)
        return place

    def _differentiated(self, node: Node) -> int:
        """Return the moment after which a node's gradients are complete."""
        later = node.layer.execution_order is ExecutionOrder.WEIGHT_GRADIENTS_LATER
        return self.backward[node] + later

    def _share(self, value: Value, place: Place) -> None:
        """Put a value into a place, for as long as anybody reads it."""
        self.values[value] = place
        block, node = place.block, value.node
        assert node is not None
        block.use(self.forward[node])
        if value in self.learnt and (node.layer.keeps_y or node.activation == RELU):
            block.use(self.backward[node])
        for reader in self.readers[value]:
            block.use(self.forward[reader])
            if reader.result in self.learnt and reader.layer.keeps_x and value in reader.operands:
                block.use(self._differentiated(reader))
        if value in self.graph.results:
            block.use(self.end)

    def _new_place(self, value: Value, kind: str) -> Place:
        never = Block(prod(value.shape) * value.stored.itemsize, self.end, 0, kind)
        self.blocks.append(never)
        return Place(never, 0, prod(value.shape[1:]))

    def _slices(self, node: Node) -> list[tuple[Value, int]]:
        """Return the operands of a concatenation that can be written where they belong."""
        found, offset = [], 0
        for value in node.operands:
            alone = node.operands.count(value) == 1 and value.stored == node.result.stored
            if len(value.shape) == 4 and alone and not (value.node and value.node.layer.is_view):
                found.append((value, offset))
            offset += prod(value.shape[1:])
        return found

    # --- gradients ---

    def _place_gradients(self) -> None:
        for node in reversed(self.graph.nodes):
            if node.result not in self.learnt:
                continue
            place = self.gradients.get(node.result) or self._new_gradient(node.result)
            if node.layer.is_concatenation:
                for value, offset in self._slices(node):
                    if value in self.learnt and self._only(value, node):
                        at = Place(place.block, place.offset + offset, place.image_step)
                        self._share_gradient(value, at)
                continue
            value = node.operands[0]
            if value not in self.learnt or not self._only(value, node):
                continue
            if value.stored != node.result.stored:
                continue
            if node.layer.is_view:
                seen = _seen_as(place, node.result.shape, value.shape)
                if seen:
                    self._share_gradient(value, seen)
            elif node.layer.in_place and value.shape == node.result.shape:
                self._share_gradient(value, place)
        for value in self.graph.inputs:
            if value in self.learnt and value not in self.gradients:
                self._new_gradient(value)

    def _only(self, value: Value, node: Node) -> bool:
        """Return whether the gradient of a value comes from one node alone."""
        return self.readers[value] == [node] and value not in self.graph.results

    def _new_gradient(self, value: Value) -> Place:
        place = self._new_place(value, "gradients")
        self._share_gradient(value, place)
        return place

    def _share_gradient(self, value: Value, place: Place) -> None:
        self.gradients[value] = place
        node = value.node
        place.block.use(self._differentiated(node) if node else self.end)
        for reader in self.readers[value]:
            place.block.use(self.backward[reader])
        if value in self.graph.results:
            place.block.use(len(self.graph.nodes))  # the caller's is copied there

    def _place_saved(self) -> None:
        for node in self.graph.nodes:
            if node.result in self.learnt:
                shapes = [value.shape for value in node.operands]
                for name, (shape, dtype) in node.layer.saved(*shapes).items():
                    nbytes = prod(shape) * dtype.itemsize
                    moments = self.forward[node], self.backward[node]
                    block = Block(nbytes, *moments, "saved")
                    self.saved[node, name] = block
                    self.blocks.append(block)
