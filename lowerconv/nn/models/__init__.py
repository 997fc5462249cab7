"""Networks by name, each with the settings that train it well from scratch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lowerconv.nn.models.cifar10_quick import cifar10_quick
from lowerconv.nn.models.lenet import lenet
from lowerconv.nn.module import Sequential


@dataclass(frozen=True)
class Model:
    """How to build a network, and how to train it when the user does not say."""

    build: Callable[..., Sequential]  # (image_shape, classes, algorithm) -> network
    epochs: int
    batch: int
    lr: float
    momentum: float
    weight_decay: float


MODELS = {
    #                      build          epochs  batch  lr    momentum  weight_decay
    "lenet": Model(lenet, 12, 64, 0.02, 0.9, 1e-3),
    "cifar10_quick": Model(cifar10_quick, 10, 50, 0.02, 0.9, 1e-3),
}

__all__ = ["MODELS", "Model", "cifar10_quick", "lenet"]
