"""Network in network."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv import nn
from lowerconv.nn.models.build import ImageShape, Layers, described, map_size, window


@described()
def nin(
    image_shape: ImageShape = (3, 32, 32),
    classes: int = 10,
    algorithm: str = "auto",
    dtype: Any = np.float32,
) -> nn.Module:
    """Return the network of three "mlpconv" blocks for CIFAR-10, without a fully connected layer.

    Lin, Chen, Yan, "Network in network" (2014), in the sizes that the authors published for
    Caffe: a convolution and two of 1x1 pixels in each block, and the mean of each last map is the
    score of a class; 966,986 parameters. The ReLU after the last convolution is left out: with it
    all scores were zero after an epoch, and stayed so.
    """
    layers = Layers(algorithm, dtype)
    halving = window(3, 2, ceil_mode=True)
    map_size("nin", image_shape, halving, halving)  # refuses what is too small
    return nn.Sequential(
        layers.Conv2d(image_shape[0], 192, 5, padding=2),
        nn.ReLU(),
        layers.Conv2d(192, 160, 1),
        nn.ReLU(),
        layers.Conv2d(160, 96, 1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Dropout(0.5),
        layers.Conv2d(96, 192, 5, padding=2),
        nn.ReLU(),
        layers.Conv2d(192, 192, 1),
        nn.ReLU(),
        layers.Conv2d(192, 192, 1),
        nn.ReLU(),
        nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.Dropout(0.5),
        layers.Conv2d(192, 192, 3, padding=1),
        nn.ReLU(),
        layers.Conv2d(192, 192, 1),
        nn.ReLU(),
        layers.Conv2d(192, classes, 1),
        nn.GlobalAvgPool2d(),
        nn.Flatten(),
    )
