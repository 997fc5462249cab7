"""Weights to and from PyTorch: safetensors files with the names of its state_dicts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import save

from lowerconv.files import write_atomically
from lowerconv.nn.module import Module

Arrays = dict[str, np.ndarray]

# Each batch normalisation of PyTorch counts its batches, and uses the number for nothing as long as
# it has a momentum, which ours always has.
COUNTER = "num_batches_tracked"
AVERAGE = "running_mean"

_SHOWN = 5  # names in an error
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8"}


class WeightsError(ValueError):
    """Weights that cannot be read or do not fit; the message names the file and the tensor."""


def load_weights(module: Module, source: str | PathLike[str] | Mapping[str, Any]) -> None:
    """Set all weights and running statistics of a network.

    Floating-point numbers of any kind become those of the network: from float16 and bfloat16
    exactly, from float64 to float32 rounded. Nothing is changed before everything has been checked.

    Parameters
    ----------
    module : Module
    source : path or mapping of str to array
        A safetensors file, such as `save_weights` and ``safetensors.torch.save_file`` write, or
        tensors by name, such as a state_dict of PyTorch. It must hold exactly what the network
        has; counters of batches (``num_batches_tracked``) are ignored.

    Raises
    ------
    WeightsError
        The file is damaged or no safetensors file; a tensor is missing, has no place in the
        network, or has another shape, another kind of number or numbers that are too large.
    OSError
        The file cannot be read.
    """
    if isinstance(source, Mapping):
        where, found = "weights", {name: _as_array(name, t) for name, t in source.items()}
    else:
        where, found = str(source), _read(Path(source))
    expected = _state(module)
    found = {name: array for name, array in found.items() if name.split(".")[-1] != COUNTER}
    missing = [name for name in expected if name not in found]
    if missing:
        raise WeightsError(f"{where}: has no tensor {_names(missing)}, expected by the network")
    unknown = [name for name in found if name not in expected]
    if unknown:
        raise WeightsError(f"{where}: has tensor {_names(unknown)}, which the network has not")
    converted = {
        name: _fitting(f"{where}: tensor {name!r}", found[name], target)
        for name, target in expected.items()
    }
    for name, target in expected.items():
        target[...] = converted[name]


def save_weights(module: Module, path: str | PathLike[str]) -> None:
    """Write all weights and running statistics of a network, atomically.

    ``network.load_state_dict(safetensors.torch.load_file(path))`` reads them into the same network
    of PyTorch. A checksum among the metadata lets `load_weights` find damage.

    Parameters
    ----------
    module : Module
    path : path
        Of the safetensors file.

    Raises
    ------
    OSError
        It cannot be written; what was there before is still whole.
    """
    tensors = {name: np.ascontiguousarray(array) for name, array in _state(module).items()}
    for name in list(tensors):
        prefix, _, own = name.rpartition(".")
        if own == AVERAGE:
            tensors[f"{prefix}.{COUNTER}" if prefix else COUNTER] = np.zeros((), np.int64)
    metadata = {"format": "pt", "sha256": _checksum(tensors)}  # "pt": names and layout of PyTorch
    write_atomically(Path(path), save(tensors, metadata))


def _state(module: Module) -> Arrays:
    """Return the arrays of the network itself, by PyTorch's names."""
    parameters = {name: parameter.data for name, parameter in module.parameters().items()}
    return parameters | module.buffers()


def _read(path: Path) -> Arrays:
    """Return all tensors of a file."""
    content = path.read_bytes()
    try:
        with safe_open(path, framework="numpy") as file:
            checksum = (file.metadata() or {}).get("sha256")
        tensors = {
            name: _decode(f"{path}: tensor {name!r}", **tensor)
            for name, tensor in deserialize(content)
        }
    except (SafetensorError, UnicodeDecodeError) as error:
        raise WeightsError(
            f"{path}: not a readable safetensors file ({error}); PyTorch writes one with "
            "safetensors.torch.save_file"
        ) from None
    if checksum is not None and checksum != _checksum(tensors):
        raise WeightsError(f"{path}: damaged: its tensors do not have the checksum stored")
    return tensors


def _decode(which: str, dtype: str, shape: list[int], data: bytearray) -> np.ndarray:
    """Return a tensor of a file."""
    if dtype == "BF16":  # the upper half of a float32
        wide = np.frombuffer(data, "<u2").astype(np.uint32) << np.uint32(16)
        return wide.view(np.float32).reshape(shape)
    if dtype not in _DTYPES:
        raise WeightsError(f"{which}: got numbers of type {dtype}, expected floating point")
    return np.frombuffer(data, _DTYPES[dtype]).reshape(shape)


def _as_array(name: str, tensor: Any) -> np.ndarray:
    """Return an array or a tensor of PyTorch as an array."""
    try:
        return np.asarray(tensor.detach() if hasattr(tensor, "detach") else tensor)
    except (TypeError, ValueError) as error:
        raise WeightsError(
            f"weights: tensor {name!r}: got {type(tensor).__name__}, expected an array of "
            f"floating-point numbers ({error})"
        ) from None


def _fitting(which: str, array: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return `array` in the dtype of `target`, which it must fit."""
    if array.dtype.kind != "f":
        raise WeightsError(f"{which}: got numbers of type {array.dtype}, expected floating point")
    if array.shape != target.shape:
        raise WeightsError(f"{which}: got shape {array.shape}, expected {target.shape}")
    largest, limit = np.abs(array[np.isfinite(array)]).max(initial=0), np.finfo(target.dtype).max
    if largest > limit:
        raise WeightsError(
            f"{which}: got {array.dtype} numbers up to {largest:g}, expected no larger than "
            f"{limit:g} of {target.dtype}"
        )
    return array.astype(target.dtype, copy=False)


def _names(names: Iterable[str]) -> str:
    """Return names in words, the first few of them."""
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(repr(name) for name in names[:_SHOWN]) + more


def _checksum(tensors: Arrays) -> str:
    """Return a checksum of names, dtypes, shapes and bytes; safetensors has none."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
