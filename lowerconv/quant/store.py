"""Files of integer networks: safetensors with all arrays, and the layers in the metadata.

The metadata ``network`` is JSON: of each layer its class, its name, what it reads, and the
attributes that `FIELDS` names.  Attributes that are arrays are tensors of the file.  Weights are
bytes, or two planes of bits where all are -1, 0 or 1 (`lowerconv.ops.ternary_codes`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as write_tensors

from lowerconv.files import write_atomically
from lowerconv.nn.activation import ReLU
from lowerconv.nn.arithmetic import Arithmetic
from lowerconv.nn.attributes import Parameter
from lowerconv.nn.combine import Add, Concat, Flatten
from lowerconv.nn.conv import Conv2d
from lowerconv.nn.conv_transpose import ConvTranspose2d
from lowerconv.nn.exchange import WeightsError
from lowerconv.nn.functional.shapes import Transpose
from lowerconv.nn.layer import Layer
from lowerconv.nn.linear import Linear
from lowerconv.nn.norm import BatchNorm2d, LocalResponseNorm
from lowerconv.nn.normalise import Normalise, Softmax
from lowerconv.nn.pointwise import Pointwise
from lowerconv.nn.pooling import AvgPool2d, GlobalAvgPool2d, MaxPool2d
from lowerconv.nn.resize import Resize
from lowerconv.ops.ternary_codes import TernaryCodes
from lowerconv.quant.conv import Epilogue, Filters, IntegerConv2d
from lowerconv.quant.convert import Dequantize, Pack, Quantize, Unpack
from lowerconv.quant.integer_layers import (
    IntegerAdd,
    IntegerAvgPool2d,
    IntegerConcat,
    IntegerMaxPool2d,
    IntegerResponseNorm,
    Lookup,
)
from lowerconv.quant.params import QuantParams
from lowerconv.quant.places import Place, Reshaped

FORMAT = "lowerconv integer network 1"

_POOL = ("size", "stride", "padding", "ceil_mode")
FIELDS: dict[type, tuple[str, ...]] = {
    QuantParams: ("scale", "zero_point", "signed", "low", "high"),
    Epilogue: ("y", "low", "high", "residual"),
    TernaryCodes: ("bits", "shape"),
    Filters: ("codes", "scale", "bias"),
    Quantize: ("params",),
    Dequantize: ("params", "channels", "features"),
    Unpack: ("params", "channels", "features"),
    Pack: (),
    IntegerConv2d: ("filters", "geometry", "x", "epilogue", "features"),
    IntegerAdd: ("a", "b", "y", "low", "high"),
    IntegerMaxPool2d: ("pool", "x"),
    IntegerAvgPool2d: ("pool", "x", "y", "low", "high"),
    IntegerResponseNorm: ("norm", "channels", "x", "y", "low", "high"),
    IntegerConcat: ("channels", "y", "is_concatenation"),
    Lookup: ("function", "x", "y", "table"),
    # float32
    Conv2d: ("weight", "bias", "geometry", "algorithm"),
    ConvTranspose2d: (
        *("weight", "bias", "stride", "dilation", "padding", "output_padding", "groups"),
    ),
    Linear: ("weight", "bias", "accumulates"),
    BatchNorm2d: (
        *("weight", "bias", "running_mean", "running_var", "eps", "momentum", "synchronized"),
    ),
    LocalResponseNorm: ("size", "alpha", "beta", "k"),
    Normalise: ("axes", "eps", "period", "weight", "bias"),
    Softmax: ("axis", "log"),
    ReLU: (),
    Pointwise: ("function", "a", "b"),
    Arithmetic: ("operation", "constant", "first", "in_place"),
    MaxPool2d: _POOL,
    AvgPool2d: (*_POOL, "count_include_pad"),
    GlobalAvgPool2d: (*_POOL, "count_include_pad"),
    Add: (),
    Concat: (),
    Flatten: ("shape",),
    Reshaped: ("shape", "pattern"),
    Resize: ("rows", "columns"),
}
KINDS = {kind.__name__: kind for kind in (*FIELDS, Transpose)}


@dataclass(frozen=True)
class Stored:
    """What a file has.

    Attributes
    ----------
    layers : list of Layer
    places : list of Place
        Of each layer.
    results : tuple of int
        Numbers of values, as in `places`.
    input_shape : tuple of int
        Without the batch.
    metadata : dict
        What it says beside the network.
    """

    layers: list[Layer]
    places: list[Place]
    results: tuple[int, ...]
    input_shape: tuple[int, ...]
    metadata: dict[str, Any]


def write(path: str | PathLike[str], stored: Stored) -> None:
    """Write a file atomically; see `IntegerNetwork.save`."""
    tensors: dict[str, np.ndarray] = {}
    layers = [
        {
            "name": place.name,
            "reads": place.operands,
            "layer": _written(layer, tensors, f"{i}.{place.name or type(layer).__name__}"),
        }
        for i, (place, layer) in enumerate(zip(stored.places, stored.layers, strict=True))
    ]
    content = {"layers": layers, "results": stored.results, "input": stored.input_shape}
    texts = {"network": json.dumps(content), "about": json.dumps(stored.metadata)}
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    metadata = {"format": FORMAT, **texts, "sha256": _checksum(tensors, texts)}
    write_atomically(Path(path), write_tensors(tensors, metadata))


def format_of(path: str | PathLike[str]) -> str | None:
    """Return what a safetensors file says of its format, None where it is none or says nothing.

    Parameters
    ----------
    path : path

    Returns
    -------
    str or None
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return (file.metadata() or {}).get("format")
    except (SafetensorError, OSError, ValueError):
        return None


