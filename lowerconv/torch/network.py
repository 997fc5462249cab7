"""A network recorded from what `torch.export` says of a module."""

from __future__ import annotations

import operator as python_operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from lowerconv.nn.frame import Frame
from lowerconv.nn.graph import Graph, Node, Value
from lowerconv.nn.module import Layer, Module, Parameter, Shape
from lowerconv.nn.step import Step
from lowerconv.torch import operators, pointwise, shapes  # noqa: F401  (fill the table)
from lowerconv.torch.registry import IMPORTERS, NotConverted, Weight

VIEWS = frozenset(
    "view reshape flatten permute transpose t squeeze unsqueeze expand slice select chunk split "
    "split_with_sizes contiguous alias to unflatten".split()
)
_PYTHON = {
    python_operator.getitem, python_operator.add, python_operator.sub, python_operator.mul,
    python_operator.floordiv, python_operator.truediv, python_operator.mod, python_operator.neg,
    python_operator.pow, python_operator.eq, python_operator.ne, python_operator.lt,
    python_operator.le, python_operator.gt, python_operator.ge,
}


class ParameterValue(Layer):
    """A parameter as a value of a graph, for whatever reads it; its one operand tells nothing."""

    def __init__(self, array: np.ndarray) -> None:
        super().__init__()
        self.value = Parameter(array)

    def forward(self, *values: Value) -> Value:
        """Record the layer."""
        return Node(self, values, self.value.data.shape, self.value.data.dtype).result

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return the shape of the parameter."""
        return self.value.data.shape

    def compute(self, frame: Frame, step: Step) -> None:
        """Copy the parameter."""
        frame.y.array[...] = self.value.data

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Keep the gradient; the operand has none."""
        self.value.grad[...] = frame.gradient.array
        if frame.dx is not None and not frame.adds[0]:
            frame.dx.array[...] = 0


