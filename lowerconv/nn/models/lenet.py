"""LeNet."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv import nn
from lowerconv.nn.models.build import ImageShape, Layers, described, map_size, window


@described()
def lenet(
    image_shape: ImageShape = (1, 28, 28),
    classes: int = 10,
    algorithm: str = "auto",
    dtype: Any = np.float32,
) -> nn.Module:
    """Return LeNet in the sizes of Caffe's examples, with max pooling and ReLU.

    LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition"
    (1998); 431,080 parameters on 28x28 pixels.
    """
    layers = Layers(algorithm, dtype)
    convolution, pooling = window(5, 1), window(2, 2)
    rows, columns = map_size("lenet", image_shape, convolution, pooling, convolution, pooling)
    return nn.Sequential(
        layers.Conv2d(image_shape[0], 20, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        layers.Conv2d(20, 50, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        layers.Linear(50 * rows * columns, 500),
        nn.ReLU(),
        layers.Linear(500, classes),
    )
