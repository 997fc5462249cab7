"""Caffe's quick network for CIFAR-10."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv import nn
from lowerconv.nn.models.build import ImageShape, Layers, described, map_size, window


@described()
def cifar10_quick(
    image_shape: ImageShape = (3, 32, 32),
    classes: int = 10,
    algorithm: str = "auto",
    dtype: Any = np.float32,
) -> nn.Module:
    """Return the network of Caffe's examples (Jia et al., 2014), after Krizhevsky's cuda-convnet.

    Three 5x5 convolutions that keep the image, each followed by pooling that halves it; 145,578
    parameters on 32x32 pixels.
    """
    layers = Layers(algorithm, dtype)
    halving = window(3, 2, ceil_mode=True)
    rows, columns = map_size("cifar10_quick", image_shape, halving, halving, halving)
    return nn.Sequential(
        layers.Conv2d(image_shape[0], 32, 5, padding=2),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.ReLU(),
        layers.Conv2d(32, 32, 5, padding=2),
        nn.ReLU(),
        nn.AvgPool2d(3, 2, ceil_mode=True),
        layers.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.Flatten(),
        layers.Linear(64 * rows * columns, 64),
        layers.Linear(64, classes),
    )