class TorchNetwork(Module):
    """What a module computes, as `torch.export` has recorded it.

    Parameters
    ----------
    program : torch.export.ExportedProgram
    tensors : dict of str to Tensor
        Parameters and buffers of the module by their names; their memory is shared.
    frozen : bool
        Whether the network is for inference, with kernels that keep filters packed.

    Attributes
    ----------
    bound : list of (str, Parameter)
        Which parameter of a layer is which of the module.
    counters : list of Tensor
        Buffers that count the steps of batch norm.
    changed_buffers : list of Tensor
        Buffers that a step in training changes.
    uses_statistics : bool
        Whether the values of buffers are part of what was recorded.
    drops : bool
        Whether there is dropout.

    Raises
    ------
    NotConverted
        With all that is not known, operators and others.
    """

    returns_all = True

    def __init__(self, program: Any, tensors: dict[str, torch.Tensor], frozen: bool) -> None:
        super().__init__()
        self.frozen = frozen
        self._program = [program]  # in a list: no attribute of a module
        signature = program.graph_signature
        self._names = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        constants = {**program.constants}
        self._arrays = {
            name: _array_of(tensors.get(name, constants.get(name)))
            for name in self._names.values()
        }
        self._learnt = set() if frozen else set(signature.inputs_to_parameters.values())
        self._tensors = [tensors]
        self.bound: list[tuple[str, Parameter]] = []
        self.counters: list[torch.Tensor] = []
        self.changed_buffers: list[torch.Tensor] = []
        self.drops = self.uses_statistics = False
        self._layers: dict[str, Layer] = {}
        self._refuse_unknown()

    def _refuse_unknown(self) -> None:
        """Raise NotConverted with all operators that are not known."""
        unknown: dict[str, int] = {}
        views: set[Any] = set()
        for node in self._program[0].graph.nodes:
            if node.op == "call_function" and node.target not in _PYTHON:
                name = _name(node)
                if name not in IMPORTERS and name.removesuffix("_") not in IMPORTERS:
                    unknown[str(node.target)] = unknown.get(str(node.target), 0) + 1
                if name in VIEWS:
                    views.add(node)
                changed = node.args[0] if name.endswith("_") and node.args else None
                if changed in views and len(changed.args[0].users) > 1 and not _is_buffer(changed):
                    unknown[f"{node.target} on a view"] = 1
            elif node.op not in ("placeholder", "output", "call_function"):
                unknown[f"{node.op} {node.target}"] = 1
        if unknown:
            listed = ", ".join(f"{name} ({count})" for name, count in sorted(unknown.items()))
            raise NotConverted(f"operators that are not known: {listed}")

    def record(self, shapes: Any, dtype: Any) -> None:
        """Record the network once, so that all that does not fit is found."""
        Graph(self, shapes, dtype, training=not self.frozen)

    @property
    def parameter_names(self) -> list[str]:
        """The parameters that have gradients, each once."""
        return list(dict.fromkeys(name for name, _ in self.bound))

    def changes(self, weight: Weight) -> None:
        """Note that a step in training changes a buffer."""
        tensor = self._tensors[0][weight.name]
        if all(tensor is not other for other in self.changed_buffers):
            self.changed_buffers.append(tensor)

    def layer(self, make: Callable[[], Layer], **weights: Weight | None) -> Layer:
        """Return the layer of the node that is being recorded, made the first time."""
        key = self._current
        if key not in self._layers:
            layer = make()
            for own, weight in weights.items():
                if weight is not None and weight.learnt:
                    self.bound.append((weight.name, getattr(layer, own)))
            self._layers[key] = layer
            setattr(self, key, layer)
        return self._layers[key]

    def forward(self, *values: Any, **_: Any) -> Any:
        """Record the nodes, in order."""
        given = iter(values)
        found: dict[Any, Any] = {}
        first = values[0]
        for node in self._program[0].graph.nodes:
            if node.op == "placeholder":
                name = self._names.get(node.name)
                found[node] = next(given) if name is None else self._weight(name, first)
            elif node.op == "output":
                results = torch.fx.node.map_arg(node.args[0], lambda n: found[n])
            else:
                found[node] = self._call(node, found)
        results = [r for r in results if r is not None]
        if not all(isinstance(r, Value) for r in results):
            raise NotConverted("a result that does not depend on the input")
        return tuple(results) if len(results) > 1 else results[0]

    def _call(self, node: Any, found: dict[Any, Any]) -> Any:
        def known(n: Any) -> Any:
            return found[n]

        args = torch.fx.node.map_arg(node.args, known)
        options = torch.fx.node.map_arg(node.kwargs, known)
        if node.target in _PYTHON:
            return node.target(*args, **options)
        name = _name(node)
        if name == "add_" and isinstance(args[0], Weight):  # batch norm counts its steps
            counter = self._tensors[0].get(args[0].name)
            if args[1] != 1 or counter is None or counter.dtype.is_floating_point:
                raise NotConverted(f"the buffer {args[0].name!r} is changed")
            if all(counter is not other for other in self.counters):
                self.counters.append(counter)
            return args[0]
        importer = IMPORTERS.get(name) or IMPORTERS[name.removesuffix("_")]
        self._current = f"node_{node.name}"
        try:
            result = importer(self, *args, **options)
        except NotConverted:
            raise
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise NotConverted(f"{node.target} ({node.name}): {error}") from error
        if name.endswith("_"):
            found[node.args[0]] = result  # who reads it later reads what it has become
        return result

    def _weight(self, name: str, first: Value) -> Weight:
        array = self._arrays[name]
        learnt = name in self._learnt and array.dtype.kind == "f"

        def value() -> Value:
            self._current = "value_" + name.replace(".", "_")
            layer = self.layer(lambda: ParameterValue(array), value=weight)
            if self._shared is None or self._shared[0] is not first:
                self._shared = (first, {})
            values = self._shared[1]
            if name not in values:
                values[name] = layer(first)
            return values[name]

        weight = Weight(name, array, learnt, value)
        return weight

    _shared: Any = None
    _current = ""

    def check_input(self, *xs: np.ndarray) -> None:
        """Take what was recorded with."""


def _is_buffer(node: Any) -> bool:
    return bool(node.op == "placeholder")


def _name(node: Any) -> str:
    """Return the name of an operator, without its overload."""
    target = node.target
    name = getattr(getattr(target, "_schema", None), "name", str(target))
    return str(name).rpartition("::")[2]


def _array_of(tensor: Any) -> np.ndarray:
    """Return a tensor as an array that shares its memory."""
    if tensor is None:
        raise NotConverted("a tensor that the module does not have")
    if tensor.device.type != "cpu" or tensor.layout != torch.strided:
        raise NotConverted(f"a tensor on {tensor.device}, {tensor.layout}")
    if not tensor.is_contiguous():
        raise NotConverted("weights that are not contiguous")
    try:
        return tensor.detach().numpy()  # type: ignore[no-any-return]
    except (TypeError, RuntimeError) as error:
        raise NotConverted(f"weights of {tensor.dtype} ({error})") from None


