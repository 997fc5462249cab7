"""The weights that a run begins with, where they are those of another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lowerconv.arguments import Place, checked
from lowerconv.nn.module import Module
from lowerconv.train.checkpoint import Checkpoint, CheckpointError, load_checkpoint, state

CHECKPOINT = Place("a checkpoint")

# Steps that a network has learnt with few bits: those of other bits begin anew.
_STEPS = (".weight_step", ".input.step")


@dataclass(frozen=True)
class InitialWeights:
    """What a network had learnt in a run before.

    Attributes
    ----------
    tensors : dict of str to ndarray
        As `checkpoint.state` has them: the exponential average, where there was one.
    path : Path
        The checkpoint.
    """

    tensors: dict[str, np.ndarray]
    path: Path

    @classmethod
    def read(cls, init_from: str | Path, resume: bool) -> InitialWeights:
        """Read a checkpoint; arguments as of `Trainer`.

        Raises
        ------
        TypeError, ValueError
            No path; or the run is resumed, and has weights.
        CheckpointError
            There is none, or it is damaged.
        """
        path = checked("init_from", CHECKPOINT, init_from)
        if resume:
            raise ValueError(f"init_from: got {path} with resume, expected one of them")
        checkpoint = load_checkpoint(path)
        # A name with a slash is of something beside the network, see `Checkpoint`.
        averaged = checkpoint.state["settings"]["ema"] is not None
        prefix = "ema/" if averaged else ""
        kept = {name: t for name, t in checkpoint.tensors.items() if name.startswith(prefix)}
        named = {name.removeprefix(prefix): tensor for name, tensor in kept.items()}
        return cls({n: t for n, t in named.items() if "/" not in n and n != "loss_scale"}, path)

    def copy_to(self, network: Module) -> None:
        """Fill a network that has not been prepared for few bits yet.

        Raises
        ------
        CheckpointError
            The checkpoint is of a network with other tensors.
        """
        arrays = state(network)
        for name in sorted(self.tensors.keys() - arrays.keys()):
            if not name.endswith(_STEPS):
                raise CheckpointError(
                    f"{self.path}: has tensor {name!r}, which the network has not: expected a "
                    "checkpoint of the same network"
                )
        Checkpoint(self.tensors, {}).copy_to(arrays, self.path)
