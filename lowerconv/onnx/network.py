"""A network from an ONNX file: recorded as a graph of ours for each shape of its inputs."""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lowerconv.nn import functional as F
from lowerconv.nn import program
from lowerconv.nn.graph import Graph, Value
from lowerconv.nn.module import Module
from lowerconv.nn.step import INFERENCE, Step
from lowerconv.onnx import bodies, operators, protos, qdq  # noqa: F401  (operators fill the table)
from lowerconv.onnx.contents import divide
from lowerconv.onnx.explain import Explanation, explain
from lowerconv.onnx.fallback import with_fallback
from lowerconv.onnx.folding import fold
from lowerconv.onnx.half import at_full, in_full_precision, is_half
from lowerconv.onnx.inputs import check_inputs, check_number
from lowerconv.onnx.operators.windows import room
from lowerconv.onnx.reader import OnnxError, import_onnx, opset_of
from lowerconv.onnx.registry import Body, Node
from lowerconv.onnx.write import write
from lowerconv.quant.to_integers import to_integers


class OnnxNetwork(Module):
    """What `load` returns: a module whose `forward` follows the nodes of the model.

    Shapes may be dynamic: each new shape of the inputs is recorded and planned once, and the
    latest are kept.  What depends on shapes and constants alone is computed then, and not again.

    Parameters
    ----------
    model : onnx.ModelProto
    name : str
        Of the file, for errors.
    trainable : bool
        As for `load`.
    fallback : bool
        Whether ONNX Runtime computes what is not known here.

    Attributes
    ----------
    input_names, output_names : tuple of str
    input_shapes : tuple of tuple
        Extents, or names of those that are dynamic; None where they are not declared.
    input_dtypes : tuple of dtype
        None where they are not declared.
    version : int
        Of the operators.
    opsets : tuple of (str, int)
        All that the file imports: domains and versions.
    metadata : dict of str to str
        What the file says beside the network.

    Raises
    ------
    OnnxError
        The model is damaged, or has operators that are not known here.
    """

    returns_all = True

    def __init__(
        self, model: Any, name: str, trainable: bool = False, fallback: bool = False
    ) -> None:
        super().__init__()
        onnx = import_onnx()
        self.frozen = not trainable
        self.file = name
        self._constants = protos.initializers(onnx, model, name)
        inputs = [v for v in model.graph.input if v.name not in self._constants]
        self.input_names = tuple(v.name for v in inputs)
        self.input_shapes = tuple(protos.shape_of(v) for v in inputs)
        self.input_dtypes = tuple(protos.dtype_of(onnx, v) for v in inputs)
        self.output_names = tuple(v.name for v in model.graph.output)
        # What files say beside nodes and constants.
        self.declared = tuple(
            tuple(v.SerializeToString() for v in values) for values in (inputs, model.graph.output)
        )
        self.metadata = {entry.key: entry.value for entry in model.metadata_props}
        version = self.version = opset_of(model)
        self.opsets = tuple((o.domain, o.version) for o in model.opset_import)
        operations = qdq.expanded(onnx, model.graph.node, self._constants)
        if fallback:
            known_here = partial(protos.is_known, version=version)
            operations = with_fallback(onnx, model, operations, known_here, name)
        operations = self._lifted(onnx, operations)
        protos.check_operators([p for p in operations if not isinstance(p, Node)], version, name)
        nodes = [
            p if isinstance(p, Node) else protos.node_of(onnx, p, i, version, name)
            for i, p in enumerate(operations)
        ]
        known = {*self._constants, *self.input_names}
        self._nodes = protos.in_order(nodes, {*known, ""}, name)
        known.update(*(n.outputs for n in self._nodes))
        for output in self.output_names:
            if output not in known:
                raise OnnxError(f"{name}: output {output!r} is made by no node")
        self._fold_constants()
        self._divide()
        self._make_layers()

    def _lifted(self, onnx: Any, nodes: list[Any]) -> list[Any]:
        """Return nodes of a model, the constants within them among those of the network."""
        taken = {*self._constants, *self.input_names, *self.output_names}
        for node in nodes:
            taken.update(node.outputs if isinstance(node, Node) else node.output)
        tensors: list[Any] = []
        lifted = [
            node
            if isinstance(node, Node)
            else bodies.lifted(node, node.name or f"{node.op_type}_{i}", taken, tensors)
            for i, node in enumerate(nodes)
        ]
        for tensor in tensors:
            where = f"{self.file}: tensor {tensor.name!r}"
            self._constants[tensor.name] = protos.array_of(onnx, tensor, where)
        return lifted

    def _fold_constants(self) -> None:
        """Compute what depends on constants alone, once for all shapes."""
        constants, before = dict(self._constants), self._nodes
        self._nodes = tuple(fold(before, constants, self._results))
        self._codes = qdq.dequantized(before, constants) if self.frozen else {}
        read = bodies.reads(self._nodes) | {*self.output_names}
        self._constants = {name: array for name, array in constants.items() if name in read}
        first = next((node for node in self._nodes if node.bodies), None)
        if first and not self.frozen:
            raise OnnxError(
                f"{self.file}: node {first.name!r} ({first.operator}): what it computes depends on "
                "the input; such networks run, but are not trained"
            )

    def _divide(self) -> None:
        """Find out which nodes the program has, and which are computed after it."""
        rows = zip(self.input_names, self.input_shapes, self.input_dtypes, strict=True)
        declared = {name: (shape, dtype) for name, shape, dtype in rows}
        looked_at, self._nodes, self._after = divide(self._nodes, declared)
        if self._after and not self.frozen:
            first = self._after[0]
            raise OnnxError(
                f"{self.file}: node {first.name!r} ({first.operator}): the size of its result "
                "depends on the contents of the input; such networks run, but are not trained"
            )
        self.looked_at = tuple(i for i, n in enumerate(self.input_names) if n in looked_at)
        made = {name for node in self._nodes for name in node.outputs}
        read = [name for node in self._after for name in node.inputs] + [*self.output_names]
        self._given = tuple(dict.fromkeys(name for name in read if name in made))

    def _make_layers(self) -> None:
        """Give nodes with constant weights layers that have them as parameters."""
        taken: set[str] = set()
        owners: dict[str, Node] = {}
        for node in self.nodes:
            make = node.known.layer
            if make is None:
                continue
            known = {
                i: at_full(self._constants[name])
                for i, name in enumerate(node.inputs)
                if name in self._constants
            }
            try:
                layer = make(node, known)
            except (TypeError, ValueError, KeyError, IndexError, ZeroDivisionError) as error:
                raise self._failed(node, error) from error
            if layer is None:
                continue
            for parameter in layer.own_parameters().values():
                if self.frozen:
                    parameter.data = parameter.data.view()
                    parameter.data.flags.writeable = False
                else:
                    parameter.data = np.array(parameter.data)
                    self._note_owner(node, known, owners)
            name = re.sub(r"\W+", "_", node.name).strip("_") or node.operator
            while name in taken or name in self._reserved or name[0].isdigit():
                name = f"{node.operator}_{len(taken)}" if name[0].isdigit() else f"{name}_"
            taken.add(name)
            qdq.give_codes(layer, node, self._codes)
            setattr(self, name, layer)
            node.layer = layer
        read = bodies.reads([n for n in self.nodes if n.layer is None])
        read |= {n.inputs[0] for n in self.nodes if n.layer is not None} | {*self.output_names}
        self._constants = {name: array for name, array in self._constants.items() if name in read}

    def _note_owner(self, node: Node, known: Iterable[int], owners: dict[str, Node]) -> None:
        """Note which node learns a tensor: two would each change one of their own."""
        for i in known:
            other = owners.setdefault(node.inputs[i], node)
            if other is not node:
                raise OnnxError(
                    f"{self.file}: tensor {node.inputs[i]!r} is read by nodes {other.name!r} and "
                    f"{node.name!r}; networks that share weights run, but are not trained"
                )

    def rewrite(self, graph: Graph) -> None:
        """Have integers compute what the file says of codes; see `Module.rewrite`.

        Parameters
        ----------
        graph : Graph
        """
        to_integers(graph)

    def _failed(self, node: Node, error: Exception) -> OnnxError:
        return OnnxError(f"{self.file}: node {node.name!r} ({node.operator}): {error}")

    def _results(self, node: Node, operands: list[Any]) -> tuple[Any, ...]:
        """Return what a node makes of its operands."""
        importer = node.known.importer(node.version)
        assert importer is not None
        if node.bodies:
            outside = dict(zip(node.inputs, operands, strict=True))
            importer = partial(importer, follow=partial(self._follow_body, outside))
        while node.layer is None and operands and operands[-1] is None:
            operands.pop()
        try:
            if any(o is not None and is_half(o.dtype) for o in operands):
                importer = in_full_precision(importer)
            made = importer(node, *operands)
            for result in made if isinstance(made, tuple) else (made,):
                if isinstance(result, Value):
                    room(result.extents, result.dtype, "the result")
        except (
            *(TypeError, ValueError, KeyError, IndexError, ZeroDivisionError, AttributeError),
            *(AssertionError, NotImplementedError, RuntimeError, OverflowError, MemoryError),
        ) as error:
            raise self._failed(node, error) from error
        return made if isinstance(made, tuple) else (made,)

    def _follow(self, nodes: tuple[Node, ...], tensors: dict[str, Any]) -> None:
        """Add what nodes make of tensors to these, in order."""
        tensors[""] = None
        for node in nodes:
            results = self._results(node, [tensors.get(i) for i in node.inputs])
            tensors.update(zip(node.outputs, results, strict=False))

    def _follow_body(self, outside: dict[str, Any], body: Body, given: list[Any]) -> list[Any]:
        """Return what a body makes of its inputs, and of what it reads of what is around it."""
        tensors: Any = ChainMap(
            dict(zip(body.inputs, given, strict=True)), outside, self._constants
        )
        self._follow(body.nodes, tensors)
        return [tensors[name] for name in body.outputs]

    def forward(self, *values: Any, **_: Any) -> Any:
        """Record the nodes of the program, in order.

        Parameters
        ----------
        *values : Value
            The inputs, in order of `input_names`.
        **_
            None.

        Returns
        -------
        Value or tuple of Value

        Raises
        ------
        OnnxError
            A node cannot be computed for these shapes; the message names it.
        """
        tensors: dict[str, Any] = dict(self._constants)
        seen = [v if v.contents is None else v.contents for v in values]
        tensors.update(zip(self.input_names, seen, strict=True))
        self._follow(self._nodes, tensors)
        results = [tensors[name] for name in self._given]
        for i, result in enumerate(results):
            if result is None:
                name = self._given[i]
                raise OnnxError(f"{self.file}: {name!r}: is an output that is not made here")
            if not isinstance(result, Value):
                results[i] = F.constant(result, values[0])
        return results[0] if len(results) == 1 else tuple(results)

    def __call__(self, *values: Any) -> Any:
        """Return the outputs for arrays, one for each input: an array, or a tuple of them."""
        if values and isinstance(values[0], Value):
            return super().__call__(*values)
        return self._finished(values, lambda x: program.infer(self, x))

    def run(self, x: Any, step: Step = INFERENCE) -> Any:
        """Compute the outputs; see `Module.run`.

        Parameters
        ----------
        x : ndarray or tuple of ndarray
            One for each input.
        step : Step
            With ``training=True`` what `backward` needs is kept until then.

        Returns
        -------
        ndarray or tuple of ndarray
            All outputs: arrays of the module, valid until the thread runs it again.

        Raises
        ------
        TypeError, ValueError, MemoryError, RuntimeError
            As `Module.run`.
        """
        values = x if isinstance(x, tuple) else (x,)
        # Padding that follows from the shape is set in layers while a program is made.
        adapts = any(node.get("auto_pad", "")[:4] == "SAME" for node in self._nodes)
        with self._use.mutex.hold() if adapts else nullcontext():
            return self._finished(values, lambda x: program.run(self, x, step))

    def _finished(self, values: tuple[Any, ...], compute: Callable[[Any], Any]) -> Any:
        """Return the outputs for arrays, given what computes the program's results."""
        if not self._after and self._given == self.output_names and values:
            check_number(self, values)
            return compute(values[0] if len(values) == 1 else values)
        self.check_input(*values)
        tensors: dict[str, Any] = dict(self._constants)
        tensors.update(zip(self.input_names, values, strict=True))
        if self._given:
            made = compute(values[0] if len(values) == 1 else values)
            made = made if isinstance(made, tuple) else (made,)
            tensors.update(zip(self._given, made, strict=True))
        self._follow(self._after, tensors)
        results = tuple(np.array(tensors[name]) for name in self.output_names)
        return results if len(results) > 1 else results[0]

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes that are left when constants are folded, in order."""
        return (*self._nodes, *self._after)

    @property
    def constants(self) -> Mapping[str, np.ndarray]:
        """The constants that nodes read and no layer has as a parameter."""
        return self._constants

    @property
    def has_program(self) -> bool:
        """Whether anything is computed in one planned program, rather than node by node."""
        return bool(self._given)

    def explain(self, *inputs: Any, repeats: int = 0) -> Explanation:
        """Return what the network does: every layer, its algorithm and why, FLOP and memory.

        Parameters
        ----------
        *inputs : ndarray or tuple of int
            For each input an array, or its shape; none where the file declares all extents.
        repeats : int
            Runs to measure each layer with; 0 measures nothing.

        Returns
        -------
        Explanation
            Its `layers` has a row for each; printed it is a table.

        Raises
        ------
        TypeError, ValueError
            The inputs are not what the network takes.
        """
        return explain(self, inputs, repeats)

    def save_onnx(self, path: str | Path, x_shape: Any = None) -> None:
        """Write the network with its parameters as they are now, as the file that it came from.

        Shapes that are dynamic stay so.  Tensors that are too large for one file are in another one
        beside it, ``PATH.data``.

        Parameters
        ----------
        path : path
        x_shape : optional
            Not used: other modules need it.
        """
        write(self, path)

    def check_input(self, *xs: np.ndarray) -> None:
        """Raise an error unless arrays are what the model declares.

        Parameters
        ----------
        *xs : ndarray
            One for each input.

        Raises
        ------
        TypeError, ValueError
            Another number of arrays, another dtype or shape; the message names the input.
        """
        check_inputs(self, xs)
