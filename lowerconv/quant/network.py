"""An integer network: layers in order, recorded anew for each shape of the input."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from typing import Any

import numpy as np

from lowerconv.checks import shape
from lowerconv.nn.combine import View
from lowerconv.nn.containers import ModuleList
from lowerconv.nn.explain import Explanation, explanation
from lowerconv.nn.graph import Graph, Node, Value
from lowerconv.nn.layer import Layer
from lowerconv.nn.memory import MemoryReport
from lowerconv.nn.module import Module, Shape
from lowerconv.quant import export  # noqa: F401  (fills the table of forms)
from lowerconv.quant.conv import IntegerConv2d
from lowerconv.quant.convert import WordLayer
from lowerconv.quant.integer_layers import IntegerConcat
from lowerconv.quant.places import Place, Reshaped
from lowerconv.quant.store import Stored, read, write

SHOWN = 5  # layers in float32 that are named


def is_integer(layer: Layer) -> bool:
    """Return whether a layer computes with integers, or converts to or from them."""
    return isinstance(layer, (WordLayer, IntegerConcat))


class IntegerNetwork(Module):
    """A network whose layers compute with 8-bit integers, where they can.

    `lowerconv.quantize` makes it of a network and of some of its inputs; `load` reads it from a
    file.  It is called with float32 arrays and returns such, as the network that it was made of; it
    cannot be trained.

    Parameters
    ----------
    graph : Graph
        Whose layers are taken.
    input_shape : tuple of int
        Of what it was calibrated with, without the batch.

    Attributes
    ----------
    layers : ModuleList
    places : tuple of Place
        Of each layer.
    results : tuple of int
        Numbers of values, as in `places`.
    input_shape : tuple of int
    metadata : dict
        What a file says beside the network: whatever JSON can hold.
    """

    returns_all = True
    frozen = True

    def __init__(self, graph: Graph, input_shape: Shape) -> None:
        super().__init__()
        number = {value: i for i, value in enumerate(graph.inputs)}
        places = []
        for node in graph.nodes:
            places.append(
                Place(node.name.rpartition(" ")[0], tuple(number[v] for v in node.operands))
            )
            number[node.result] = len(number)
        self._set(
            [_polymorphic(node) for node in graph.nodes],
            places,
            tuple(number[value] for value in graph.results),
            input_shape,
        )

    def _set(
        self, layers: list[Layer], places: list[Place], results: tuple[int, ...], inner: Shape
    ) -> None:
        self.layers = ModuleList(layers)
        self.places, self.results = tuple(places), results
        self.input_shape = tuple(inner)
        self.metadata: dict[str, Any] = {}

    @classmethod
    def of(cls, stored: Stored) -> IntegerNetwork:
        """Return the network that a file has.

        Parameters
        ----------
        stored : Stored

        Returns
        -------
        IntegerNetwork
        """
        network = cls.__new__(cls)
        Module.__init__(network)
        network._set(stored.layers, stored.places, stored.results, stored.input_shape)
        network.metadata = stored.metadata
        return network

    def explain(self, x_shape: Shape, repeats: int = 0) -> Explanation:
        """Return what the network does: every layer, how it is computed, FLOP and memory.

        Parameters
        ----------
        x_shape : tuple of int
            Of the input.
        repeats : int
            Runs to measure each layer with; 0 measures nothing.

        Returns
        -------
        Explanation
            Its `layers` has a row for each; printed it is a table.
        """
        x = np.zeros(shape(x_shape, "x_shape"), np.float32)
        self.check_input(x)
        return explanation(self, "integer network", (x,), repeats)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the network, layers and arrays, as a safetensors file that `load` reads.

        Parameters
        ----------
        path : path

        Raises
        ------
        ValueError
            A layer has no form in such a file: a function of NumPy, such as ONNX files may have.
        OSError
            It cannot be written; what was there before is still whole.
        """
        layers: list[Any] = list(self.layers)
        write(
            path, Stored(layers, list(self.places), self.results, self.input_shape, self.metadata)
        )

    def save_onnx(self, path: Any, x_shape: Shape | None = None) -> None:
        """Write the network as an ONNX file, with QuantizeLinear and DequantizeLinear.

        Parameters
        ----------
        path : path
        x_shape : tuple of int, optional
            Of the input; default: one image as it was calibrated with.

        Raises
        ------
        ValueError
            A layer has no form in ONNX.
        ImportError
            The package onnx is not installed.
        """
        super().save_onnx(path, (1, *self.input_shape) if x_shape is None else x_shape)

    def modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield the network and its layers, under the names of the layers that they are made of."""
        yield prefix.rstrip("."), self
        taken: set[str] = set()
        for i, (place, layer) in enumerate(zip(self.places, self.layers, strict=True)):
            name = place.name
            if not name or name in taken:
                name = f"{name or type(layer).__name__}_{i}"
            taken.add(name)
            yield f"{prefix}{name}", layer

    def forward(self, *values: Any, **_: Any) -> Any:
        """Record the layers for the input, a `Value`; see `Module.forward`."""
        found: list[Value] = list(values)
        for place, layer in zip(self.places, self.layers, strict=True):
            found.append(layer(*(found[i] for i in place.operands)))
        made = tuple(found[i] for i in self.results)
        return made if len(made) > 1 else made[0]

    def check_input(self, *xs: np.ndarray) -> None:
        """Raise an error unless the network takes an array.

        Parameters
        ----------
        *xs : ndarray
            One, float32.

        Raises
        ------
        TypeError, ValueError
            Another number of arrays, another dtype or number of axes, or other channels.
        """
        super().check_input(*xs)
        (x,) = xs
        if x.dtype != np.float32:
            raise TypeError(f"x: got dtype {x.dtype}, expected float32")
        same = x.ndim == 1 + len(self.input_shape) and x.shape[1] == self.input_shape[0]
        if not same:
            extents = ", ".join(map(str, self.input_shape))
            raise ValueError(f"x: got shape {x.shape}, expected (N, {extents})")

    def memory_report(self, x_shape: Shape, training: bool = False) -> MemoryReport:
        """Return how many bytes inference with an input of this shape needs, by kind."""
        if training:
            raise ValueError("training: got True, expected False: integer networks do not learn")
        return super().memory_report(x_shape, False)

    @property
    def float_layers(self) -> dict[str, Layer]:
        """The layers that compute in float32, by name: not those that only move numbers."""
        return {
            name: layer
            for name, layer in self.modules()
            if isinstance(layer, Layer) and not is_integer(layer) and not layer.is_view
        }

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        arrays = [p.data for p in self.parameters().values()] + list(self.buffers().values())
        return sum(array.nbytes for array in arrays)

    def __repr__(self) -> str:
        products = sum(isinstance(layer, IntegerConv2d) for layer in self.layers)
        left = [f"{name} ({type(layer).__name__})" for name, layer in self.float_layers.items()]
        more = f" and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
        inside = ", ".join(left[:SHOWN]) + more or "nothing"
        return f"IntegerNetwork({products} integer convolutions; in float32: {inside})"


def load(path: str | PathLike[str]) -> IntegerNetwork:
    """Return the integer network of a file.

    Parameters
    ----------
    path : path
        That `IntegerNetwork.save` or ``lowerconv quantize`` has written.

    Returns
    -------
    IntegerNetwork

    Raises
    ------
    WeightsError
        It is no such file, or damaged; a ValueError.
    OSError
        It cannot be read.
    """
    return IntegerNetwork.of(read(path))


def _polymorphic(node: Node) -> Layer:
    """Return a layer that takes other batches, too."""
    layer = node.layer
    if type(layer) is not View:
        return layer
    before, after = node.operands[0].shape, node.result.shape
    if before[:1] != after[:1]:
        return layer
    rest = after[1:]
    return Reshaped((0, -1) if len(rest) == 1 else (0, *rest))
