"""Checkpoints: all that a run needs to go on, in one file that is never half written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lowerconv.files import write_atomically
from lowerconv.nn.module import Module

FORMAT = "lowerconv checkpoint 2"

# In the directory of a run: the state after the last epoch, and after the most accurate one.
LAST, BEST = "checkpoint.safetensors", "best.safetensors"


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another run; the message names the file."""


def state(network: Module) -> dict[str, np.ndarray]:
    """Return what a network has learnt: the arrays themselves, to be read and written, by name."""
    learnt = {name: parameter.data for name, parameter in network.parameters().items()}
    return learnt | network.buffers()


@dataclass(frozen=True)
class Checkpoint:
    """What is saved.

    Attributes
    ----------
    tensors : dict of str to ndarray
        The `state` of the network; its exponential average as ``ema/NAME``; and what the optimizer
        keeps of each parameter, such as ``velocity/NAME``.
    state : dict
        Everything else, as JSON can hold it.
    """

    tensors: dict[str, np.ndarray]
    state: dict[str, Any]

    def check(self, expected: Mapping[str, tuple[tuple[int, ...], np.dtype]], path: Path) -> None:
        """Compare shapes and dtypes.

        Raises
        ------
        CheckpointError
            A tensor is missing, or of another shape or dtype than expected of its name.
        """
        for name, (shape, dtype) in expected.items():
            stored = self.tensors.get(name)
            if stored is None or stored.shape != shape or stored.dtype != dtype:
                found = "nothing" if stored is None else f"{stored.dtype} {stored.shape}"
                raise CheckpointError(
                    f"{path}: tensor {name!r} is {found}, expected {dtype} {shape}"
                )

    def copy_to(self, arrays: Mapping[str, np.ndarray], path: Path) -> None:
        """Fill arrays with the tensors of the same names, which `check` has to find right."""
        self.check({name: (a.shape, a.dtype) for name, a in arrays.items()}, path)
        for name, array in arrays.items():
            array[...] = self.tensors[name]


def _digest(tensors: dict[str, np.ndarray], state: str) -> str:
    """Return a checksum of names, shapes, dtypes, bytes and state; safetensors has none."""
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically.

    Raises
    ------
    OSError
        It cannot be written; the one before it is still whole.
    """
    state = json.dumps(checkpoint.state, sort_keys=True)
    metadata = {
        "format": FORMAT,
        "state": state,
        "sha256": _digest(checkpoint.tensors, state),
    }
    write_atomically(path, save(checkpoint.tensors, metadata))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and verify it.

    Raises
    ------
    CheckpointError
        There is none, or it is damaged, or it is no checkpoint of this library.
    """
    if path.is_dir():
        raise CheckpointError(f"{path}: a directory, expected a file such as {path / BEST}")
    if not path.is_file():
        raise CheckpointError(f"{path}: no checkpoint there")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        # AttributeError: numbers of types that NumPy has not, such as float8
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from None
    if metadata.get("format") != FORMAT:
        found = metadata.get("format")
        raise CheckpointError(f"{path}: metadata 'format' is {found!r}, expected {FORMAT!r}")
    state = metadata.get("state", "")
    if metadata.get("sha256") != _digest(tensors, state):
        raise CheckpointError(f"{path}: damaged: its content does not have the checksum stored")
    return Checkpoint(tensors, json.loads(state))
