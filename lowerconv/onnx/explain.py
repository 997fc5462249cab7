"""What a network from an ONNX file does: its layers, how each is computed, and for how long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lowerconv.nn.computed import Computed
from lowerconv.nn.explain import Explanation, computed_by, explanation
from lowerconv.onnx.registry import OPERATORS

if TYPE_CHECKING:
    from lowerconv.nn.layer import Layer
    from lowerconv.onnx.network import OnnxNetwork


def _computed_by(layer: Layer) -> str:
    """Return what computes a layer: of a function of NumPy the operator may tell."""
    if isinstance(layer, Computed):
        known = OPERATORS.get(layer.name)
        if known is not None and known.how == "onnx.reference":
            return known.how
    return computed_by(layer)


def arrays_for(network: OnnxNetwork, inputs: tuple[Any, ...]) -> tuple[np.ndarray, ...]:
    """Return an array for each input, given arrays, shapes, or nothing where shapes are declared.

    Parameters
    ----------
    network : OnnxNetwork
    inputs : tuple of ndarray or of tuple of int
    """
    names = network.input_names
    if not inputs:
        dynamic = [
            f"{name} {shape}"
            for name, shape in zip(names, network.input_shapes, strict=True)
            if shape is None or not all(isinstance(n, int) for n in shape)
        ]
        if dynamic:
            raise ValueError(f"shapes: got none, expected those of {', '.join(dynamic)}")
        inputs = tuple(shape for shape in network.input_shapes if shape is not None)
    if len(inputs) != len(names):
        raise TypeError(f"got {len(inputs)} inputs, expected {len(names)}: {', '.join(names)}")
    arrays = []
    for i, (given, dtype) in enumerate(zip(inputs, network.input_dtypes, strict=True)):
        if isinstance(given, np.ndarray):
            arrays.append(given)
            continue
        if i in network.looked_at:
            raise ValueError(f"{names[i]}: got a shape, expected an array: shapes depend on it")
        arrays.append(np.zeros(tuple(given), dtype or np.float32))
    return tuple(arrays)


def explain(network: OnnxNetwork, inputs: tuple[Any, ...], repeats: int = 0) -> Explanation:
    """Return what a network does; see `OnnxNetwork.explain`."""
    arrays = arrays_for(network, inputs)
    network.check_input(*arrays)
    if not network.has_program:
        return Explanation(network.file, tuple(array.shape for array in arrays))
    return explanation(network, network.file, arrays, repeats, _computed_by)
