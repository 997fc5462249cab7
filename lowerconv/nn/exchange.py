"""Weights to and from PyTorch: safetensors files with the names of its state_dicts."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import save

from lowerconv.checks import plain_array
from lowerconv.files import write_atomically
from lowerconv.runtime.threads import between_kernels

if TYPE_CHECKING:
    from lowerconv.nn.module import Module

Arrays = dict[str, np.ndarray]

# Each batch normalisation of PyTorch counts its batches, and uses the number for nothing as long as
# it has a momentum, which ours always has.
COUNTER = "num_batches_tracked"
AVERAGE = "running_mean"

_SHOWN = 5  # names in an error
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8"}
_KINDS = "float64, float32, float16 or bfloat16"


class WeightsError(ValueError):
    """Weights that cannot be read or do not fit; the message names the file and the tensor."""


def load_weights(module: Module, source: str | PathLike[str] | Mapping[str, Any]) -> None:
    """Set all weights and running statistics of a network.

    Floating-point numbers become those of the network: from float16 and bfloat16 exactly, from
    float64 to float32 rounded. Nothing is changed before everything has been checked.

    Parameters
    ----------
    module : Module
    source : path or mapping of str to array
        A safetensors file, such as `save_weights` and ``safetensors.torch.save_file`` write, or
        tensors by name, such as a state_dict of PyTorch, on the CPU. It must hold exactly what the
        network has; counters of batches (``num_batches_tracked``) are ignored. What is in several
        places of the network may come under one of its names, or under several with the same
        numbers.

    Raises
    ------
    TypeError
        `source` is neither a path nor a mapping; an array is masked; a tensor is on another device,
        sparse or quantized, or of a type that NumPy cannot hold.
    WeightsError
        The file is damaged or no safetensors file; a tensor is missing, has no place in the
        network, or has another shape, another kind of number or numbers that are too large; or one
        that is shared comes with several contents.
    OSError
        The file cannot be read.
    """
    if isinstance(source, Mapping):
        where, found = "weights", _copy(source)
    elif isinstance(source, (str, PathLike)):
        where, found = str(source), _read(Path(source))
    else:
        raise TypeError(f"weights: got {type(source).__name__}, expected a path or tensors by name")
    expected = _state(module)
    found = {name: array for name, array in found.items() if not _is_counter(name)}
    places: dict[int, list[str]] = {}
    for name, target in expected.items():
        places.setdefault(id(target), []).append(name)
    missing = [names[0] for names in places.values() if not any(n in found for n in names)]
    if missing:
        raise WeightsError(f"{where}: has no tensor {_names(missing)}, expected by the network")
    unknown = [name for name in found if name not in expected]
    if unknown:
        raise WeightsError(f"{where}: has tensor {_names(unknown)}, which the network has not")
    converted = {
        name: _fitting(f"{where}: tensor {name!r}", found[name], target)
        for name, target in expected.items()
        if name in found
    }
    for names in places.values():
        first, *others = (name for name in names if name in found)
        for other in others:
            if not np.array_equal(converted[first], converted[other], equal_nan=True):
                raise WeightsError(
                    f"{where}: tensors {first!r} and {other!r} differ, expected the same: they are "
                    "one in the network"
                )
    # Each answer of another thread is by the old weights, or by the new ones.
    with module._use.mutex.hold(), between_kernels():
        for name, array in converted.items():
            expected[name][...] = array


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
    with between_kernels():  # copies, because a thread that trains may go on meanwhile
        tensors = {name: array.copy() for name, array in _state(module).items()}
    for name in list(tensors):
        prefix, _, own = name.rpartition(".")
        if own == AVERAGE:
            tensors[f"{prefix}.{COUNTER}" if prefix else COUNTER] = np.zeros((), np.int64)
    metadata = {"format": "pt", "sha256": _checksum(tensors)}  # "pt": names and layout of PyTorch
    write_atomically(Path(path), save(tensors, metadata))


def _state(module: Module) -> Arrays:
    """Return the arrays of the network itself, by PyTorch's names: shared ones under all theirs."""
    parameters = {name: parameter.data for name, parameter in module.parameters().items()}
    return parameters | module.buffers() | dict(_everywhere(module))


def _everywhere(module: Module, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Yield parameters and buffers at each place where the network has them."""
    for name, parameter in module.own_parameters().items():
        yield prefix + name, parameter.data
    for name, array in module.own_buffers().items():
        yield prefix + name, array
    for name, child in module.children().items():
        yield from _everywhere(child, f"{prefix}{name}.")


def _is_counter(name: str) -> bool:
    return name.split(".")[-1] == COUNTER


def _copy(source: Mapping[str, Any]) -> Arrays:
    """Return the tensors of a mapping, all but the counters."""
    for name in source:
        if not isinstance(name, str):
            raise TypeError(f"weights: got {name!r} as a name, expected a str")
    return {name: _as_array(name, t) for name, t in source.items() if not _is_counter(name)}


def _read(path: Path) -> Arrays:
    """Return all tensors of a file."""
    content = path.read_bytes()
    try:
        with safe_open(path, framework="numpy") as file:
            checksum = (file.metadata() or {}).get("sha256")
        tensors = {
            name: _decode(f"{path}: tensor {name!r}", **tensor)
            for name, tensor in deserialize(content)
            if tensor["dtype"] in _DTYPES or not _is_counter(name)
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
        raise WeightsError(f"{which}: got numbers of type {dtype}, expected {_KINDS}")
    return np.frombuffer(data, _DTYPES[dtype]).reshape(shape)


def _as_array(name: str, value: Any) -> np.ndarray:
    """Return a copy of an array or of a tensor of PyTorch: it may be memory of the network."""
    which = f"weights: tensor {name!r}"
    torch = sys.modules.get("torch")  # who has a tensor has imported it
    if torch is not None and isinstance(value, getattr(torch, "Tensor", ())):
        return np.array(_of_torch(torch, which, value))
    if isinstance(value, np.ndarray):
        plain_array(value, which)
    try:
        array = np.array(value)
    except (TypeError, ValueError) as error:
        raise WeightsError(
            f"{which}: got {type(value).__name__}, expected an array of floating-point numbers "
            f"({error})"
        ) from None
    # NumPy itself has no such type; those of ml_dtypes and JAX are converted by a cast.
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _of_torch(torch: ModuleType, which: str, tensor: Any) -> np.ndarray:
    """Return a tensor of PyTorch as an array."""
    if tensor.device.type != "cpu":
        raise TypeError(f"{which}: got a tensor on {tensor.device}, expected one on the CPU")
    if tensor.layout != torch.strided or tensor.is_quantized:
        kind = "quantized" if tensor.is_quantized else str(tensor.layout).partition(".")[2]
        raise TypeError(f"{which}: got a {kind} tensor, expected a dense one")
    try:
        tensor = tensor.detach().resolve_neg()
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    except (RuntimeError, TypeError, ValueError) as error:
        raise TypeError(f"{which}: got {tensor.dtype}, expected {_KINDS} ({error})") from None


def _fitting(which: str, array: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return `array` in the dtype of `target`, which it must fit."""
    if not issubclass(array.dtype.type, np.floating):  # float8 of ml_dtypes has kind "f", too
        raise WeightsError(f"{which}: got numbers of type {array.dtype}, expected {_KINDS}")
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
