"""A traced module as a network of ours: recorded as a graph for each shape of its inputs."""

from __future__ import annotations

import operator as python_operators
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from lowerconv.nn.attributes import Parameter
from lowerconv.nn.functional import cast, constant
from lowerconv.nn.graph import Value
from lowerconv.nn.layer import Layer
from lowerconv.nn.module import Module
from lowerconv.nn.norm import LocalResponseNorm
from lowerconv.torch.exported import IGNORED, Exported
from lowerconv.torch.layers import Learnt
from lowerconv.torch.registry import UnsupportedError, draws, operator_of, writes_in_place

ERRORS = (
    *(TypeError, ValueError, KeyError, IndexError, ZeroDivisionError, AttributeError),
    *(AssertionError, NotImplementedError, RuntimeError),
)


class Leaf:
    """A parameter or buffer of the module, as operators see it.

    Attributes
    ----------
    name : str
    tensor : Tensor
    shape, dtype
        As those of arrays.
    array : ndarray
        Its memory.
    """

    def __init__(self, name: str, tensor: torch.Tensor) -> None:
        self.name, self.tensor = name, tensor
        self.array = array_of(tensor)
        self.shape, self.dtype = self.array.shape, self.array.dtype


def array_of(tensor: torch.Tensor) -> np.ndarray:
    """Return the memory of a tensor as an array; a copy where it is not contiguous."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    return (tensor if tensor.is_contiguous() else tensor.contiguous()).numpy()


class TorchNetwork(Module):
    """What a module computes, as it was traced.

    Parameters
    ----------
    exported : Exported
    tensors : callable
        Given the name of a parameter or buffer, returns it.
    frozen : bool
        Whether parameters are taken as they are now.

    Attributes
    ----------
    bound : list of (Parameter, str)
        Parameters of layers, and whose memory they share.
    literal : list
        Outputs: numbers of results of `forward`, or what is no tensor.
    updates : list of (str, int)
        Buffers that a run changes, and the numbers of the results that they become.
    """

    returns_all = True

    def __init__(
        self, exported: Exported, tensors: Callable[[str], torch.Tensor], frozen: bool
    ) -> None:
        super().__init__()
        self.frozen, self.exported, self._tensors = frozen, exported, tensors
        self._layers: dict[str, Layer] = {}
        self.bound: list[tuple[Parameter, str]] = []
        self.buffers_of: list[tuple[Layer, str, str]] = []
        self.literal: list[Any] = []
        self.updates: list[tuple[str, int]] = []
        self._node = ""
        self._input: Value | None = None

    def modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield this module and its layers, which are made while it is recorded."""
        yield prefix.rstrip("."), self
        for name, layer in self._layers.items():
            yield prefix + name, layer

    def check_input(self, *xs: np.ndarray) -> None:
        """Take what the trace was found to be right for."""

    # --- what importers use ---

    def layer(self, make: Callable[[], Layer]) -> Any:
        """Return the layer of the node that is recorded, which is made once.

        Parameters
        ----------
        make : callable
            Returns the layer.

        Returns
        -------
        Layer
        """
        found = self._layers.get(self._node)
        if found is None:
            found = self._layers[self._node] = make()
        return found

    def bind(self, parameter: Parameter | None, leaf: Leaf | None) -> None:
        """Note whose memory a parameter of a new layer is.

        Parameters
        ----------
        parameter : Parameter or None
        leaf : Leaf or None
            The module's own; with None nothing is noted.
        """
        if parameter is not None and leaf is not None:
            self.bound.append((parameter, leaf.name))

    def bind_buffer(self, layer: Layer, attribute: str, leaf: Leaf | None) -> None:
        """Note whose memory an array of a new layer is.

        Parameters
        ----------
        layer : Layer
        attribute : str
            The name of the array.
        leaf : Leaf or None
            The module's own; with None nothing is noted.

        Raises
        ------
        NotImplementedError
            The items of `leaf` do not follow each other in memory.
        """
        if leaf is not None:
            if not leaf.tensor.is_contiguous():
                raise NotImplementedError(f"{leaf.name!r} is not contiguous")
            self.buffers_of.append((layer, attribute, leaf.name))

    def plain(self, operand: Any) -> Any:
        """Return a parameter or buffer as a value that is learnt, or as an array.

        Parameters
        ----------
        operand : object
            A `Leaf`, a list or tuple that may have some, or anything else.

        Returns
        -------
        object
            `operand`, each `Leaf` replaced.
        """
        if isinstance(operand, (list, tuple)):
            return type(operand)(map(self.plain, operand))
        if not isinstance(operand, Leaf):
            return operand
        if self.frozen:
            return operand.array
        return self._value_of(operand)

    def constant(self, array: np.ndarray) -> Value:
        """Return an array as a value of the graph.

        Parameters
        ----------
        array : ndarray

        Returns
        -------
        Value
        """
        assert self._input is not None
        return constant(array, self._input)

    def _value_of(self, leaf: Leaf) -> Value:
        name = f"leaf_{leaf.name.replace('.', '_')}"
        layer = self._layers.get(name)
        if layer is None:
            if leaf.dtype.kind != "f":
                raise NotImplementedError(f"{leaf.name!r} of {leaf.dtype}")
            layer = self._layers[name] = Learnt(leaf.array)
            self.bind(layer.weight, leaf)
        if name not in self._leaves:
            self._leaves[name] = layer(self._input)
        return self._leaves[name]

    # --- recording ---

    def forward(self, *values: Any, **_: Any) -> Any:
        """Record the nodes, in order."""
        exported = self.exported
        self._input = values[0]
        self._leaves: dict[str, Any] = {}
        known: dict[str, Any] = {
            name: value for (name, _), value in zip(exported.inputs, values, strict=True)
        }
        for name, target in exported.leaves.items():
            known[name] = Leaf(target, self._tensors(target))
        for name, tensor in exported.constants.items():
            known[name] = array_of(tensor)
        for node in exported.program.graph.nodes:
            if node.op == "placeholder" and node.name not in known:
                known[node.name] = node.meta.get("val")
        for node in exported.nodes:
            self._node = node.name
            try:
                result = self._result(node, known)
            except ERRORS as error:
                where = next(iter(reversed((node.meta.get("nn_module_stack") or {}).values())), "")
                inside = f" in {where[0]!r}" if where and where[0] else ""
                raise UnsupportedError(f"{node.target}{inside}: {error}") from error
            known[node.name] = result
            if node.op == "call_function" and writes_in_place(node.target):
                first = node.args[0]
                result = _of_dtype(result, known[first.name].dtype)
                known[node.name] = result
                known[first.name] = result
                for other in exported._written(first):
                    known[other.name] = result
        return self._outputs(known)

    def _result(self, node: Any, known: dict[str, Any]) -> Any:
        def read(item: Any) -> Any:
            return known[item.name] if isinstance(item, torch.fx.Node) else item

        norm = self.exported.response_norms.get(node)
        if norm is not None:
            arguments = norm.size, norm.alpha, norm.beta, norm.k
            return self.layer(lambda: LocalResponseNorm(*arguments))(self.plain(read(norm.x)))
        args = torch.fx.map_arg(node.args, read)
        kwargs = torch.fx.map_arg(node.kwargs, read)
        target = node.target
        schema = getattr(target, "_schema", None)
        if schema is None:
            if target is python_operators.getitem:
                return args[0][args[1]]
            return target(*args, **kwargs)
        name = schema.name.removeprefix("aten::")
        if name in IGNORED:
            return None
        if name == "sym_size":
            return args[0].shape[args[1]]
        found = operator_of(target)
        if found is None or not (_holds(args, kwargs) or draws(target)):
            return _computed(target, args, kwargs)
        operands = list(args)
        for argument in schema.arguments[len(args) :]:
            operands.append(
                kwargs.get(argument.name, argument.default_value)
                if argument.has_default_value() or argument.name in kwargs
                else None
            )
        if not found.leaves:
            operands = [self.plain(operand) for operand in operands]
        return found.importer(self, *operands)

    def _outputs(self, known: dict[str, Any]) -> tuple[Value, ...]:
        """Return the values of the results, each once; constants as values, too."""
        results: list[Value] = []
        made: list[Any] = []  # the same before they are values
        self.literal, self.updates = [], []

        def place_of(value: Any) -> int:
            for place, other in enumerate(made):
                if other is value:
                    return place
            made.append(value)
            results.append(self.constant(value) if isinstance(value, np.ndarray) else value)
            return len(results) - 1

        for output in self.exported.outputs:
            value = output
            if isinstance(output, torch.fx.Node):
                value = self.plain(known[output.name])
            if isinstance(value, (Value, np.ndarray)):
                self.literal.append(("result", place_of(value)))
            else:
                self.literal.append(("literal", value))
        if not results:
            raise UnsupportedError("it returns no tensor")
        for name, target in self.exported.updated.items():
            self.updates.append((target, place_of(self.plain(known[name]))))
        return tuple(results)


def _of_dtype(value: Any, dtype: np.dtype) -> Any:
    """Return a value that is written in place, in the dtype of its target."""
    return value if value.dtype == dtype else cast(value, dtype)


def _holds(*operands: Any) -> bool:
    """Return whether operands have a value or a leaf among them."""
    for operand in operands:
        if isinstance(operand, (Value, Leaf)):
            return True
        if isinstance(operand, dict):
            operand = list(operand.values())
        if isinstance(operand, (list, tuple)) and _holds(*operand):
            return True
    return False


def _computed(target: Any, args: Any, kwargs: Any) -> Any:
    """Return what torch makes of constants."""

    def tensor(item: Any) -> Any:
        if isinstance(item, np.ndarray):
            return torch.from_numpy(item)
        if isinstance(item, (list, tuple)):
            return type(item)(map(tensor, item))
        return item

    with torch.no_grad():
        result = target(*map(tensor, args), **{k: tensor(v) for k, v in kwargs.items()})
    return array_of(result) if isinstance(result, torch.Tensor) else result