def read(path: str | PathLike[str]) -> Stored:
    """Return what a file has, once its checksum is right; see `network.load`."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({error})") from None
    if metadata.get("format") != FORMAT:
        raise WeightsError(
            f"{path}: metadata 'format' is {metadata.get('format')!r}, expected {FORMAT!r}"
        )
    texts = {name: metadata.get(name, "") for name in ("network", "about")}
    if metadata.get("sha256") != _checksum(tensors, texts):
        raise WeightsError(f"{path}: damaged: its content does not have the checksum stored")
    content = json.loads(texts["network"])
    try:
        layers = [_read(row["layer"], tensors) for row in content["layers"]]
        places = [Place(row["name"], tuple(row["reads"])) for row in content["layers"]]
        results, shape = tuple(content["results"]), tuple(content["input"])
    except ValueError as error:
        raise WeightsError(f"{path}: damaged: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path}: has a layer that this version does not know ({error})"
        ) from None
    return Stored(layers, places, results, shape, json.loads(texts["about"]))


def _checksum(tensors: dict[str, np.ndarray], texts: dict[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()


def _written(value: Any, tensors: dict[str, np.ndarray], name: str) -> Any:
    """Return a value as JSON has it; arrays are put among the tensors."""
    if isinstance(value, Parameter):
        return {"parameter": _written(value.data, tensors, name)["array"]}
    if isinstance(value, np.ndarray):
        tensors[name] = value
        return {"array": name}
    if isinstance(value, (tuple, list)):
        return {"tuple": [_written(v, tensors, f"{name}.{i}") for i, v in enumerate(value)]}
    if isinstance(value, (bool, str, type(None))):
        return value
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return {"float": float(value).hex()}  # infinities, too, and no digit lost
    if isinstance(value, Transpose):
        return {"kind": "Transpose", "axes": [int(axis) for axis in value.axes]}
    # Classes of our own that differ by what they keep while they compute are written as their base.
    ours = type(value).__module__.startswith("lowerconv.")
    kinds = [kind for kind in (type(value).__mro__ if ours else ()) if kind in FIELDS]
    if not kinds:
        raise ValueError(
            f"{name}: {value!r} has no form in a file, expected layers of lowerconv.nn"
        )
    own = {field: getattr(value, field) for field in FIELDS[kinds[0]]}
    return {
        "kind": kinds[0].__name__,
        **{f: _written(v, tensors, f"{name}.{f}") for f, v in own.items()},
    }


_OF_TAG: dict[str, Callable[[Any, dict[str, np.ndarray]], Any]] = {
    "parameter": lambda name, tensors: Parameter(tensors[name]),
    "array": lambda name, tensors: tensors[name],
    "tuple": lambda items, tensors: tuple(_read(item, tensors) for item in items),
    "float": lambda text, tensors: float.fromhex(text),
}


def _read(value: Any, tensors: dict[str, np.ndarray]) -> Any:
    """Return what `_written` has made JSON of."""
    if not isinstance(value, dict):
        return value
    if "kind" not in value:
        ((tag, content),) = value.items()
        return _OF_TAG[tag](content, tensors)
    kind = KINDS[value["kind"]]
    if kind is Transpose:
        return Transpose(tuple(value["axes"]))
    fields = {field: _read(value[field], tensors) for field in FIELDS[kind]}
    if not issubclass(kind, Layer):
        return kind(**fields)
    layer = kind.__new__(kind)
    Layer.__init__(layer)
    for field, content in fields.items():
        setattr(layer, field, content)
    return layer
