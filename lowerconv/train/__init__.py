"""Training: the loop, checkpoints, metrics and what is shown of them."""

from lowerconv.train.checkpoint import CheckpointError
from lowerconv.train.loop import Settings, Trainer

__all__ = ["CheckpointError", "Settings", "Trainer"]
